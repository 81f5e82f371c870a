//! Rows by number: embeddings, gathering, and adding up what experts made.

use super::{common::DENSE, elementwise::sizes};
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("embed"),
        source!("gather_rows"),
        source!("combine_experts"),
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
    let with = |places| Specialization::new([("WG", 256)]).with("PLACES", places);
    [false, true].map(with).to_vec()
}
