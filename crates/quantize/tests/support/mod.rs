//! Small made-up checkpoints.

pub(crate) mod stub;

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use treillage_checkpoint::ModelConfig;
use treillage_model::plan::{ModelPlan, plan};
use treillage_quantize::CalibrationTokens;

/// Sizes of a made-up model; blocks in `dense` have one network, the others experts.
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) blocks: usize,
    pub(crate) dense: Vec<usize>,
    pub(crate) experts: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    pub(crate) tied: bool,
}

impl Shape {
    /// The smallest model that has everything: a dense block and one with experts.
    pub(crate) fn small() -> Self {
        Self {
            hidden: 128,
            blocks: 2,
            dense: vec![0],
            experts: 2,
            intermediate: 64,
            vocabulary: 96,
            tied: false,
        }
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "intermediate_size": self.intermediate,
            "moe_intermediate_size": self.intermediate,
            "num_experts": self.experts,
            "num_experts_per_tok": 1,
            "norm_topk_prob": true,
            "decoder_sparse_step": 1,
            "mlp_only_layers": self.dense,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        })
    }

    pub(crate) fn plan(&self) -> ModelPlan {
        plan(&ModelConfig::from_json(&self.config()).unwrap())
    }

    /// Writes such a model with random weights; `edit` may change a tensor's values.
    pub(crate) fn write(&self, dir: &Path, edit: impl Fn(&str, &mut [bf16])) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let config = serde_json::to_vec_pretty(&self.config()).unwrap();
        fs::write(dir.join("config.json"), config).unwrap();

        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, shape) in self.tensors() {
            let count = shape.iter().product::<usize>();
            let scale = 1.0 / (shape.last().copied().unwrap_or(1) as f32).sqrt();
            let mut values: Vec<bf16> = (0..count)
                .map(|_| {
                    let x = rng.random_range(-1.7f32..1.7);
                    // Norms lie around one, matrices around zero.
                    bf16::from_f32(if shape.len() == 1 {
                        1.0 + 0.1 * x
                    } else {
                        x * scale
                    })
                })
                .collect();
            edit(&name, &mut values);
            let begin = data.len();
            data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            let span = [begin, data.len()];
            header.insert(
                name,
                json!({"dtype": "BF16", "shape": shape, "data_offsets": span}),
            );
        }
        let mut header = serde_json::to_vec(&header).unwrap();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        fs::write(dir.join("model.safetensors"), file).unwrap();
        dir.to_owned()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let plan = self.plan();
        let linears = plan.blocks.iter().flat_map(|block| &block.linears);
        let mut tensors: Vec<_> = linears
            .chain((!self.tied).then_some(&plan.head))
            .map(|linear| {
                let shape = vec![linear.shape.out_features, linear.shape.in_features];
                (format!("{}.weight", linear.prefix), shape)
            })
            .collect();
        let kept = plan.blocks.iter().flat_map(|block| &block.kept);
        tensors.extend(kept.chain(&plan.kept).map(|name| {
            let shape = match name {
                name if name.contains("embed_tokens") => vec![self.vocabulary, self.hidden],
                name if name.contains("mlp.gate.") => vec![self.experts, self.hidden],
                name if name.contains("q_norm") || name.contains("k_norm") => vec![64],
                _ => vec![self.hidden],
            };
            (name.clone(), shape)
        }));
        tensors
    }

    /// Random text for it.
    pub(crate) fn tokens(&self, rows: usize, cols: usize) -> CalibrationTokens {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let ids: Vec<u32> = (0..rows * cols)
            .map(|_| rng.random_range(0..self.vocabulary as u32))
            .collect();
        CalibrationTokens::spread(&ids, rows, cols).unwrap()
    }
}

/// All files of a folder with their contents, by name.
pub(crate) fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}
