//! Scales that fit trellis codes best.

use super::common::REDUCE;
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("refit/normal"),
        source!("refit/outputs"),
        source!("refit/pull"),
        source!("refit/step"),
        source!("refit/times"),
        source!("refit/wanted"),
    ],
    kernels: &[
        kernel("refit/pull", plain),
        kernel("refit/normal", plain),
        kernel("refit/wanted", plain),
        kernel("refit/times", rows),
        kernel("refit/step", vectors),
        kernel("refit/outputs", rows),
    ],
};

const fn kernel(name: &'static str, specializations: fn() -> Vec<Specialization>) -> Kernel {
    Kernel {
        name,
        hot: false,
        specializations,
    }
}

fn plain() -> Vec<Specialization> {
    vec![Specialization::default()]
}

fn rows() -> Vec<Specialization> {
    reducing(64)
}

fn vectors() -> Vec<Specialization> {
    reducing(256)
}

fn reducing(lanes: u32) -> Vec<Specialization> {
    let with = |reduce| Specialization::new([("WG", lanes)]).with("REDUCE", reduce);
    REDUCE.map(with).to_vec()
}
