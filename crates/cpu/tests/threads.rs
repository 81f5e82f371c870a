//! Results do not depend on the number of threads, to the bit.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first op that fails"
)]

use std::sync::Arc;

use half::f16;
use treillage_backend::{
    AttentionInputs, AttentionSpec, DeltaInputs, DeltaSpec, DeltaWeights, DenseData, DenseWeights,
    Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec, MoeLayer,
    Quantization, Rope, RopePairing, RouteWeighting, Routing, SwiGlu,
};
use treillage_cpu::{Arithmetic, CpuBackend, Options};
use treillage_gptq::{Element, GroupedLinear, Parts, Rotation, Scales};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 128;
const EXPERTS: usize = 6;
const SPEC: AttentionSpec = AttentionSpec {
    heads: 8,
    kv_heads: 2,
    head_dim: 32,
    scale: 0.2,
    rope: Rope {
        theta: 1e4,
        dims: 32,
        pairing: RopePairing::HalfSplit,
    },
    output_gate: false,
};
const LATENT: LatentSpec = LatentSpec {
    heads: 4,
    nope_dim: 48,
    value_dim: 20,
    rank: 48,
    rope: Rope {
        theta: 1e4,
        dims: 16,
        pairing: RopePairing::Interleaved,
    },
    scale: 0.2,
};
const DELTA: DeltaSpec = DeltaSpec {
    key_heads: 2,
    value_heads: 4,
    key_dim: 32,
    value_dim: 16,
    kernel: 4,
};

/// Numbers in −1..1 that look random.
fn values(count: usize, seed: usize) -> Vec<f32> {
    let hash = |i: usize| (i * 31 + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..count)
        .map(|i| hash(i) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

fn dense(out_features: usize, in_features: usize, seed: usize) -> LinearWeights {
    let data = DenseData::F32(Arc::new(values(in_features * out_features, seed)));
    LinearWeights::Dense {
        weight: DenseWeights::new(out_features, in_features, data).unwrap(),
        bias: None,
    }
}

fn packed(out_features: usize, in_features: usize, seed: usize) -> LinearWeights {
    let bits = Bits::new(3).unwrap();
    let shape = [in_features / 16, out_features / 16, bits.words_per_tile()];
    let words: Vec<u16> = values(shape.iter().product(), seed)
        .iter()
        .map(|v| (v.to_bits() >> 3) as u16)
        .collect();
    let packed = PackedLinear::new(PackedParts {
        words: Arc::new(words),
        shape,
        codebook: Codebook::Mul1,
        suh: vec![f16::from_f32(0.06); in_features],
        svh: vec![f16::ONE; out_features],
        bias: None,
    });
    LinearWeights::Trellis(Arc::new(packed.unwrap()))
}

fn grouped(out_features: usize, in_features: usize, seed: usize) -> LinearWeights {
    let codes = values(in_features * out_features / 2, seed);
    let scales = values(in_features * out_features / 16, seed + 7);
    let grouped = GroupedLinear::new(Parts {
        in_features,
        out_features,
        element: Element::E2m1,
        group: 16,
        codes: codes.iter().map(|v| (v.to_bits() >> 3) as u8).collect(),
        scales: Scales::F16(scales.iter().map(|&s| f16::from_f32(0.03 * s)).collect()),
        zeros: None,
        order: None,
        rotation: Rotation::Block(64),
        bias: None,
    });
    LinearWeights::Grouped(Arc::new(grouped.unwrap()))
}

fn shape(in_features: usize, out_features: usize) -> LinearShape {
    LinearShape {
        in_features,
        out_features,
    }
}

/// A block's ops over `tokens` tokens: everything they give, and everything watched experts gather.
fn run(tokens: usize, arithmetic: Arithmetic) -> Vec<Vec<f32>> {
    let backend = CpuBackend::new(Options {
        arithmetic,
        ..Options::default()
    });
    let norm = backend.load_norm(vec![1.0; HIDDEN], 1e-6).unwrap();
    let linear = |weights, out_features| {
        let size = shape(HIDDEN, out_features);
        backend.load_linear(weights, size).unwrap()
    };
    let q = linear(packed(256, HIDDEN, 1), 256);
    let k = linear(dense(64, HIDDEN, 2), 64);
    let v = linear(grouped(64, HIDDEN, 3), 64);
    let router = linear(dense(EXPERTS, HIDDEN, 4), EXPERTS);
    let experts = (0..EXPERTS)
        .map(|e| SwiGlu {
            gate: packed(INTERMEDIATE, HIDDEN, 10 * e),
            up: match e % 2 {
                0 => dense(INTERMEDIATE, HIDDEN, 10 * e + 1),
                _ => grouped(INTERMEDIATE, HIDDEN, 10 * e + 1),
            },
            down: match e % 3 {
                0 => packed(HIDDEN, INTERMEDIATE, 10 * e + 2),
                _ => grouped(HIDDEN, INTERMEDIATE, 10 * e + 2),
            },
        })
        .collect();
    let size = shape(HIDDEN, INTERMEDIATE);
    let mut experts = backend.load_experts(experts, size).unwrap();
    let moments = |width| [(); EXPERTS].map(|()| Some(backend.new_moments(width).unwrap()));
    let (inputs, downs) = (moments(HIDDEN), moments(INTERMEDIATE));
    backend
        .watch_experts(&mut experts, &inputs, &downs, RouteWeighting::Squared)
        .unwrap();

    let x = backend.upload(&values(tokens * HIDDEN, 5), HIDDEN).unwrap();
    let [q, k, v] = backend.norm_project(&x, &norm, [&q, &k, &v]).unwrap();
    let mut cache = backend
        .new_cache(&MixerSpec::Attention(SPEC), tokens)
        .unwrap();
    let attention = AttentionInputs {
        q: &q,
        k: &k,
        v: &v,
        q_norm: None,
        k_norm: None,
    };
    let attended = backend.attention(attention, &SPEC, &mut cache).unwrap();
    let routing = Routing::softmax(2, true);
    let layer = MoeLayer {
        router: &router,
        correction: None,
        experts: &experts,
        shared: None,
    };
    let y = backend.moe(&attended, &norm, layer, &routing).unwrap();

    let latent = LatentInputs {
        q: &q,
        latent: &k,
        norm: &backend.load_norm(vec![1.0; 48], 1e-6).unwrap(),
    };
    let weights = dense(LATENT.expansion().out_features, 48, 7);
    let expansion = backend.load_expansion(weights, &LATENT).unwrap();
    let mut cache = backend
        .new_cache(&MixerSpec::Latent(LATENT), tokens)
        .unwrap();
    let found = backend
        .latent_attention(latent, &expansion, &LATENT, &mut cache)
        .unwrap();
    let delta = DeltaInputs {
        qkvz: &q,
        ba: &backend.upload(&values(tokens * 8, 8), 8).unwrap(),
    };
    let weights = DeltaWeights {
        conv: values(DELTA.channels() * 4, 9),
        log_rate: values(4, 10),
        time_bias: values(4, 11),
        norm: vec![1.0; 16],
        epsilon: 1e-6,
    };
    let rule = backend.load_delta(weights, &DELTA).unwrap();
    let mut cache = backend.new_cache(&MixerSpec::Delta(DELTA), tokens).unwrap();
    let recurred = backend
        .delta_rule(delta, &rule, &DELTA, &mut cache)
        .unwrap();

    let mut results: Vec<Vec<f32>> = [q, k, v, attended, y, found, recurred]
        .iter()
        .map(|x| backend.read(x).unwrap())
        .collect();
    for moments in inputs.iter().chain(&downs).flatten() {
        let mean = backend.take_moments(moments).unwrap().mean();
        results.push(mean.as_slice().to_vec());
    }
    results
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let both = [Arithmetic::Exact, Arithmetic::Int8];
    for (tokens, arithmetic) in [1, 7, 300].into_iter().flat_map(|t| both.map(|a| (t, a))) {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| run(tokens, arithmetic))
        };
        let one = with(1);
        assert!(one.iter().flatten().any(|x| *x != 0.0));
        for threads in [2, 5] {
            assert_eq!(
                one,
                with(threads),
                "{tokens} tokens, {arithmetic:?}, {threads} threads"
            );
        }
    }
}
