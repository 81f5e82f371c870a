//! A job that "quantizes" the fixture with arbitrary words: everything of the real one but the arithmetic.

use std::{path::Path, sync::Arc};

use half::f16;
use treillage_checkpoint::{Checkpoint, DenseTensor, Exl3Settings, Exl3Writer, Module, Result};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

/// A linear whose words depend on `seed` alone.
pub(crate) fn packed(
    [rows, cols]: [usize; 2],
    bits: usize,
    codebook: Codebook,
    seed: usize,
) -> PackedLinear {
    let words_per_tile = Bits::new(bits).unwrap().words_per_tile();
    let shape = [rows / 16, cols / 16, words_per_tile];
    let words: Vec<u16> = (0..shape.iter().product())
        .map(|e: usize| ((e + seed) * 40503 + 12345) as u16)
        .collect();
    let scale = |n| {
        (0..n)
            .map(|i| f16::from_f32(0.5 + (i % 7) as f32))
            .collect()
    };
    PackedLinear::new(PackedParts {
        words: Arc::new(words),
        shape,
        codebook,
        suh: scale(rows),
        svh: scale(cols),
        bias: None,
    })
    .unwrap()
}

pub(crate) const GROUPS: [&str; 4] = ["embedding", "model.layers.0", "model.layers.1", "head"];

/// Tensors of `source` that belong to `group`.
fn names<'a>(source: &'a Checkpoint, group: &'a str) -> impl Iterator<Item = &'a str> {
    source.names().filter(move |name| match group {
        "embedding" => name.starts_with("model.embed_tokens."),
        "head" => name.starts_with("lm_head.") || name.starts_with("model.norm."),
        block => name.starts_with(&format!("{block}.")),
    })
}

/// Bits of a linear: three for the experts, the head's six, four for the rest.
pub(crate) fn bits(prefix: &str) -> usize {
    match prefix {
        "lm_head" => 6,
        expert if expert.contains(".experts.") => 3,
        _ => 4,
    }
}

/// Whether the tensor is the weight of a linear that gets quantized.
pub(crate) fn quantized(name: &str) -> Option<&str> {
    let prefix = name
        .strip_suffix("_proj.weight")
        .map(|p| &name[..p.len() + 5]);
    prefix.or((name == "lm_head.weight").then_some("lm_head"))
}

pub(crate) fn write_group(writer: &Exl3Writer, source: &Checkpoint, group: &str) -> Result<()> {
    let linears: Vec<(&str, PackedLinear)> = names(source, group)
        .filter_map(quantized)
        .map(|prefix| {
            let view = source.tensor(&format!("{prefix}.weight")).unwrap();
            let [rows, cols] = [view.shape()[1], view.shape()[0]];
            let linear = packed([rows, cols], bits(prefix), Codebook::Mul1, prefix.len());
            (prefix, linear)
        })
        .collect();
    let dense: Vec<DenseTensor> = names(source, group)
        .filter(|name| quantized(name).is_none())
        .map(|name| source.dense(name).unwrap())
        .collect();
    let mut modules: Vec<Module<'_>> = linears
        .iter()
        .map(|(name, linear)| Module::Trellis { name, linear })
        .collect();
    modules.extend(dense.iter().map(
        |tensor| match tensor.name().strip_suffix(".mlp.gate.weight") {
            Some(_) => Module::Linear {
                name: tensor.name().trim_end_matches(".weight"),
                weight: tensor,
                bias: None,
            },
            None => Module::Tensor(tensor),
        },
    ));
    writer.write_group(group, &modules)
}

pub(crate) fn settings() -> Exl3Settings {
    Exl3Settings {
        calibration_rows: 4,
        calibration_cols: 128,
        ..Exl3Settings::default()
    }
}

pub(crate) fn open(out: &Path, settings: Exl3Settings) -> Result<Exl3Writer> {
    Exl3Writer::create_or_resume(out, settings, GROUPS.map(String::from).to_vec())
}

/// The whole job, from wherever it stands.
pub(crate) fn run(out: &Path, settings: Exl3Settings, source: &Checkpoint) -> Result<()> {
    let writer = open(out, settings)?;
    let pending: Vec<_> = writer.pending().map(str::to_owned).collect();
    for group in &pending {
        write_group(&writer, source, group)?;
    }
    writer.finish(source)
}
