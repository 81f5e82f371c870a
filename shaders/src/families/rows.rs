//! Rows by number: embeddings, gathering, and adding up what experts made.

use super::{
    common::{DENSE, REDUCE},
    elementwise::sizes,
};
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("embed"),
        source!("gather_rows"),
        source!("combine_experts"),
        source!("combine_norm"),
        source!("resize_pieces"),
    ],
    kernels: &[
        Kernel {
            name: "embed",
            hot: true,
            specializations: embed,
        },
        Kernel {
            name: "gather_rows",
            hot: true,
            specializations: sizes,
        },
        Kernel {
            name: "combine_experts",
            hot: true,
            specializations: combine_experts,
        },
        Kernel {
            name: "combine_norm",
            hot: true,
            specializations: combine_norm,
        },
        Kernel {
            name: "resize_pieces",
            hot: false,
            specializations: sizes,
        },
    ],
};

fn embed() -> Vec<Specialization> {
    let with = |format| Specialization::new([("WG", 256)]).with("FORMAT", format);
    DENSE.map(with).to_vec()
}

fn combine_experts() -> Vec<Specialization> {
    let with = |(places, shared)| {
        Specialization::new([("WG", 256)])
            .with("PLACES", places)
            .with("SHARED", shared)
    };
    [(false, false), (true, false), (true, true)]
        .map(with)
        .to_vec()
}

fn combine_norm() -> Vec<Specialization> {
    let with = |(top_k, fours, places, shared, reduce)| {
        Specialization::new([("WG", 256), ("TOP_K", top_k), ("FOURS_UP", fours)])
            .with("PLACES", places)
            .with("SHARED", shared)
            .with("REDUCE", reduce)
    };
    let [subgroup, workgroup] = REDUCE;
    [
        with((8, 2, false, false, subgroup)),
        with((2, 1, false, false, workgroup)),
        with((4, 3, true, false, subgroup)),
        with((2, 1, false, true, subgroup)),
    ]
    .to_vec()
}
