//! Both forms give the same.

use std::sync::Arc;

use treillage_backend::{DenseData, DenseWeights, LinearWeights, Rope, RopePairing};
use treillage_trellis::lanes::Isa;

use super::*;
use crate::backend::Arithmetic;

const SPEC: LatentSpec = LatentSpec {
    heads: 6,
    nope_dim: 24,
    value_dim: 20,
    rank: 40,
    rope: Rope {
        theta: 10_000.0,
        dims: 12,
        pairing: RopePairing::Interleaved,
    },
    scale: 0.2,
};

fn values(count: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0;
    (0..count).map(value).collect()
}

#[test]
fn absorbed_queries_find_what_expanded_ones_do() {
    let shape = SPEC.expansion();
    let data = DenseData::F32(Arc::new(values(shape.weights(), 1)));
    let weight = DenseWeights::new(shape.out_features, shape.in_features, data).unwrap();
    let weights = LinearWeights::Dense { weight, bias: None };
    let expansion = Expansion::new(weights, &SPEC).unwrap();
    let tables = RopeTables::default();
    for (past, tokens) in [
        (0, 1),
        (0, 70),
        (63, 1),
        (64, 1),
        (100, 40),
        (130, 17),
        (1200, 3),
    ] {
        let table = tables.get(SPEC.rope, past + tokens);
        let mut cache = LatentCache::new(&SPEC, past + tokens);
        let latents = values((past + tokens) * SPEC.rank, 2);
        cache.append(&latents, |key, token| {
            key.copy_from_slice(&values(12, token))
        });
        let width = SPEC.heads * SPEC.query_dim();
        let q = Tensor::new(values(tokens * width, 3), width).unwrap();
        let attention = Attention {
            compute: Compute {
                isa: Isa::best(),
                arithmetic: Arithmetic::Exact,
                plain: false,
            },
            q: &q,
            expansion: &expansion,
            cache: &cache,
            table: &table,
            past,
        };
        let (slow, fast) = (attention.expanded(), attention.absorbed());
        let largest = slow.values().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for (a, b) in slow.values().iter().zip(fast.values()) {
            assert!((a - b).abs() <= 1e-5 * largest, "{a} and {b} at {past}");
        }
    }
}

#[test]
fn few_queries_are_absorbed_and_many_are_not() {
    // GLM-4.7-Flash.
    let spec = LatentSpec {
        heads: 20,
        nope_dim: 192,
        value_dim: 256,
        rank: 512,
        rope: Rope {
            dims: 64,
            ..SPEC.rope
        },
        ..SPEC
    };
    assert!(absorbs(&spec, 1000, 1));
    assert!(absorbs(&spec, 10_000, 100));
    assert!(!absorbs(&spec, 0, 512));
    assert!(!absorbs(&spec, 10_000, 512));
}
