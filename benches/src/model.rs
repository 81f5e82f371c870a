//! Whole models of random words.

use std::sync::Arc;

use half::bf16;
use rand::{Rng, RngCore};
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_checkpoint::ModelConfig;
use treillage_model::{Error, Weights, plan};
use treillage_trellis::Bits;

use crate::random::{self, Kind};

/// A model whose words mean nothing: speed does not depend on what they mean.
///
/// Each tensor that it gives has memory of its own, but what is in it repeats: it is read from one pool of random numbers, from a
/// place of its own. Drawing 30 billion weights afresh would take longer than anything that is measured with them.
pub struct RandomModel {
    /// What the blocks' linears are.
    blocks: Kind,
    /// Whether rates of experts differ.
    mixed: bool,
    /// What the head is.
    head: Kind,
    pool: Vec<u64>,
}

/// Numbers of the pool, 64 MiB: no cache holds it.
const POOL: usize = (64 << 20) / 8;

/// Linears that quantization leaves alone: routers, gates of shared experts and of DeltaNets.
const KEPT: [&str; 3] = [
    "mlp.gate",
    "mlp.shared_expert_gate",
    "linear_attn.in_proj_ba",
];

impl RandomModel {
    /// With blocks of linears of one kind, and a head of another.
    pub fn new(blocks: Kind, head: Kind) -> Self {
        let mut pool = vec![0; POOL];
        random::rng(1).fill(&mut pool[..]);
        Self {
            blocks,
            mixed: false,
            head,
            pool,
        }
    }

    /// The same, but with trellis codes of three rates for experts: of each expert, gate, up and down have one rate less than asked
    /// for, that rate, and one more, in an order that goes round from expert to expert. The average stays what it was.
    ///
    /// # Errors
    /// If blocks are no trellis codes, or there are no such rates.
    pub fn mixed(self) -> anyhow::Result<Self> {
        match self.blocks {
            Kind::Trellis(bits, _) if (2..8).contains(&bits.get()) => Ok(Self {
                mixed: true,
                ..self
            }),
            _ => anyhow::bail!("mixed rates are of trellis codes, at 2 to 7 bits"),
        }
    }

    /// What the linear under `prefix` is, of a block.
    fn kind(&self, prefix: &str) -> Kind {
        const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
        let place = prefix
            .split_once(".experts.")
            .and_then(|(_, rest)| rest.split_once('.'))
            .and_then(|(expert, part)| {
                let part = PARTS.iter().position(|name| *name == part)?;
                Some(expert.parse::<usize>().ok()? + part)
            });
        match (self.blocks, place) {
            (Kind::Trellis(bits, codebook), Some(place)) if self.mixed => {
                let bits = Bits::new(bits.get() - 1 + place % 3).unwrap_or(bits);
                Kind::Trellis(bits, codebook)
            }
            (kind, _) => kind,
        }
    }

    /// Bytes that the weights take: of all that is outside of blocks, and of each block.
    pub fn bytes(&self, config: &ModelConfig) -> (u64, Vec<u64>) {
        let plan = plan::plan(config);
        let of = |kind: Kind, weights: usize| kind.bits_per_weight() * weights as f64 / 8.0;
        let embedding = 2.0 * plan.head.shape.weights() as f64;
        let outside = embedding + of(self.head, plan.head.shape.weights());
        let blocks = plan.blocks.iter().map(|block| {
            let linears = block.linears.iter();
            of(self.blocks, linears.map(|l| l.shape.weights()).sum()) as u64
        });
        (outside as u64, blocks.collect())
    }

    /// Numbers for the tensor called `name`.
    fn numbers(&self, name: &str) -> Reader<'_> {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Reader {
            pool: &self.pool,
            at: (hash % self.pool.len() as u64) as usize,
        }
    }
}

impl Weights for RandomModel {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        if KEPT.iter().any(|kept| prefix.ends_with(kept)) {
            let weight = self.dense(prefix, shape.out_features, shape.in_features)?;
            return Ok(LinearWeights::Dense { weight, bias: None });
        }
        let kind = match prefix {
            "lm_head" => self.head,
            _ => self.kind(prefix),
        };
        Ok(random::linear(&mut self.numbers(prefix), shape, kind)?)
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        let mut numbers = self.numbers(name);
        let values: Vec<bf16> = (0..rows * cols)
            .map(|_| bf16::from_f32(numbers.random::<f32>() - 0.5))
            .collect();
        let values = DenseData::Bf16(Arc::new(values));
        Ok(DenseWeights::new(rows, cols, values)?)
    }

    fn vector(&self, _: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![1.0; len])
    }

    fn has_linear(&self, _: &str) -> bool {
        true
    }
}

/// Reads a pool of random numbers round and round.
struct Reader<'p> {
    pool: &'p [u64],
    at: usize,
}

impl RngCore for Reader<'_> {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        let number = self.pool[self.at];
        self.at += 1;
        if self.at == self.pool.len() {
            self.at = 0;
        }
        number
    }

    fn fill_bytes(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let rest: &[u8] = bytemuck::cast_slice(&self.pool[self.at..]);
            let (now, later) = bytes.split_at_mut(bytes.len().min(rest.len()));
            now.copy_from_slice(&rest[..now.len()]);
            self.at = (self.at + now.len().div_ceil(8)) % self.pool.len();
            bytes = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use treillage_trellis::Codebook;

    use super::*;

    const PREFIX: &str = "model.layers.0.mlp.experts.0.up_proj";

    fn model() -> RandomModel {
        let bits = Bits::new(3).expect("a rate");
        let kind = Kind::Trellis(bits, Codebook::Mul1);
        RandomModel::new(kind, kind)
    }

    #[test]
    fn a_reader_goes_round() {
        let mut reader = Reader {
            pool: &[1, 2, 3],
            at: 1,
        };
        let mut bytes = [0; 17];
        reader.fill_bytes(&mut bytes);
        assert_eq!((bytes[0], bytes[8], bytes[16]), (2, 3, 1));
        assert_eq!([reader.next_u64(), reader.next_u64()], [2, 3]);
        assert_eq!(reader.next_u64(), 1);
    }

    #[test]
    fn linears_differ_and_are_padded() {
        let model = model();
        let shape = LinearShape {
            in_features: 128,
            out_features: 200,
        };
        let words = |prefix: &str| match model.linear(prefix, shape) {
            Ok(LinearWeights::Trellis(packed)) => packed.words().to_vec(),
            _ => Vec::new(),
        };
        let first = words(PREFIX);
        assert_eq!(first.len(), 128 * 256 * 3 / 16);
        assert_eq!(first, words(PREFIX));
        assert_ne!(first, words("model.layers.0.mlp.experts.1.up_proj"));
    }

    #[test]
    fn mixed_rates_have_the_average_of_one() {
        let model = model().mixed().expect("trellis codes");
        let bits = |prefix: &str| match model.kind(prefix) {
            Kind::Trellis(bits, _) => bits.get(),
            Kind::Grouped(_) | Kind::Bf16 => 0,
        };
        for expert in 0..12 {
            let of = |part| bits(&format!("model.layers.3.mlp.experts.{expert}.{part}"));
            let mut all = [of("gate_proj"), of("up_proj"), of("down_proj")];
            all.sort_unstable();
            assert_eq!(all, [2, 3, 4]);
        }
        assert_eq!(bits("model.layers.3.mlp.shared_experts.up_proj"), 3);
        assert_eq!(bits("model.layers.3.self_attn.q_proj"), 3);
        let half = |bits| {
            let kind = Kind::Trellis(Bits::new(bits).expect("a rate"), Codebook::Mul1);
            RandomModel::new(kind, kind).mixed()
        };
        assert!(half(1).is_err() && half(8).is_err());
    }

    #[test]
    fn kept_linears_are_dense() {
        let model = model();
        for preset in crate::presets::PRESETS {
            let config = preset.config(Some(4), Some(128)).expect("a configuration");
            for block in plan::plan(&config).blocks {
                let dense = |linear: &plan::LinearPlan| {
                    KEPT.iter().any(|kept| linear.prefix.ends_with(kept))
                };
                assert!(block.kept_linears.iter().all(dense), "{}", preset.name);
                assert!(!block.linears.iter().any(dense), "{}", preset.name);
            }
        }
        let shape = LinearShape {
            in_features: 8,
            out_features: 2,
        };
        let router = model.linear("model.layers.1.mlp.gate", shape);
        assert!(matches!(router, Ok(LinearWeights::Dense { .. })));
    }

    #[test]
    fn bytes_are_those_of_the_words() {
        let config = crate::presets::PRESETS[0].config(Some(2), None);
        let (outside, blocks) = model().bytes(&config.expect("a configuration"));
        assert_eq!(outside, 32_000 * 2048 * (16 + 3) / 8);
        let attention = 2048 * 128 * (32 + 4 + 4 + 32);
        let block = (attention + 32 * 3 * 2048 * 768) * 3 / 8;
        assert_eq!(blocks, [block, block]);
    }
}
