//! How many kernels a token takes: each depends on the one before, and waiting for it costs more than many of them compute.

use std::sync::Arc;

use half::f16;
use treillage_backend::{
    AttentionInputs, AttentionSpec, DeltaInputs, DeltaSpec, DeltaWeights, DenseData, DenseWeights,
    Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec, MoeLayer, Rope,
    RopePairing, Routing, SharedExpert, SwiGlu,
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
    packed_at(shape, 3)
}

fn packed_at(shape: LinearShape, bits: usize) -> LinearWeights {
    let tiles = [shape.in_features / 16, shape.out_features / 16, 16 * bits];
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
    Dense(Box<SwiGlu<Linear>>),
    Routed(Box<Routed>),
}

struct Routed {
    router: Linear,
    experts: Experts,
    /// An expert that sees every token, and its gate.
    shared: Option<(SwiGlu<Linear>, Linear)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Dense,
    Routed,
    /// With experts of 2, 3 and 4 bits, each linear of its own rate.
    Mixed,
    /// With an expert that sees every token, loaded by itself.
    Shared,
    /// With one that was loaded with the others.
    Stacked,
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
    fn load(gpu: &GpuBackend, kind: Kind) -> Self {
        let linear = |shape| gpu.load_linear(packed(shape), shape).unwrap();
        let (wide, narrow) = (shape(HIDDEN, INNER), shape(INNER, HIDDEN));
        let dense = |outputs| {
            let shape = shape(HIDDEN, outputs);
            let data = DenseData::F32(Arc::new(values(shape.weights())));
            let weight = DenseWeights::new(outputs, HIDDEN, data).unwrap();
            let weights = LinearWeights::Dense { weight, bias: None };
            gpu.load_linear(weights, shape).unwrap()
        };
        let expert = |expert: usize| {
            let bits = |part: usize| match kind {
                Kind::Mixed => 2 + (expert + part) % 3,
                _ => 3,
            };
            SwiGlu {
                gate: packed_at(wide, bits(0)),
                up: packed_at(wide, bits(1)),
                down: packed_at(narrow, bits(2)),
            }
        };
        let network = || SwiGlu {
            gate: linear(wide),
            up: linear(wide),
            down: linear(narrow),
        };
        let experts = (0..EXPERTS).map(expert).collect();
        let network = match kind {
            Kind::Dense => Network::Dense(Box::new(network())),
            Kind::Routed | Kind::Mixed | Kind::Shared => Network::Routed(Box::new(Routed {
                router: dense(EXPERTS),
                experts: gpu.load_experts(experts, wide).unwrap(),
                shared: matches!(kind, Kind::Shared).then(|| (network(), dense(1))),
            })),
            Kind::Stacked => {
                let loaded = gpu.load_experts_and_shared(experts, wide, expert(0), wide);
                let (experts, shared) = loaded.unwrap();
                Network::Routed(Box::new(Routed {
                    router: dense(EXPERTS),
                    experts,
                    shared: Some((shared, dense(1))),
                }))
            }
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
        let routed = match &self.network {
            Network::Dense(network) => return gpu.mlp(&x, &self.norm, network).unwrap(),
            Network::Routed(routed) => routed,
        };
        let layer = MoeLayer {
            router: &routed.router,
            correction: None,
            experts: &routed.experts,
            shared: routed.shared.as_ref().map(|(network, gate)| SharedExpert {
                network,
                gate: Some(gate),
            }),
        };
        gpu.moe(&x, &self.norm, layer, &Routing::softmax(2, true))
            .unwrap()
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
    let Some(device) = crate::support::open(Options::default()) else {
        return;
    };
    let gpu = GpuBackend::on(&device).unwrap();
    let size = shape(HIDDEN, INNER);
    let head = gpu.load_linear(packed(size), size).unwrap();
    for kind in [Kind::Routed, Kind::Mixed, Kind::Stacked, Kind::Dense] {
        let block = Block::load(&gpu, kind);
        // The norm before the head, and the head.
        assert_eq!(count(&gpu, &block, &head, 1, 0), 7 + 2);
        assert_eq!(count(&gpu, &block, &head, 3, 100), 3 * 7 + 2);
        assert_eq!(count(&gpu, &block, &head, 1, 1023), 7 + 2);
        // One more adds up the parts of a long context.
        assert_eq!(count(&gpu, &block, &head, 1, 1024), 8 + 2);
    }
    // Gate and up, and down, of an expert of all tokens that is not with the others.
    let block = Block::load(&gpu, Kind::Shared);
    assert_eq!(count(&gpu, &block, &head, 3, 0), 3 * 9 + 2);
}

/// Every step a kernel of its own, and every expert.
#[test]
fn the_plain_path_takes_a_kernel_for_everything() {
    let Some(device) = crate::support::open(Options::default()) else {
        return;
    };
    let gpu = GpuBackend::on(&device).unwrap();
    let size = shape(HIDDEN, INNER);
    let head = gpu.load_linear(packed(size), size).unwrap();
    let block = Block::load(&gpu, Kind::Routed);
    gpu.compute_plainly(true);
    // Norm, q, k, v, positions, attention, output; norm, router, top-k, gate and up of two experts, SwiGLU, down of two, the sum.
    assert_eq!(count(&gpu, &block, &head, 1, 0), 7 + 11 + 2);
    gpu.compute_plainly(false);
    assert_eq!(count(&gpu, &block, &head, 1, 0), 7 + 2);
}

#[test]
fn latents_take_three_kernels_and_states_two() {
    let Some(device) = crate::support::open(Options::default()) else {
        return;
    };
    let gpu = GpuBackend::on(&device).unwrap();
    let upload = |width: usize| gpu.upload(&values(width), width).unwrap();
    let spec = LatentSpec {
        heads: 3,
        nope_dim: 24,
        value_dim: 40,
        rank: 48,
        rope: Rope {
            dims: 16,
            ..SPEC.rope
        },
        scale: 0.2,
    };
    let shape = spec.expansion();
    let data = DenseData::F32(Arc::new(values(shape.weights())));
    let weight = DenseWeights::new(shape.out_features, shape.in_features, data).unwrap();
    let weights = LinearWeights::Dense { weight, bias: None };
    let expansion = gpu.load_expansion(weights, &spec).unwrap();
    let inputs = LatentInputs {
        q: &upload(spec.heads * spec.query_dim()),
        latent: &upload(spec.cached_width()),
        norm: &gpu.load_norm(vec![1.0; spec.rank], 1e-6).unwrap(),
    };
    let mut cache = gpu.new_cache(&MixerSpec::Latent(spec), 8).unwrap();
    let before = gpu.counts().dispatches;
    let attended = gpu.latent_attention(inputs, &expansion, &spec, &mut cache);
    assert_eq!(gpu.counts().dispatches - before, 3);
    gpu.read(&attended.unwrap()).unwrap();

    let spec = DeltaSpec {
        key_heads: 2,
        value_heads: 4,
        key_dim: 16,
        value_dim: 16,
        kernel: 4,
    };
    let weights = DeltaWeights {
        conv: values(spec.channels() * spec.kernel),
        log_rate: values(spec.value_heads),
        time_bias: values(spec.value_heads),
        norm: values(spec.value_dim),
        epsilon: 1e-6,
    };
    let rule = gpu.load_delta(weights, &spec).unwrap();
    let inputs = DeltaInputs {
        qkvz: &upload(spec.projected()),
        ba: &upload(2 * spec.value_heads),
    };
    let mut cache = gpu.new_cache(&MixerSpec::Delta(spec), 8).unwrap();
    let before = gpu.counts().dispatches;
    let given = gpu.delta_rule(inputs, &rule, &spec, &mut cache);
    assert_eq!(gpu.counts().dispatches - before, 2);
    gpu.read(&given.unwrap()).unwrap();
}
