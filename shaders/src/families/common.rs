//! What kernels of several families import.

use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("common/choose"),
        source!("common/dense_bf16"),
        source!("common/dense_f16"),
        source!("common/dense_f32"),
        source!("common/guard"),
        source!("common/half"),
        source!("common/lanes_subgroup"),
        source!("common/lanes_workgroup"),
        source!("common/finite"),
        source!("common/order"),
        source!("common/reduce_subgroup"),
        source!("common/reduce_workgroup"),
        source!("common/reduce4_subgroup"),
        source!("common/reduce4_workgroup"),
        source!("common/rms"),
    ],
    kernels: &[],
};

/// A kernel whose time does not show in a token's.
pub(super) const fn cold(
    name: &'static str,
    specializations: fn() -> Vec<Specialization>,
) -> Kernel {
    Kernel {
        name,
        hot: false,
        specializations,
    }
}

/// Of a kernel without constants.
pub(super) fn plain() -> Vec<Specialization> {
    vec![Specialization::default()]
}

/// The twins of every reduction.
pub(super) const REDUCE: [&str; 2] = ["subgroup", "workgroup"];

/// How dense weights may be stored.
pub(super) const DENSE: [&str; 3] = ["f16", "bf16", "f32"];
