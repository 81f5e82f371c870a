use rayon::prelude::*;
use treillage_backend::{
    AttentionInputs, AttentionSpec, Choice, DeltaInputs, DeltaSpec, DeltaWeights, DenseWeights,
    Error, Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec, MoeLayer,
    Routing, SwiGlu,
};
use treillage_telemetry::Telemetry;
use treillage_trellis::SimdLevel;
use treillage_trellis::lanes::Isa;

use crate::attention::{Expansion, RopeTables, attention, latent_attention};
use crate::cache::Cache;
use crate::compute::Compute;
use crate::delta::{DeltaRule, delta_rule};
use crate::guard::Guard;
use crate::linear::Linear;
use crate::moe::{Experts, mlp, moe};
use crate::norm::Norm;
use crate::project::{project, project_add};
use crate::tensor::Tensor;

/// How packed and grouped linears are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// In f32.
    #[default]
    Exact,
    /// With activations of 8 bits, where there are at most four rows: about twice as fast, at an error of about 1 % of the
    /// output. Of trellis codes, with the codebook `mul1` alone; of grouped ones, where groups are a multiple of 8 weights.
    Int8,
}

/// What a [`CpuBackend`] is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How packed and grouped linears are multiplied.
    pub arithmetic: Arithmetic,
    /// The instructions to use, if the machine has them. [`SimdLevel::Avx512`] is no limit.
    pub simd: SimdLevel,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            arithmetic: Arithmetic::default(),
            simd: SimdLevel::Avx512,
        }
    }
}

/// Runs ops at once, on the threads of the rayon pool it is called from.
///
/// What goes into a projection with a norm, into a network or into experts, and what comes out of those, is looked at: a value
/// that is not finite is [`Error::NotFinite`], with the block, the row, and what else is in it. It is computed again on the
/// [plain path](Self::compute_plainly).
#[derive(Debug)]
pub struct CpuBackend {
    options: Options,
    compute: Compute,
    ropes: RopeTables,
    guard: Guard,
}

impl CpuBackend {
    /// A backend with `options`.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            compute: Compute {
                isa: Isa::at_most(options.simd),
                arithmetic: options.arithmetic,
                plain: false,
            },
            ropes: RopeTables::default(),
            guard: Guard::default(),
        }
    }

    /// What it was made with.
    pub fn options(&self) -> Options {
        self.options
    }

    /// What it counts: values that are not finite, and tokens in layers of experts.
    pub fn telemetry(&self) -> &Telemetry {
        &self.guard.telemetry
    }

    /// Whether ops from here on take the plain path, to compare with and to fall back to: in f32, one linear at a time, one expert at
    /// a time.
    pub fn compute_plainly(&self, on: bool) {
        self.guard.path.ask(on);
    }

    /// How ops are computed now.
    fn compute(&self) -> Compute {
        match self.guard.path.is_taken() {
            true => Compute {
                arithmetic: Arithmetic::Exact,
                plain: true,
                ..self.compute
            },
            false => self.compute,
        }
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Inference for CpuBackend {
    type Tensor = Tensor;
    type Tokens = Vec<u32>;
    type Norm = Norm;
    type Linear = Linear;
    type Embedding = DenseWeights;
    type Experts = Experts;
    type Expansion = Expansion;
    type DeltaRule = DeltaRule;
    type Cache = Cache;

    fn describe(&self) -> String {
        let instructions = match self.compute.isa.level() {
            SimdLevel::Avx512 => "AVX-512",
            SimdLevel::Avx2 => "AVX2",
            SimdLevel::Portable if cfg!(target_arch = "aarch64") => "NEON",
            SimdLevel::Portable => "portable",
        };
        let threads = rayon::current_num_threads();
        format!("CPU, {instructions}, {threads} threads")
    }

    fn prompt_rows(&self) -> usize {
        512
    }

    fn runs_behind(&self) -> bool {
        false
    }

    fn enter_block(&self, index: usize) {
        self.guard.enter(index);
    }

    fn recover<T, E>(&self, again: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.guard.path.recover(&self.guard.telemetry, again)
    }

    fn load_norm(&self, weight: Vec<f32>, epsilon: f32) -> Result<Norm, Error> {
        Ok(Norm::new(weight, epsilon))
    }

    fn load_linear(&self, weights: LinearWeights, shape: LinearShape) -> Result<Linear, Error> {
        Linear::new(weights, shape)
    }

    fn load_embedding(&self, table: DenseWeights) -> Result<DenseWeights, Error> {
        Ok(table)
    }

    fn load_experts(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
    ) -> Result<Experts, Error> {
        Experts::new(experts, hidden_to_intermediate)
    }

    fn load_expansion(
        &self,
        weights: LinearWeights,
        spec: &LatentSpec,
    ) -> Result<Expansion, Error> {
        Expansion::new(weights, spec)
    }

    fn load_delta(&self, weights: DeltaWeights, spec: &DeltaSpec) -> Result<DeltaRule, Error> {
        DeltaRule::new(weights, spec)
    }

    fn new_cache(&self, spec: &MixerSpec, capacity: usize) -> Result<Cache, Error> {
        Cache::new(spec, capacity)
    }

    fn cache_len(&self, cache: &Cache) -> usize {
        cache.len()
    }

    fn mark_cache(&self, cache: &mut Cache) -> Result<(), Error> {
        cache.mark();
        Ok(())
    }

    fn truncate_cache(&self, cache: &mut Cache, len: usize) -> usize {
        cache.truncate(len)
    }

    fn upload(&self, values: &[f32], width: usize) -> Result<Tensor, Error> {
        Tensor::new(values.to_vec(), width)
    }

    fn read(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        Ok(x.values().to_vec())
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor, Error> {
        let mut values = Vec::with_capacity(rows.len() * x.cols());
        for &row in rows {
            if row >= x.rows() {
                return Err(Error::Shape {
                    what: "row to select, at most".to_owned(),
                    expected: x.rows().saturating_sub(1),
                    found: row,
                });
            }
            values.extend_from_slice(x.row(row));
        }
        Tensor::new(values, x.cols())
    }

    fn embed(&self, table: &DenseWeights, ids: &[u32]) -> Result<Tensor, Error> {
        let vocabulary = table.rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Token { id, vocabulary });
        }
        let rows: Vec<Vec<f32>> = ids.par_iter().map(|&id| table.row(id as usize)).collect();
        Tensor::new(rows.concat(), table.cols())
    }

    fn embed_tokens(&self, table: &DenseWeights, tokens: &Vec<u32>) -> Result<Tensor, Error> {
        self.embed(table, tokens)
    }

    fn sample(&self, logits: &Tensor, choice: &Choice) -> Result<Vec<u32>, Error> {
        if choice.temperature != 0.0 {
            Error::check_shape("rows to draw a token from", 1, logits.rows())?;
        }
        let rows = (0..logits.rows()).into_par_iter();
        rows.map(|row| choice.choose(logits.row(row)))
            .collect::<Option<_>>()
            .ok_or_else(|| self.guard.no_choice())
    }

    fn read_tokens(&self, tokens: &Vec<u32>) -> Result<Vec<u32>, Error> {
        Ok(tokens.clone())
    }

    fn norm_project<const N: usize>(
        &self,
        x: &Tensor,
        norm: &Norm,
        linears: [&Linear; N],
    ) -> Result<[Tensor; N], Error> {
        self.guard.check(x)?;
        project(self.compute(), &norm.apply(self.compute.isa, x)?, linears)
    }

    fn project_add(&self, x: &Tensor, linear: &Linear, residual: &Tensor) -> Result<Tensor, Error> {
        project_add(self.compute(), x, linear, residual)
    }

    fn attention(
        &self,
        inputs: AttentionInputs<'_, Tensor, Norm>,
        spec: &AttentionSpec,
        cache: &mut Cache,
    ) -> Result<Tensor, Error> {
        let cache = cache.keys_and_values()?;
        attention(self.compute.isa, &inputs, spec, cache, &self.ropes)
    }

    fn latent_attention(
        &self,
        inputs: LatentInputs<'_, Tensor, Norm>,
        expansion: &Expansion,
        spec: &LatentSpec,
        cache: &mut Cache,
    ) -> Result<Tensor, Error> {
        let cache = cache.latents()?;
        latent_attention(self.compute(), &inputs, expansion, spec, cache, &self.ropes)
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_, Tensor>,
        rule: &DeltaRule,
        spec: &DeltaSpec,
        cache: &mut Cache,
    ) -> Result<Tensor, Error> {
        delta_rule(self.compute.isa, &inputs, rule, spec, cache.state()?)
    }

    fn mlp(&self, x: &Tensor, norm: &Norm, network: &SwiGlu<Linear>) -> Result<Tensor, Error> {
        self.guard.check(x)?;
        let out = mlp(self.compute(), x, norm, network)?;
        self.guard.check(&out)?;
        Ok(out)
    }

    fn moe(
        &self,
        x: &Tensor,
        norm: &Norm,
        layer: MoeLayer<'_, Self>,
        routing: &Routing,
    ) -> Result<Tensor, Error> {
        self.guard.check(x)?;
        let out = moe(self.compute(), x, norm, layer, routing);
        let out = out.map_err(|error| self.guard.routed(error))?;
        self.guard.check(&out)?;
        let metrics = &self.guard.telemetry.moe_metrics;
        metrics.tokens_processed.add(x.rows() as u64);
        match self.guard.path.is_taken() {
            true => metrics.fallback_used.add(1),
            false => metrics.fast_path_used.add(1),
        }
        Ok(out)
    }
}
