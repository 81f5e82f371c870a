//! Values that are not finite, on both backends: found in the layer where they begin, made up for where f32 is enough,
//! and an error where it is not.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use half::f16;
use treillage_backend::{
    AttentionInputs, AttentionSpec, DenseData, DenseWeights, Inference, LinearShape, LinearWeights,
    MixerSpec, Rope, RopePairing,
};
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_gpu::{CacheBits, GpuBackend, Options};
use treillage_model::{
    Error, GenerateOptions, Model, Weights, evaluate, evaluate::Windows, generate, text::Tokenizer,
};
use treillage_telemetry::{NanGuardCounts, Telemetry};
use treillage_trellis::{Codebook, PackedLinear, PackedParts};

/// A model of which some linears are others.
struct Edited {
    checkpoint: Checkpoint,
    edits: Vec<(&'static str, Edit)>,
}

#[derive(Clone, Copy)]
enum Edit {
    /// One weight of each row.
    One(f32),
    /// Trellis codes whose input is scaled beyond the range of halves, and back.
    Loud,
}

impl Edited {
    fn new(model: &str, edits: &[(&'static str, Edit)]) -> Self {
        Self {
            checkpoint: Checkpoint::open(fixture(model)).unwrap(),
            edits: edits.to_vec(),
        }
    }

    fn load<B: Inference>(&self, backend: &B) -> Model<B> {
        Model::load(backend, self, self.checkpoint.config()).unwrap()
    }
}

impl Weights for Edited {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        let stored = Weights::linear(&self.checkpoint, prefix, shape)?;
        let edit = self.edits.iter().find(|(name, _)| prefix.contains(name));
        let (Some((_, edit)), LinearWeights::Dense { weight, bias }) = (edit, &stored) else {
            return Ok(stored);
        };
        let Edit::One(value) = edit else {
            return Ok(LinearWeights::Trellis(Arc::new(loud(shape))));
        };
        let mut values: Vec<f32> = (0..weight.rows()).flat_map(|row| weight.row(row)).collect();
        values
            .chunks_mut(weight.cols())
            .for_each(|row| row[5] = *value);
        let data = DenseData::F32(Arc::new(values));
        Ok(LinearWeights::Dense {
            weight: DenseWeights::new(weight.rows(), weight.cols(), data)?,
            bias: bias.clone(),
        })
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        Weights::dense(&self.checkpoint, name, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Weights::vector(&self.checkpoint, name, len)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Weights::values(&self.checkpoint, name, shape)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        Weights::has_linear(&self.checkpoint, prefix)
    }
}

/// Weights like those of a layer, but for their scales: inputs times 60,000, outputs divided by as much.
fn loud(shape: LinearShape) -> PackedLinear {
    let [rows, cols] =
        [shape.in_features, shape.out_features].map(|features| features.next_multiple_of(128));
    let mut state = 1u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    let tiles = [rows / 16, cols / 16, 16 * 3];
    let words = (0..tiles.iter().product()).map(|_| next() as u16);
    PackedLinear::new(PackedParts {
        words: Arc::new(words.collect::<Vec<u16>>()),
        shape: tiles,
        codebook: Codebook::Mul1,
        suh: vec![f16::from_f32(60_000.0); rows],
        svh: vec![f16::from_f32(1e-6); cols],
        bias: None,
    })
    .unwrap()
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

fn text(model: &str, tokens: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(fixture("text/eval.txt")).unwrap();
    let tokenizer = Tokenizer::open(&fixture(model)).unwrap();
    let mut ids = tokenizer.encode(&text).unwrap();
    ids.truncate(tokens);
    ids
}

fn gpu() -> Option<GpuBackend> {
    Some(GpuBackend::on(&crate::support::open(Options::default())?).unwrap())
}

/// What a test wants of a backend besides its ops.
trait Counts: Inference {
    fn telemetry(&self) -> &Telemetry;

    fn seen(&self) -> NanGuardCounts {
        self.telemetry().counts().trellis_nan_guard
    }
}

impl Counts for CpuBackend {
    fn telemetry(&self) -> &Telemetry {
        self.telemetry()
    }
}

impl Counts for GpuBackend {
    fn telemetry(&self) -> &Telemetry {
        self.telemetry()
    }
}

/// Reads the text as one prompt, and token by token.
fn damage_is_found(backend: &impl Counts, model: &str, name: &'static str, value: f32, at: usize) {
    let edited = Edited::new(model, &[(name, Edit::One(value))]);
    let model_on = edited.load(backend);
    let ids = text(model, 60);
    for pieces in [vec![&ids[..]], ids.chunks(1).collect()] {
        backend.telemetry().reset();
        let mut session = model_on.session(backend, ids.len()).unwrap();
        let read = pieces
            .into_iter()
            .try_for_each(|piece| session.extend(piece).map(drop));
        let error = match read {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{model}, {name}: nothing found"),
        };
        let what = format!("{model}, {name}: {error}");
        assert!(
            error.starts_with(&format!("a value in layer {at}")),
            "{what}"
        );
        assert!(error.ends_with("is not finite"), "{what}");
        let seen = backend.seen();
        assert_eq!(
            (seen.total_failures, seen.total_recoveries),
            (1, 0),
            "{what}"
        );
        assert_eq!(seen.most_affected_layer, Some(at), "{what}");
        assert_eq!(seen.sample_triggering_inputs.len(), 1, "{what}");
    }
}

const DAMAGE: &[(&str, &str, f32, usize)] = &[
    (
        "micro-qwen3_moe",
        "layers.0.mlp.experts.3.down_proj",
        f32::NAN,
        0,
    ),
    (
        "micro-qwen3_moe",
        "layers.0.mlp.experts.5.gate_proj",
        f32::NAN,
        0,
    ),
    (
        "micro-qwen3_moe",
        "layers.0.self_attn.o_proj",
        f32::INFINITY,
        0,
    ),
    ("micro-qwen3_moe", "layers.1.self_attn.k_proj", f32::NAN, 1),
    ("micro-qwen3_moe", "layers.1.mlp.gate", f32::NAN, 1),
    // A dense network's result is read by the layer after it.
    ("micro-glm4_moe_lite", "layers.0.mlp.down_proj", f32::NAN, 0),
    (
        "micro-glm4_moe_lite",
        "layers.1.mlp.shared_experts.up_proj",
        f32::NAN,
        1,
    ),
    (
        "micro-glm4_moe_lite",
        "layers.2.self_attn.kv_a_proj_with_mqa",
        f32::NAN,
        2,
    ),
    (
        "micro-qwen3_next",
        "layers.0.linear_attn.in_proj_qkvz",
        f32::NAN,
        0,
    ),
    (
        "micro-qwen3_next",
        "layers.1.linear_attn.out_proj",
        f32::NEG_INFINITY,
        1,
    ),
];

#[test]
fn a_damaged_weight_is_found_in_its_layer_on_the_cpu() {
    for &(model, name, value, at) in DAMAGE {
        damage_is_found(&CpuBackend::default(), model, name, value, at);
    }
}

#[test]
fn a_damaged_weight_is_found_in_its_layer_on_the_device() {
    let Some(gpu) = gpu() else { return };
    for &(model, name, value, at) in DAMAGE {
        damage_is_found(&gpu, model, name, value, at);
    }
}

/// A prompt overflows halves in layer 1; token by token nothing does.
#[test]
fn what_overflows_halves_is_made_up_for() {
    let Some(gpu) = gpu() else { return };
    let cpu = CpuBackend::default();
    let name = "micro-qwen3_moe";
    let edited = Edited::new(name, &[("layers.1.self_attn.o_proj", Edit::Loud)]);
    let (on_gpu, on_cpu) = (edited.load(&gpu), edited.load(&cpu));
    let tokenizer = Tokenizer::open(&fixture(name)).unwrap();
    let ids = text(name, 40);
    let options = GenerateOptions {
        max_tokens: 6,
        ..GenerateOptions::default()
    };
    let mut silent = |_: &str| ControlFlow::Continue(());

    // The token that fails is read when the next is on its way already.
    let mut session = on_gpu.session(&gpu, 64).unwrap();
    let found = generate(&mut session, &tokenizer, &ids, &options, &mut silent).unwrap();
    let mut session = on_cpu.session(&cpu, 64).unwrap();
    let expected = generate(&mut session, &tokenizer, &ids, &options, &mut silent).unwrap();
    assert_eq!(found.ids, expected.ids);
    let seen = gpu.seen();
    assert_eq!((seen.total_failures, seen.total_recoveries), (1, 1));
    assert_eq!(
        (seen.layers_affected, seen.most_affected_layer),
        (1, Some(1))
    );

    // All logits are finite, and those of the CPU.
    let mut session = on_gpu.session(&gpu, 64).unwrap();
    let mut reference = on_cpu.session(&cpu, 64).unwrap();
    let (found, expected) = (
        session.extend(&ids).unwrap(),
        reference.extend(&ids).unwrap(),
    );
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() < 1e-2 * largest,
            "{found} for {expected}"
        );
    }
    let windows = Windows {
        length: 40,
        limit: None,
    };
    let judged =
        evaluate::compare(&mut session, &mut reference, &ids, windows, &mut |_| ()).unwrap();
    assert!(judged.kl_divergence.abs() < 1e-4, "{judged:?}");
    let seen = gpu.seen();
    assert_eq!((seen.total_failures, seen.total_recoveries), (3, 3));
    assert_eq!(cpu.seen(), NanGuardCounts::default());
}

fn a_cache_with_nonsense_is_found(backend: &impl Counts) {
    let spec = AttentionSpec {
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        scale: 0.125,
        rope: Rope {
            theta: 1e4,
            dims: 64,
            pairing: RopePairing::HalfSplit,
        },
        output_gate: false,
    };
    let norm = backend.load_norm(vec![1.0; 128], 1e-6).unwrap();
    let data = DenseData::F32(Arc::new(vec![0.5; 8 * 128]));
    let weight = DenseWeights::new(8, 128, data).unwrap();
    let shape = LinearShape {
        in_features: 128,
        out_features: 8,
    };
    let linear = LinearWeights::Dense { weight, bias: None };
    let linear = backend.load_linear(linear, shape).unwrap();
    let upload = |value: f32, width| backend.upload(&vec![value; width], width).unwrap();
    let mut cache = backend.new_cache(&MixerSpec::Attention(spec), 8).unwrap();
    let mut attend = |v: f32| {
        let (q, k, v) = (upload(0.5, 128), upload(0.5, 64), upload(v, 64));
        let inputs = AttentionInputs {
            q: &q,
            k: &k,
            v: &v,
            q_norm: None,
            k_norm: None,
        };
        backend.attention(inputs, &spec, &mut cache).unwrap()
    };
    attend(f32::NAN);
    // This token is as it should be.
    let heads = attend(1.0);
    backend.enter_block(6);
    let out = backend.norm_project(&heads, &norm, [&linear]);
    let error = out.and_then(|[out]| backend.read(&out)).unwrap_err();
    assert!(error.is_not_finite(), "{error}");
    assert!(error.to_string().contains("layer 6"), "{error}");
    assert_eq!(backend.seen().total_failures, 1);
}

#[test]
fn nonsense_in_a_cache_is_found_by_the_next_token() {
    a_cache_with_nonsense_is_found(&CpuBackend::default());
    for cache_bits in [CacheBits::Sixteen, CacheBits::Eight] {
        let options = Options {
            cache_bits,
            ..Options::default()
        };
        if let Some(gpu) = crate::support::open(options) {
            a_cache_with_nonsense_is_found(&GpuBackend::on(&gpu).unwrap());
        }
    }
}
