//! What kernels of several families import.

use crate::registry::{Family, source};

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

/// The twins of every reduction.
pub(super) const REDUCE: [&str; 2] = ["subgroup", "workgroup"];

/// How dense weights may be stored.
pub(super) const DENSE: [&str; 3] = ["f16", "bf16", "f32"];
