//! How many kernels a token takes: each depends on the one before, and waiting for it costs more than many of them compute.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

mod support;

use std::sync::Arc;

use half::f16;
use treillage_backend::{
    AttentionInputs, AttentionSpec, DenseData, DenseWeights, Inference, LinearShape, LinearWeights,
    MixerSpec, MoeLayer, Rope, RopePairing, Routing, SwiGlu,
};
use treillage_gpu::{Activations, Cache, Experts, GpuBackend, Norm, Options, linear::Linear};
use treillage_trellis::{Codebook, PackedLinear, PackedParts};

const HIDDEN: usize = 256;
const INNER: usize = 128;
const EXPERTS: usize = 6;
const SPEC: AttentionSpec = AttentionSpec {
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    scale: 0.125,
    rope: Rope {
        theta: 1e4,
        dims: 64,
        pairing: RopePairing::HalfSplit,
    },
    output_gate: false,
};

const fn shape(in_features: usize, out_features: usize) -> LinearShape {
    LinearShape {
        in_features,
        out_features,
    }
}

fn packed(shape: LinearShape) -> LinearWeights {
    let tiles = [shape.in_features / 16, shape.out_features / 16, 48];
    let words: Vec<u16> = (0..tiles.iter().product::<usize>())
        .map(|i| (i * 40_503) as u16)
        .collect();
    let ones = |count| vec![f16::from_f32(0.05); count];
    let packed = PackedLinear::new(PackedParts {
        words: Arc::new(words),
        shape: tiles,
        codebook: Codebook::Mul1,
        suh: ones(shape.in_features),
        svh: ones(shape.out_features),
        bias: None,
    });
    LinearWeights::Trellis(Arc::new(packed.unwrap()))
}

fn values(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919) % 13) as f32 / 13.0 - 0.5)
        .collect()
}

/// What feeds forward in a block.
enum Network {
    Dense(SwiGlu<Linear>),
    Routed(Linear, Experts),
}

/// A block whose linears are packed.
struct Block {
    norm: Norm,
    head_norm: Norm,
    qkv: [Linear; 3],
    output: Linear,
    network: Network,
}

impl Block {
    fn load(gpu: &GpuBackend, routed: bool) -> Self {
        let linear = |shape| gpu.load_linear(packed(shape), shape).unwrap();
        let (wide, narrow) = (shape(HIDDEN, INNER), shape(INNER, HIDDEN));
        let network = if routed {
            let router = shape(HIDDEN, EXPERTS);
            let data = DenseData::F32(Arc::new(values(router.weights())));
            let weight = DenseWeights::new(EXPERTS, HIDDEN, data).unwrap();
            let weights = LinearWeights::Dense { weight, bias: None };
            let expert = SwiGlu {
                gate: packed(wide),
                up: packed(wide),
                down: packed(narrow),
            };
            Network::Routed(
                gpu.load_linear(weights, router).unwrap(),
                gpu.load_experts(vec![expert; EXPERTS], wide).unwrap(),
            )
        } else {
            Network::Dense(SwiGlu {
                gate: linear(wide),
                up: linear(wide),
                down: linear(narrow),
            })
        };
        Self {
            norm: gpu.load_norm(vec![1.0; HIDDEN], 1e-6).unwrap(),
            head_norm: gpu.load_norm(vec![1.0; SPEC.head_dim], 1e-6).unwrap(),
            qkv: [
                linear(shape(HIDDEN, HIDDEN)),
                linear(shape(HIDDEN, INNER)),
                linear(shape(HIDDEN, INNER)),
            ],
            output: linear(shape(HIDDEN, HIDDEN)),
            network,
        }
    }

    fn forward(&self, gpu: &GpuBackend, x: &Activations, cache: &mut Cache) -> Activations {
        let [q, k, v] = &self.qkv;
        let [q, k, v] = gpu.norm_project(x, &self.norm, [q, k, v]).unwrap();
        let inputs = AttentionInputs {
            q: &q,
            k: &k,
            v: &v,
            q_norm: Some(&self.head_norm),
            k_norm: Some(&self.head_norm),
        };
        let heads = gpu.attention(inputs, &SPEC, cache).unwrap();
        let x = gpu.project_add(&heads, &self.output, x).unwrap();
        match &self.network {
            Network::Dense(network) => gpu.mlp(&x, &self.norm, network).unwrap(),
            Network::Routed(router, experts) => {
                let layer = MoeLayer {
                    router,
                    correction: None,
                    experts,
                    shared: None,
                };
                gpu.moe(&x, &self.norm, layer, &Routing::softmax(2, true))
                    .unwrap()
            }
        }
    }
}

/// Kernels of one token through `blocks` blocks and a head, with `before` tokens in the cache.
fn count(gpu: &GpuBackend, block: &Block, head: &Linear, blocks: usize, before: usize) -> u64 {
    let mut caches: Vec<Cache> = (0..blocks)
        .map(|_| {
            gpu.new_cache(&MixerSpec::Attention(SPEC), before + 1)
                .unwrap()
        })
        .collect();
    let mut run = |rows: usize| {
        let mut x = gpu.upload(&values(rows * HIDDEN), HIDDEN).unwrap();
        let start = gpu.counts().dispatches;
        for cache in &mut caches {
            x = block.forward(gpu, &x, cache);
        }
        let x = gpu.select_rows(&x, &[rows - 1]).unwrap();
        let [logits] = gpu.norm_project(&x, &block.norm, [head]).unwrap();
        let dispatches = gpu.counts().dispatches - start;
        assert!(gpu.read(&logits).unwrap().iter().all(|y| y.is_finite()));
        dispatches
    };
    if before > 0 {
        run(before);
    }
    run(1)
}

#[test]
fn a_token_takes_seven_kernels_a_block() {
    let Some(device) = support::open(Options::default()) else {
        return;
    };
    let gpu = GpuBackend::on(&device).unwrap();
    let size = shape(HIDDEN, INNER);
    let head = gpu.load_linear(packed(size), size).unwrap();
    for routed in [true, false] {
        let block = Block::load(&gpu, routed);
        // The norm before the head, and the head.
        assert_eq!(count(&gpu, &block, &head, 1, 0), 7 + 2);
        assert_eq!(count(&gpu, &block, &head, 3, 100), 3 * 7 + 2);
        assert_eq!(count(&gpu, &block, &head, 1, 1023), 7 + 2);
        // One more adds up the parts of a long context.
        assert_eq!(count(&gpu, &block, &head, 1, 1024), 8 + 2);
    }
}
