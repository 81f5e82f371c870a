//! What makes trellis codes of weights.

use crate::{
    Kernel, Specialization,
    encode::TrellisEncode,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("encode/errors"),
        source!("encode/feedback"),
        source!("encode/metric_exact"),
        source!("encode/metric_tagged"),
        source!("encode/place"),
        source!("encode/trellis"),
    ],
    kernels: &[
        Kernel {
            name: TrellisEncode::SOURCE,
            hot: false,
            specializations: trellis,
        },
        Kernel {
            name: "encode/feedback",
            hot: false,
            specializations: plain,
        },
        Kernel {
            name: "encode/errors",
            hot: false,
            specializations: plain,
        },
    ],
};

fn plain() -> Vec<Specialization> {
    vec![Specialization::default()]
}

fn trellis() -> Vec<Specialization> {
    let first = TrellisEncode {
        bits: 3,
        lanes: 512,
        shown: 8192,
    };
    let mut kernels: Vec<_> = (1..=8)
        .map(|bits| TrellisEncode { bits, ..first })
        .collect();
    for bits in [1, 2, 3, 4, 5] {
        kernels.extend(
            [(256, 4096), (1024, 8192)].map(|(lanes, shown)| TrellisEncode { bits, lanes, shown }),
        );
    }
    kernels.iter().map(TrellisEncode::specialization).collect()
}
