//! From logits to a token.

use super::common::REDUCE;
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("common/first"),
        source!("common/softmax"),
        source!("sample_all"),
        source!("sample_filtered"),
        source!("sample_greedy"),
        source!("sample_histogram"),
        source!("sample_scan"),
    ],
    kernels: &[
        Kernel {
            name: "sample_scan",
            hot: true,
            specializations: fixed,
        },
        Kernel {
            name: "sample_greedy",
            hot: true,
            specializations: fixed,
        },
        Kernel {
            name: "sample_histogram",
            hot: false,
            specializations: histogram,
        },
        Kernel {
            name: "sample_all",
            hot: false,
            specializations: fixed,
        },
        Kernel {
            name: "sample_filtered",
            hot: false,
            specializations: fixed,
        },
    ],
};

fn fixed() -> Vec<Specialization> {
    vec![Specialization::new([("WG", 256)])]
}

fn histogram() -> Vec<Specialization> {
    let with = |reduce| Specialization::new([("WG", 256)]).with("REDUCE", reduce);
    REDUCE.map(with).to_vec()
}
