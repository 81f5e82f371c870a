//! What makes trellis codes of weights.

use super::common::{cold, plain};
use crate::{
    Specialization,
    encode::{EncodeMetric, TrellisEncode},
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("encode/errors"),
        source!("encode/feedback"),
        source!("encode/numbers_half"),
        source!("encode/numbers_single"),
        source!("encode/place"),
        source!("encode/trellis"),
    ],
    kernels: &[
        cold(TrellisEncode::SOURCE, trellis),
        cold("encode/feedback", plain),
        cold("encode/errors", plain),
    ],
};

fn trellis() -> Vec<Specialization> {
    let mut kernels = Vec::new();
    for bits in 1..=8 {
        let (metrics, most): (&[_], _) = match bits {
            1..=4 => (&[EncodeMetric::Whole, EncodeMetric::Halves], 512),
            _ => (&[EncodeMetric::Single], 256),
        };
        for &metric in metrics {
            for (lanes, shown) in [(256, 2048), (256, 4096), (512, 4096)] {
                let kernel = TrellisEncode {
                    bits,
                    metric,
                    lanes,
                    shown,
                };
                // What all devices have.
                if lanes <= most && kernel.workgroup_bytes() <= 32 << 10 {
                    kernels.push(kernel);
                }
            }
        }
    }
    kernels.iter().map(TrellisEncode::specialization).collect()
}
