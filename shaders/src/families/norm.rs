//! Norms and rotations of rows.

use super::common::REDUCE;
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("rms_norm"),
        source!("hadamard"),
        source!("common/scale_input"),
        source!("common/scale_none"),
        source!("common/scale_output"),
    ],
    kernels: &[
        Kernel {
            name: "rms_norm",
            hot: true,
            specializations: rms_norm,
        },
        Kernel {
            name: "hadamard",
            hot: true,
            specializations: hadamard,
        },
    ],
};

fn rms_norm() -> Vec<Specialization> {
    let with = |reduce| Specialization::new([("WG", 256)]).with("REDUCE", reduce);
    REDUCE.map(with).to_vec()
}

fn hadamard() -> Vec<Specialization> {
    let with = |(side, block)| {
        Specialization::new([("WG", 64)])
            .with("BLOCK", block)
            .with("SIDE", side)
    };
    let mut all = vec![with(("input", 128)), with(("output", 128))];
    all.extend([16, 32, 64, 128, 256].map(|block| with(("none", block))));
    all
}
