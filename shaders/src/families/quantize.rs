//! Group quantization with error feedback (MR-GPTQ): second moments, the factor, scales, the sweep.

use crate::{
    Kernel, Specialization,
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
        kernel("quantize/syrk", plain),
        kernel("quantize/transpose", plain),
        kernel("quantize/order", plain),
        kernel("quantize/gather", plain),
        kernel("quantize/panel", plain),
        kernel("quantize/update", plain),
        kernel("quantize/largest", plain),
        kernel("quantize/scales", scales),
        kernel("quantize/sweep", sweep),
        kernel("quantize/feedback", plain),
        kernel("quantize/pack", plain),
        kernel("quantize/energy", energy),
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
