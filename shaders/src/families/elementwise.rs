//! Values in, one value out.

use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[source!("add"), source!("swiglu")],
    kernels: &[
        Kernel {
            name: "add",
            hot: true,
            specializations: sizes,
        },
        Kernel {
            name: "swiglu",
            hot: true,
            specializations: sizes,
        },
    ],
};

/// The usual workgroup and a small one.
pub(super) fn sizes() -> Vec<Specialization> {
    [256, 64]
        .map(|size| Specialization::new([("WG", size)]))
        .to_vec()
}
