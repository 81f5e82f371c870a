//! Blocks as wide as those of GLM-4.7-Flash and Qwen3-Coder-Next, random, in the published layout: names, shapes, types, both
//! spellings of the configuration, and layers for multi-token prediction, which nobody runs.
//!
//! There are fewer of everything that is there many times: two layers, 12 and 16 experts, a vocabulary of 4,096. Integers are
//! made with error feedback. Trellis codes of so many weights take a CPU minutes, so a GPU makes them; where there is none, a
//! stub does, and then what is tested of them is that all widths fit.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use half::bf16;
use serde_json::{Map, Value, json};
use tempfile::tempdir;
use treillage_backend::Quantization;
use treillage_checkpoint::{Checkpoint, ModelConfig, StoredLinear};
use treillage_cpu::CpuBackend;
use treillage_gptq::{Format, IntBits, Rotation, ScaleRule};
use treillage_gpu::{Adapters, GpuBackend};
use treillage_model::{
    Model,
    evaluate::{Windows, deviation, perplexity},
};
use treillage_quantize::{
    AllocationRule, CalibrationTokens, GptqOptions, HeadBits, Options, RotationRule,
    TrellisOptions, quantize,
};

use crate::support::stub::Stub;

const VOCABULARY: usize = 4096;
const HIDDEN: usize = 2048;

/// Names and shapes of a checkpoint.
#[derive(Default)]
struct Layout(Vec<(String, Vec<usize>)>);

impl Layout {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }

    fn norms(&mut self, prefix: &str) {
        self.add(&format!("{prefix}.input_layernorm.weight"), &[HIDDEN]);
        self.add(
            &format!("{prefix}.post_attention_layernorm.weight"),
            &[HIDDEN],
        );
    }

    fn swiglu(&mut self, prefix: &str, inner: usize) {
        self.add(&format!("{prefix}.gate_proj.weight"), &[inner, HIDDEN]);
        self.add(&format!("{prefix}.up_proj.weight"), &[inner, HIDDEN]);
        self.add(&format!("{prefix}.down_proj.weight"), &[HIDDEN, inner]);
    }

    fn ends(&mut self) {
        self.add("model.embed_tokens.weight", &[VOCABULARY, HIDDEN]);
        self.add("model.norm.weight", &[HIDDEN]);
        self.add("lm_head.weight", &[VOCABULARY, HIDDEN]);
    }

    /// Writes random values of about the size that keeps activations as they are. `centre` is that of norms.
    fn write(&self, dir: &Path, config: &Value, centre: f32) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let (mut header, mut end) = (Map::new(), 0);
        for (name, shape) in &self.0 {
            let (dtype, size) = match name.ends_with("e_score_correction_bias") {
                true => ("F32", 4),
                false => ("BF16", 2),
            };
            let begin = end;
            end += size * shape.iter().product::<usize>();
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
            );
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
        file.write_all(&(header.len() as u64).to_le_bytes())
            .unwrap();
        file.write_all(&header).unwrap();
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for (name, shape) in &self.0 {
            let (centre, width) = match shape[..] {
                [_] if name.contains("norm") => (centre, 0.1),
                [_] => (0.0, 0.5),
                _ => (0.0, (3.0 / shape[shape.len() - 1] as f32).sqrt()),
            };
            let count = shape.iter().product::<usize>();
            let mut bytes = Vec::with_capacity(4 * count);
            for _ in 0..count {
                // Xorshift (Marsaglia, 2003).
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let value = centre + width * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
                match name.ends_with("e_score_correction_bias") {
                    true => bytes.extend(value.to_le_bytes()),
                    false => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                }
            }
            file.write_all(&bytes).unwrap();
        }
        file.flush().unwrap();
    }
}

/// The fields that both spellings share.
fn common(class: &str, model_type: &str) -> Value {
    json!({
        "architectures": [class],
        "model_type": model_type,
        "attention_bias": false,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "vocab_size": VOCABULARY,
        "norm_topk_prob": true,
        "tie_word_embeddings": false,
    })
}

fn merged(mut config: Value, more: Value) -> Value {
    for (field, value) in more.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

/// GLM-4.7-Flash: a dense layer, one with experts, and one for the token after the next.
fn glm() -> (Layout, [Value; 2]) {
    const EXPERTS: usize = 12;
    let mut layout = Layout::default();
    layout.ends();
    for layer in 0..3 {
        let prefix = format!("model.layers.{layer}");
        layout.norms(&prefix);
        let mut attention = |name: &str, shape: &[usize]| {
            layout.add(&format!("{prefix}.self_attn.{name}.weight"), shape);
        };
        attention("q_a_proj", &[768, HIDDEN]);
        attention("q_a_layernorm", &[768]);
        attention("q_b_proj", &[5120, 768]);
        attention("kv_a_proj_with_mqa", &[576, HIDDEN]);
        attention("kv_a_layernorm", &[512]);
        attention("kv_b_proj", &[8960, 512]);
        attention("o_proj", &[HIDDEN, 5120]);
        if layer == 0 {
            layout.swiglu(&format!("{prefix}.mlp"), 10240);
            continue;
        }
        let count = if layer == 1 { EXPERTS } else { 1 };
        layout.add(&format!("{prefix}.mlp.gate.weight"), &[count, HIDDEN]);
        layout.add(
            &format!("{prefix}.mlp.gate.e_score_correction_bias"),
            &[count],
        );
        layout.swiglu(&format!("{prefix}.mlp.shared_experts"), 1536);
        for e in 0..count {
            layout.swiglu(&format!("{prefix}.mlp.experts.{e}"), 1536);
        }
    }
    let prediction = "model.layers.2";
    for name in ["enorm", "hnorm", "shared_head.norm"] {
        layout.add(&format!("{prediction}.{name}.weight"), &[HIDDEN]);
    }
    layout.add(
        &format!("{prediction}.eh_proj.weight"),
        &[HIDDEN, 2 * HIDDEN],
    );
    for name in ["embed_tokens", "shared_head.head"] {
        layout.add(
            &format!("{prediction}.{name}.weight"),
            &[VOCABULARY, HIDDEN],
        );
    }
    let shared = merged(
        common("Glm4MoeLiteForCausalLM", "glm4_moe_lite"),
        json!({
            "num_attention_heads": 20,
            "num_key_value_heads": 20,
            "q_lora_rank": 768,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64,
            "v_head_dim": 256,
            "rope_interleave": true,
            "max_position_embeddings": 202_752,
            "rms_norm_eps": 1e-5,
            "intermediate_size": 10240,
            "moe_intermediate_size": 1536,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 1.8,
            "n_group": 1,
            "topk_group": 1,
            "eos_token_id": [154, 182, 982],
        }),
    );
    let published = json!({
        "torch_dtype": "bfloat16",
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
        "topk_method": "noaux_tc",
        "partial_rotary_factor": 1.0,
        "rope_scaling": null,
        "rope_theta": 1_000_000,
    });
    let saved = json!({
        "dtype": "bfloat16",
        "mlp_layer_types": ["dense", "sparse"],
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    });
    (
        layout,
        [published, saved].map(|more| merged(shared.clone(), more)),
    )
}

/// Qwen3-Coder-Next: a layer with a state, one with attention, and one for the token after the next.
fn next() -> (Layout, [Value; 2]) {
    const EXPERTS: usize = 16;
    let mut layout = Layout::default();
    layout.ends();
    for layer in 0..3 {
        // The third is called otherwise.
        let prefix = match layer {
            2 => "mtp.layers.0".to_owned(),
            layer => format!("model.layers.{layer}"),
        };
        layout.norms(&prefix);
        if layer == 0 {
            let mut net = |name: &str, shape: &[usize]| {
                layout.add(&format!("{prefix}.linear_attn.{name}"), shape);
            };
            net("in_proj_qkvz.weight", &[12288, HIDDEN]);
            net("in_proj_ba.weight", &[64, HIDDEN]);
            net("conv1d.weight", &[8192, 1, 4]);
            net("A_log", &[32]);
            net("dt_bias", &[32]);
            net("norm.weight", &[128]);
            net("out_proj.weight", &[HIDDEN, 4096]);
        } else {
            let mut attention = |name: &str, shape: &[usize]| {
                layout.add(&format!("{prefix}.self_attn.{name}.weight"), shape);
            };
            attention("q_proj", &[8192, HIDDEN]);
            attention("k_proj", &[512, HIDDEN]);
            attention("v_proj", &[512, HIDDEN]);
            attention("q_norm", &[256]);
            attention("k_norm", &[256]);
            attention("o_proj", &[HIDDEN, 4096]);
        }
        let count = if layer < 2 { EXPERTS } else { 1 };
        layout.add(&format!("{prefix}.mlp.gate.weight"), &[count, HIDDEN]);
        layout.swiglu(&format!("{prefix}.mlp.shared_expert"), 512);
        layout.add(
            &format!("{prefix}.mlp.shared_expert_gate.weight"),
            &[1, HIDDEN],
        );
        for e in 0..count {
            layout.swiglu(&format!("{prefix}.mlp.experts.{e}"), 512);
        }
    }
    for name in ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"] {
        layout.add(&format!("mtp.{name}.weight"), &[HIDDEN]);
    }
    layout.add("mtp.fc.weight", &[HIDDEN, 2 * HIDDEN]);
    let shared = merged(
        common("Qwen3NextForCausalLM", "qwen3_next"),
        json!({
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6,
            "intermediate_size": 5120,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": EXPERTS,
            "num_experts_per_tok": 10,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "eos_token_id": 645,
        }),
    );
    let published = json!({
        "torch_dtype": "bfloat16",
        "full_attention_interval": 2,
        "partial_rotary_factor": 0.25,
        "rope_scaling": null,
        "rope_theta": 5_000_000,
    });
    let saved = json!({
        "dtype": "bfloat16",
        "layer_types": ["linear_attention", "full_attention"],
        "rope_parameters": {
            "rope_theta": 5e6,
            "rope_type": "default",
            "partial_rotary_factor": 0.25,
        },
    });
    (
        layout,
        [published, saved].map(|more| merged(shared.clone(), more)),
    )
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count)
        .map(|i| ((i * 2741 + seed * 977) % VOCABULARY) as u32)
        .collect()
}

fn load(backend: &CpuBackend, dir: &Path) -> Model<CpuBackend> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    Model::load(backend, &checkpoint, checkpoint.config()).unwrap()
}

/// Evaluates and generates; gives how far the logits are from those of the model in `source`, relative to their size.
fn assert_runs(dir: &Path, source: &Path) -> f64 {
    let backend = CpuBackend::default();
    let model = load(&backend, dir);
    let text = ids(64, 3);
    let mut session = model.session(&backend, 64).unwrap();
    let windows = Windows {
        length: 32,
        limit: None,
    };
    let found = perplexity(&mut session, &text, windows, &mut |_| ()).unwrap();
    assert!(found.perplexity.is_finite() && found.perplexity > 1.0);

    // One token at a time is all at once.
    session.truncate(0);
    let mut by_token = session.extend(&text[..40]).unwrap();
    let mut said = Vec::new();
    for _ in 0..4 {
        let best = (0..VOCABULARY).max_by(|&a, &b| by_token[a].total_cmp(&by_token[b]));
        said.push(best.unwrap() as u32);
        by_token = session.extend(&said[said.len() - 1..]).unwrap();
    }
    let mut fresh = model.session(&backend, 64).unwrap();
    let at_once = fresh.extend(&[&text[..40], &said].concat()).unwrap();
    let largest = at_once.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (a, b) in by_token.iter().zip(&at_once) {
        assert!((a - b).abs() <= 1e-3 * largest, "{a} and {b} of {largest}");
    }

    let original = load(&backend, source);
    let mut reference = original.session(&backend, 64).unwrap();
    deviation(&mut session, &mut reference, &text)
        .unwrap()
        .relative_rms
}

fn assert_travels(layout: &Layout, [published, saved]: &[Value; 2], centre: f32) {
    let config = ModelConfig::from_json(published).unwrap();
    assert_eq!(config, ModelConfig::from_json(saved).unwrap());
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    layout.write(&source, published, centre);
    let tokens = CalibrationTokens::spread(&ids(96, 1), 2, 48).unwrap();

    match hardware() {
        Some(gpu) => {
            let error = assert_trellis_travels(&gpu, &source, &tokens);
            println!("relative error in trellis codes of six bits: {error:.4}");
            assert!(error < 0.3, "{error}");
        }
        None => drop(assert_trellis_travels(&Stub::default(), &source, &tokens)),
    }

    let integers = Options::mr_gptq(GptqOptions {
        scales: ScaleRule::Minmax,
        rotation: RotationRule::Fixed(Rotation::Block(128)),
        ..GptqOptions::new(Format::Int(IntBits::Eight))
    });
    let out = dir.path().join("integers");
    let backend = CpuBackend::default();
    quantize(&backend, &source, &out, &tokens, &integers, &mut |_| ()).unwrap();
    let error = assert_runs(&out, &source);
    println!("relative error in integers of eight bits: {error:.4}");
    assert!(error < 0.1, "{error}");
}

/// A GPU that is one.
fn hardware() -> Option<GpuBackend> {
    let gpu = GpuBackend::new(
        Adapters::find().first().ok()?,
        treillage_gpu::Options::default(),
    );
    Some(gpu.unwrap()).filter(|gpu| !gpu.gpu().is_software())
}

/// Quantizes, evaluates and generates; gives how far the logits are off.
fn assert_trellis_travels(
    backend: &impl Quantization,
    source: &Path,
    tokens: &CalibrationTokens,
) -> f64 {
    // Rates are not what this is about, and a survey of so wide a model takes its time.
    let options = Options::trellis(TrellisOptions {
        bits_per_weight: 6.0,
        allocation: AllocationRule::Uniform,
        head_bits: HeadBits::Keep,
        ..TrellisOptions::default()
    });
    let out = source.with_file_name("trellis");
    quantize(backend, source, &out, tokens, &options, &mut |_| ()).unwrap();
    let coded = Checkpoint::open(&out).unwrap();
    let predicted = |name: &str| name.contains("mtp.") || name.contains("layers.2.");
    assert!(!coded.names().any(predicted));
    assert!(Checkpoint::open(source).unwrap().names().any(predicted));
    let latent = "model.layers.1.self_attn.kv_a_proj_with_mqa";
    if coded.has_linear(latent) {
        let StoredLinear::Trellis(packed) = coded.linear(latent, HIDDEN, 576).unwrap() else {
            panic!("{latent} was not quantized");
        };
        assert_eq!(packed.out_features(), 640);
    }
    drop(coded);
    let error = assert_runs(&out, source);
    fs::remove_dir_all(&out).unwrap();
    error
}

#[test]
fn glm_4_7_flash_travels() {
    let (layout, configs) = glm();
    assert_travels(&layout, &configs, 1.0);
}

#[test]
fn qwen3_coder_next_travels() {
    let (layout, configs) = next();
    assert_travels(&layout, &configs, 0.0);
}
