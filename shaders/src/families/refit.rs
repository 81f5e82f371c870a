//! Scales that fit trellis codes best.

use super::common::{REDUCE, cold, plain};
use crate::{
    Specialization,
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
        cold("refit/pull", plain),
        cold("refit/normal", plain),
        cold("refit/wanted", plain),
        cold("refit/times", rows),
        cold("refit/step", vectors),
        cold("refit/outputs", rows),
    ],
};

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
