//! Heads: norms, positions, the cache, attention.

use super::{common::REDUCE, elementwise::sizes};
use crate::{
    Kernel, Specialization,
    registry::{Family, source},
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("attention_combine"),
        source!("attention_decode"),
        source!("attention_prefill"),
        source!("attention_step"),
        source!("gate_heads"),
        source!("common/attend_split"),
        source!("common/cache_f16"),
        source!("common/cache_i8"),
        source!("common/pairing_half_split"),
        source!("common/pairing_interleaved"),
        source!("rope_append"),
    ],
    kernels: &[
        Kernel {
            name: "rope_append",
            hot: true,
            specializations: rope_append,
        },
        Kernel {
            name: "attention_decode",
            hot: true,
            specializations: attention_decode,
        },
        Kernel {
            name: "attention_step",
            hot: true,
            specializations: attention_step,
        },
        Kernel {
            name: "attention_combine",
            hot: true,
            specializations: attention_combine,
        },
        Kernel {
            name: "attention_prefill",
            hot: true,
            specializations: attention_prefill,
        },
        Kernel {
            name: "gate_heads",
            hot: true,
            specializations: sizes,
        },
    ],
};

/// Widths of heads, the most common first.
const HEAD_DIMS: [u32; 3] = [128, 64, 256];

fn rope_append() -> Vec<Specialization> {
    let mut all = Vec::new();
    for reduce in REDUCE {
        for head_dim in HEAD_DIMS {
            for (norm, pairing, gated, cache) in [
                (true, "half_split", false, "f16"),
                (false, "interleaved", true, "f16"),
                (true, "half_split", false, "i8"),
            ] {
                all.push(
                    Specialization::new([("HEAD_DIM", head_dim), ("WG", head_dim / 2)])
                        .with("NORM", norm)
                        .with("PAIRING", pairing)
                        .with("GATED", gated)
                        .with("CACHE", cache)
                        .with("REDUCE", reduce),
                );
            }
        }
    }
    all
}

/// Sizes and twins of a split context; each is a long compilation, so not all with all.
fn split(shapes: &[(u32, u32, u32, &'static str, &'static str)]) -> Vec<Specialization> {
    let with =
        |&(head_dim, group, size, cache, reduce): &(u32, u32, u32, &'static str, &'static str)| {
            Specialization::new([("HEAD_DIM", head_dim), ("GROUP", group), ("WG", size)])
                .with("CACHE", cache)
                .with("REDUCE", reduce)
        };
    shapes.iter().map(with).collect()
}

fn attention_decode() -> Vec<Specialization> {
    split(&[
        (128, 8, 128, "f16", "subgroup"),
        (128, 4, 64, "f16", "subgroup"),
        (64, 7, 128, "f16", "subgroup"),
        (64, 1, 64, "f16", "workgroup"),
        (256, 8, 64, "f16", "subgroup"),
        (128, 16, 64, "f16", "workgroup"),
        (128, 8, 128, "i8", "subgroup"),
        (64, 3, 64, "i8", "workgroup"),
    ])
}

fn attention_step() -> Vec<Specialization> {
    let shapes = split(&[
        (128, 8, 128, "f16", "subgroup"),
        (64, 7, 128, "f16", "workgroup"),
        (256, 2, 64, "f16", "subgroup"),
        (64, 7, 128, "i8", "workgroup"),
        (128, 4, 128, "i8", "subgroup"),
    ]);
    let twins = [
        (true, "half_split", false),
        (false, "interleaved", false),
        (true, "half_split", true),
    ];
    let with = |(shape, (norm, pairing, gated)): (Specialization, (bool, &str, bool))| {
        shape
            .with("NORM", norm)
            .with("PAIRING", pairing)
            .with("GATED", gated)
    };
    let all = shapes.into_iter().zip(twins.into_iter().cycle());
    all.map(with).collect()
}

fn attention_combine() -> Vec<Specialization> {
    HEAD_DIMS
        .into_iter()
        .zip([false, false, true])
        .map(|(head_dim, gated)| Specialization::new([("HEAD_DIM", head_dim)]).with("GATED", gated))
        .collect()
}

fn attention_prefill() -> Vec<Specialization> {
    let with = |(head_dim, group, cache)| {
        Specialization::new([("HEAD_DIM", head_dim), ("GROUP", group)]).with("CACHE", cache)
    };
    [
        (128, 8, "f16"),
        (128, 4, "f16"),
        (64, 7, "f16"),
        (256, 1, "f16"),
        (128, 8, "i8"),
        (64, 3, "i8"),
    ]
    .map(with)
    .to_vec()
}
