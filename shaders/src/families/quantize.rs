//! Group quantization with error feedback (MR-GPTQ): second moments, the factor, scales, the sweep.

use super::common::{cold, plain};
use crate::{
    Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("quantize/energy"),
        source!("quantize/feedback"),
        source!("quantize/gather"),
        source!("quantize/grid_e2m1"),
        source!("quantize/grid_int"),
        source!("quantize/ladder_bf16"),
        source!("quantize/ladder_e4m3"),
        source!("quantize/ladder_e8m0"),
        source!("quantize/ladder_f16"),
        source!("quantize/largest"),
        source!("quantize/lower"),
        source!("quantize/order"),
        source!("quantize/pack"),
        source!("quantize/panel"),
        source!("quantize/product"),
        source!("quantize/scales"),
        source!("quantize/sweep"),
        source!("quantize/syrk"),
        source!("quantize/transpose"),
        source!("quantize/update"),
    ],
    kernels: &[
        cold("quantize/syrk", plain),
        cold("quantize/transpose", plain),
        cold("quantize/order", plain),
        cold("quantize/gather", plain),
        cold("quantize/panel", plain),
        cold("quantize/update", plain),
        cold("quantize/largest", plain),
        cold("quantize/scales", scales),
        cold("quantize/sweep", sweep),
        cold("quantize/feedback", plain),
        cold("quantize/pack", plain),
        cold("quantize/energy", energy),
    ],
};

/// Lanes of a product's tile.
fn energy() -> Vec<Specialization> {
    vec![Specialization::new([("WG", 256)])]
}

fn sweep() -> Vec<Specialization> {
    ["int", "e2m1"]
        .map(|grid| Specialization::new([("GRID", grid)]))
        .to_vec()
}

fn scales() -> Vec<Specialization> {
    [
        ("int", "f16"),
        ("int", "bf16"),
        ("e2m1", "f16"),
        ("e2m1", "bf16"),
        ("e2m1", "e4m3"),
        ("e2m1", "e8m0"),
    ]
    .map(|(grid, ladder)| Specialization::new([("GRID", grid), ("LADDER", ladder)]))
    .to_vec()
}
