//! The gated delta rule: what comes before it, and itself.

use super::common::REDUCE;
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[source!("delta_prepare"), source!("delta_rule")],
    kernels: &[
        Kernel {
            name: "delta_prepare",
            hot: true,
            specializations: prepare,
        },
        Kernel {
            name: "delta_rule",
            hot: true,
            specializations: rule,
        },
    ],
};

fn prepare() -> Vec<Specialization> {
    REDUCE
        .map(|reduce| Specialization::new([("WG", 128)]).with("REDUCE", reduce))
        .to_vec()
}

fn rule() -> Vec<Specialization> {
    [(128, 128, 256), (20, 12, 256), (40, 64, 64)]
        .map(|(key_dim, value_dim, size)| {
            Specialization::new([("KEY_DIM", key_dim), ("VALUE_DIM", value_dim)]).with("WG", size)
        })
        .to_vec()
}
