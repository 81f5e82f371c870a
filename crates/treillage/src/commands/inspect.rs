//! `treillage inspect`

mod experts;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use anyhow::Result;
use serde::Serialize;
use treillage_checkpoint::{Checkpoint, Dtype, Mixer, ModelConfig, StoredLinear};
use treillage_gptq::{Element, GroupedLinear, Scales};
use treillage_model::plan::{LinearPlan, ModelPlan, plan};

use self::experts::{Counting, ExpertRates};
use crate::{
    names, output, runtime,
    table::{Table, bytes, grouped},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    dir: PathBuf,
    /// Tokens of a conversation, for the memory it takes
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: usize,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    output::print(&Report::new(&checkpoint, args)?, json)
}

/// What a checkpoint is made of.
#[derive(Serialize)]
struct Report {
    dir: PathBuf,
    architecture: &'static str,
    quantization: &'static str,
    layers: usize,
    hidden_size: usize,
    vocabulary: usize,
    /// Layers by how their tokens learn of those before them.
    mixers: Vec<MixerReport>,
    /// Experts of a layer and how many a token visits.
    experts: Option<[usize; 2]>,
    max_context: usize,
    parameters: u64,
    /// Those that one token is multiplied with.
    active_parameters: u64,
    /// Average over the linears of all blocks, scales of groups included.
    bits_per_weight: f64,
    /// `None` where the embedding serves as head.
    head_bits: Option<usize>,
    linears: Vec<RoleReport>,
    /// Experts by the bits of their three linears.
    expert_bits: ExpertRates,
    other_tensors: Kept,
    bytes_on_disk: u64,
    memory: Memory,
}

/// Linears that play one role, over all layers and experts.
#[derive(Serialize)]
struct RoleReport {
    role: String,
    shape: [usize; 2],
    linears: usize,
    weights: u64,
    bytes: u64,
    /// Number of linears by bits per weight.
    bits: BTreeMap<usize, usize>,
    /// How they are coded.
    formats: Vec<String>,
}

/// Tensors that are no quantizable linear: embedding, norms, routers.
#[derive(Serialize, Default)]
struct Kept {
    tensors: usize,
    values: u64,
    bytes: u64,
}

/// Memory that running the model takes, in bytes.
#[derive(Serialize)]
struct Memory {
    weights: u64,
    kv_cache_per_token: u64,
    recurrent_state: u64,
    context: usize,
    total: u64,
}

impl Report {
    fn new(checkpoint: &Checkpoint, args: &Args) -> Result<Self> {
        let config = checkpoint.config();
        let plan = plan(config);
        let stored = |plan| Stored::read(checkpoint, plan);
        let mut blocks = Vec::new();
        let mut experts = Counting::default();
        for block in &plan.blocks {
            for linear in &block.linears {
                let stored = stored(linear)?;
                experts.add(block.index, linear, stored.bits);
                blocks.push(stored);
            }
        }
        // Without a tensor of its own, a tied head is the embedding.
        let borrowed = plan.tied && !checkpoint.has_linear(&plan.head.prefix);
        let head = (!borrowed).then(|| stored(&plan.head)).transpose()?;
        let kept = Kept::read(checkpoint, &plan)?;

        let block_weights: u64 = blocks.iter().map(|l| l.weights).sum();
        let block_bits: u64 = blocks.iter().map(|l| l.coded_bits).sum();
        let head_weights = plan.head.shape.weights() as u64;
        let active: u64 = blocks.iter().map(|l| l.active(config)).sum();
        let linear_bytes: u64 = blocks.iter().chain(&head).map(|l| l.bytes).sum();
        let mixers = MixerReport::of(config);
        let cache = |each: fn(&MixerReport) -> usize| {
            let values: usize = mixers.iter().map(|m| m.layers * each(m)).sum();
            (values * size_of::<f32>()) as u64
        };
        let kv_cache_per_token = cache(|mixer| mixer.cached_per_token);
        let recurrent_state = cache(|mixer| mixer.state);
        let memory_weights = linear_bytes + kept.bytes;
        Ok(Self {
            dir: args.dir.clone(),
            architecture: config.architecture.model_type(),
            quantization: match checkpoint.quantization() {
                Some(quantization) => quantization.name(),
                None => "none",
            },
            layers: config.num_layers,
            hidden_size: config.hidden_size,
            vocabulary: config.vocab_size,
            mixers,
            experts: config
                .moe()
                .map(|moe| [moe.num_experts, moe.experts_per_token]),
            max_context: config.max_position_embeddings,
            parameters: block_weights + kept.values + if plan.tied { 0 } else { head_weights },
            active_parameters: active + head_weights,
            bits_per_weight: block_bits as f64 / block_weights as f64,
            head_bits: head.as_ref().map(|head| head.bits),
            linears: names::grouped_by(blocks.into_iter().chain(head), |l| l.role.clone())
                .into_iter()
                .map(RoleReport::new)
                .collect(),
            expert_bits: experts.finish(),
            other_tensors: kept,
            bytes_on_disk: runtime::weight_bytes(&args.dir)?,
            memory: Memory {
                weights: memory_weights,
                kv_cache_per_token,
                recurrent_state,
                context: args.context,
                total: (memory_weights + recurrent_state)
                    .saturating_add(kv_cache_per_token.saturating_mul(args.context as u64)),
            },
        })
    }
}

/// Layers whose tokens learn of those before them in one way.
#[derive(Serialize)]
struct MixerReport {
    kind: &'static str,
    layers: usize,
    heads: usize,
    /// Heads of keys.
    kv_heads: usize,
    /// Width of a value.
    head_dim: usize,
    /// Numbers that a layer keeps of each token, in f32 as the CPU backend does.
    cached_per_token: usize,
    /// Numbers that a layer keeps of all tokens together.
    state: usize,
}

impl MixerReport {
    fn of(config: &ModelConfig) -> Vec<Self> {
        let each = (0..config.num_layers).map(|layer| Self::new(config.mixer(layer)));
        let same = |mixer: &Self| (mixer.kind, mixer.heads, mixer.kv_heads, mixer.head_dim);
        let kinds = names::grouped_by(each, same).into_iter();
        let counted = kinds.filter_map(|(_, layers)| {
            let count = layers.len();
            let first = layers.into_iter().next()?;
            Some(Self {
                layers: count,
                ..first
            })
        });
        counted.collect()
    }

    fn new(mixer: Mixer<'_>) -> Self {
        match mixer {
            Mixer::Attention(attention) => Self {
                kind: "attention",
                layers: 1,
                heads: attention.num_heads,
                kv_heads: attention.num_kv_heads,
                head_dim: attention.head_dim,
                cached_per_token: 2 * attention.num_kv_heads * attention.head_dim,
                state: 0,
            },
            Mixer::Latent(latent) => Self {
                kind: "latent attention",
                layers: 1,
                heads: latent.num_heads,
                kv_heads: latent.num_heads,
                head_dim: latent.v_head_dim,
                cached_per_token: latent.kv_lora_rank + latent.qk_rope_head_dim,
                state: 0,
            },
            Mixer::DeltaNet(net) => Self {
                kind: "gated DeltaNet",
                layers: 1,
                heads: net.num_value_heads,
                kv_heads: net.num_key_heads,
                head_dim: net.value_head_dim,
                cached_per_token: 0,
                state: net.num_value_heads * net.value_head_dim * net.key_head_dim,
            },
        }
    }
}

/// What the numbers of a linear with a scale per group are.
fn grouped_format(linear: &GroupedLinear) -> String {
    let parts = linear.parts();
    match (parts.element, &parts.scales) {
        (_, Scales::E4m3 { .. }) => "nvfp4".to_owned(),
        (_, Scales::E8m0 { .. }) => "mxfp4".to_owned(),
        (Element::E2m1, _) => format!("fp4, groups of {}", parts.group),
        (Element::Int(bits), _) => format!("int{}, groups of {}", bits.get(), parts.group),
    }
}

/// Bits that scales and zeros take in a file.
fn grouped_scale_bits(linear: &GroupedLinear) -> usize {
    let parts = linear.parts();
    let zeros = parts.zeros.as_ref().map_or(0, Vec::len);
    8 * parts.scales.bytes() + zeros * parts.element.bits()
}

/// One linear as it lies on disk.
struct Stored {
    role: String,
    shape: [usize; 2],
    expert: bool,
    weights: u64,
    bytes: u64,
    /// Of a weight, scales of groups apart.
    bits: usize,
    /// Of all weights in the file, scales of groups included.
    coded_bits: u64,
    format: String,
}

impl Stored {
    fn read(checkpoint: &Checkpoint, plan: &LinearPlan) -> Result<Self> {
        let shape = plan.shape;
        let weight = checkpoint.tensor(&format!("{}.weight", plan.prefix));
        let mut scale_bits = 0;
        let (bytes, bits, format) = match weight {
            // Reading FP8 as a linear would convert it.
            Ok(view) if view.dtype() == Dtype::F8E4m3 => (
                view.bytes().len(),
                view.dtype().bits(),
                view.dtype().to_string(),
            ),
            _ => match checkpoint.linear(&plan.prefix, shape.in_features, shape.out_features)? {
                StoredLinear::Dense { weight, .. } => {
                    let dtype = weight.data().dtype();
                    (weight.data().bytes().len(), dtype.bits(), dtype.to_string())
                }
                StoredLinear::Trellis(packed) => {
                    let format = format!("trellis {}", packed.codebook());
                    (packed.byte_len(), packed.bits().get(), format)
                }
                StoredLinear::Grouped(grouped) => {
                    let bits = grouped.parts().element.bits();
                    scale_bits = grouped_scale_bits(&grouped);
                    (grouped.bytes(), bits, grouped_format(&grouped))
                }
            },
        };
        Ok(Self {
            role: names::role(&plan.prefix),
            shape: [shape.out_features, shape.in_features],
            expert: plan.expert.is_some(),
            weights: shape.weights() as u64,
            bytes: bytes as u64,
            bits,
            coded_bits: (shape.weights() * bits + scale_bits) as u64,
            format,
        })
    }

    /// Weights that one token is multiplied with, on average over the experts.
    fn active(&self, config: &ModelConfig) -> u64 {
        match config.moe() {
            Some(moe) if self.expert => {
                self.weights * moe.experts_per_token as u64 / moe.num_experts as u64
            }
            _ => self.weights,
        }
    }
}

impl Kept {
    fn read(checkpoint: &Checkpoint, plan: &ModelPlan) -> Result<Self> {
        let mut kept = Self::default();
        for name in plan
            .blocks
            .iter()
            .flat_map(|block| &block.kept)
            .chain(&plan.kept)
        {
            let tensor = checkpoint.tensor(name)?;
            kept.tensors += 1;
            kept.values += tensor.shape().iter().product::<usize>() as u64;
            kept.bytes += tensor.bytes().len() as u64;
        }
        Ok(kept)
    }
}

impl RoleReport {
    fn new((role, linears): (String, Vec<Stored>)) -> Self {
        let mut bits = BTreeMap::new();
        let mut formats: Vec<String> = Vec::new();
        for linear in &linears {
            *bits.entry(linear.bits).or_default() += 1;
            if !formats.contains(&linear.format) {
                formats.push(linear.format.clone());
            }
        }
        Self {
            role,
            shape: linears[0].shape,
            linears: linears.len(),
            weights: linears.iter().map(|l| l.weights).sum(),
            bytes: linears.iter().map(|l| l.bytes).sum(),
            bits,
            formats,
        }
    }

    /// `3×40 4×8`: 40 linears of 3 bits and 8 of 4; of one rate only, the rate.
    fn histogram(&self) -> String {
        let one = self.bits.len() == 1;
        let each = |(bits, count): (&usize, &usize)| match one {
            true => bits.to_string(),
            false => format!("{bits}×{count}"),
        };
        self.bits.iter().map(each).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} layers, hidden {}, vocabulary {}",
            self.architecture,
            self.layers,
            self.hidden_size,
            grouped(self.vocabulary as u64),
        )?;
        for mixer in &self.mixers {
            write!(
                f,
                ", {} × {} with {} heads of {} ({} of keys)",
                mixer.layers, mixer.kind, mixer.heads, mixer.head_dim, mixer.kv_heads,
            )?;
        }
        if let Some([experts, visited]) = self.experts {
            write!(f, ", {experts} experts of which a token visits {visited}")?;
        }
        writeln!(
            f,
            "\n{} parameters, {} active per token; context up to {}\n",
            grouped(self.parameters),
            grouped(self.active_parameters),
            grouped(self.max_context as u64)
        )?;
        let mut table = Table::new(&["linears", "number", "shape", "format", "bits", "size"]);
        for role in &self.linears {
            table.row([
                role.role.clone(),
                role.linears.to_string(),
                format!("{}×{}", role.shape[0], role.shape[1]),
                role.formats.join(", "),
                role.histogram(),
                bytes(role.bytes),
            ]);
        }
        let kept = &self.other_tensors;
        table.row([
            "embedding, norms, routers".to_owned(),
            kept.tensors.to_string(),
            String::new(),
            String::new(),
            String::new(),
            bytes(kept.bytes),
        ]);
        writeln!(f, "{table}")?;
        if !self.expert_bits.is_empty() {
            let experts = &self.expert_bits;
            writeln!(f, "experts by bits of gate/up/down: {experts}")?;
        }
        let memory = &self.memory;
        write!(
            f,
            "{:.2} bits per weight in the blocks, {} in the head; {} on disk\n\
             memory: {} of weights{} and {} a token, {} at a context of {}",
            self.bits_per_weight,
            self.head_bits
                .map_or("as in the embedding".to_owned(), |bits| bits.to_string()),
            bytes(self.bytes_on_disk),
            bytes(memory.weights),
            match memory.recurrent_state {
                0 => String::new(),
                state => format!(", {} of state", bytes(state)),
            },
            bytes(memory.kv_cache_per_token),
            bytes(memory.total),
            grouped(memory.context as u64),
        )
    }
}
