//! The CPU backend, but with an encoder that takes no time: for tests that are not about the codes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use half::f16;
use treillage_backend::{
    AttentionInputs, AttentionSpec, Choice, DeltaInputs, DeltaSpec, DeltaWeights, DenseWeights,
    EncodeJob, Error, Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec,
    MoeLayer, Quantization, RouteWeighting, Routing, SwiGlu,
};
use treillage_cpu::CpuBackend;
use treillage_linalg::Hessian;
use treillage_trellis::{EncodeConfig, EncodeReport, Encoded, PackedLinear, PackedParts};

/// A backend that computes like [`CpuBackend`] and encodes every linear to trellis codes of one and the same noise.
#[derive(Default)]
pub(crate) struct Stub(CpuBackend, Option<AtomicUsize>);

impl Stub {
    /// Fails at the call of `encode` after so many, which the second field counts.
    pub(crate) fn failing_after(calls: usize) -> Self {
        Self(CpuBackend::default(), Some(AtomicUsize::new(calls)))
    }

    /// One more call of `encode`.
    fn count(&self) -> Result<()> {
        if let Some(left) = &self.1 {
            let enough =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            enough.map_err(|_| Error::Device("out of order".to_owned()))?;
        }
        Ok(())
    }
}

type Result<T> = std::result::Result<T, Error>;

impl Inference for Stub {
    type Tensor = <CpuBackend as Inference>::Tensor;
    type Tokens = <CpuBackend as Inference>::Tokens;
    type Norm = <CpuBackend as Inference>::Norm;
    type Linear = <CpuBackend as Inference>::Linear;
    type Embedding = <CpuBackend as Inference>::Embedding;
    type Experts = <CpuBackend as Inference>::Experts;
    type Expansion = <CpuBackend as Inference>::Expansion;
    type DeltaRule = <CpuBackend as Inference>::DeltaRule;
    type Cache = <CpuBackend as Inference>::Cache;

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn prompt_rows(&self) -> usize {
        self.0.prompt_rows()
    }

    fn runs_behind(&self) -> bool {
        self.0.runs_behind()
    }

    fn load_norm(&self, weight: Vec<f32>, epsilon: f32) -> Result<Self::Norm> {
        self.0.load_norm(weight, epsilon)
    }

    fn load_linear(&self, weights: LinearWeights, shape: LinearShape) -> Result<Self::Linear> {
        self.0.load_linear(weights, shape)
    }

    fn load_embedding(&self, table: DenseWeights) -> Result<Self::Embedding> {
        self.0.load_embedding(table)
    }

    fn load_experts(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        shape: LinearShape,
    ) -> Result<Self::Experts> {
        self.0.load_experts(experts, shape)
    }

    fn load_expansion(&self, weights: LinearWeights, spec: &LatentSpec) -> Result<Self::Expansion> {
        self.0.load_expansion(weights, spec)
    }

    fn load_delta(&self, weights: DeltaWeights, spec: &DeltaSpec) -> Result<Self::DeltaRule> {
        self.0.load_delta(weights, spec)
    }

    fn new_cache(&self, spec: &MixerSpec, capacity: usize) -> Result<Self::Cache> {
        self.0.new_cache(spec, capacity)
    }

    fn cache_len(&self, cache: &Self::Cache) -> usize {
        self.0.cache_len(cache)
    }

    fn mark_cache(&self, cache: &mut Self::Cache) -> Result<()> {
        self.0.mark_cache(cache)
    }

    fn truncate_cache(&self, cache: &mut Self::Cache, len: usize) -> usize {
        self.0.truncate_cache(cache, len)
    }

    fn upload(&self, values: &[f32], width: usize) -> Result<Self::Tensor> {
        self.0.upload(values, width)
    }

    fn read(&self, x: &Self::Tensor) -> Result<Vec<f32>> {
        self.0.read(x)
    }

    fn select_rows(&self, x: &Self::Tensor, rows: &[usize]) -> Result<Self::Tensor> {
        self.0.select_rows(x, rows)
    }

    fn embed(&self, table: &Self::Embedding, ids: &[u32]) -> Result<Self::Tensor> {
        self.0.embed(table, ids)
    }

    fn embed_tokens(&self, table: &Self::Embedding, tokens: &Self::Tokens) -> Result<Self::Tensor> {
        self.0.embed_tokens(table, tokens)
    }

    fn sample(&self, logits: &Self::Tensor, choice: &Choice) -> Result<Self::Tokens> {
        self.0.sample(logits, choice)
    }

    fn read_tokens(&self, tokens: &Self::Tokens) -> Result<Vec<u32>> {
        self.0.read_tokens(tokens)
    }

    fn norm_project<const N: usize>(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        linears: [&Self::Linear; N],
    ) -> Result<[Self::Tensor; N]> {
        self.0.norm_project(x, norm, linears)
    }

    fn project_add(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor> {
        self.0.project_add(x, linear, residual)
    }

    fn attention(
        &self,
        inputs: AttentionInputs<'_, Self::Tensor, Self::Norm>,
        spec: &AttentionSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor> {
        self.0.attention(inputs, spec, cache)
    }

    fn latent_attention(
        &self,
        inputs: LatentInputs<'_, Self::Tensor, Self::Norm>,
        expansion: &Self::Expansion,
        spec: &LatentSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor> {
        self.0.latent_attention(inputs, expansion, spec, cache)
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_, Self::Tensor>,
        rule: &Self::DeltaRule,
        spec: &DeltaSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor> {
        self.0.delta_rule(inputs, rule, spec, cache)
    }

    fn mlp(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        mlp: &SwiGlu<Self::Linear>,
    ) -> Result<Self::Tensor> {
        self.0.mlp(x, norm, mlp)
    }

    fn moe(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        layer: MoeLayer<'_, Self>,
        routing: &Routing,
    ) -> Result<Self::Tensor> {
        let layer = MoeLayer {
            router: layer.router,
            correction: layer.correction,
            experts: layer.experts,
            shared: layer.shared,
        };
        self.0.moe(x, norm, layer, routing)
    }
}

impl Quantization for Stub {
    type Moments = <CpuBackend as Quantization>::Moments;

    fn encodes_as(&self) -> String {
        "stub".to_owned()
    }

    fn new_moments(&self, width: usize) -> Result<Self::Moments> {
        self.0.new_moments(width)
    }

    fn watch(&self, linear: &mut Self::Linear, moments: &Self::Moments) -> Result<()> {
        self.0.watch(linear, moments)
    }

    fn watch_expansion(
        &self,
        expansion: &mut Self::Expansion,
        moments: &Self::Moments,
    ) -> Result<()> {
        self.0.watch_expansion(expansion, moments)
    }

    fn watch_experts(
        &self,
        experts: &mut Self::Experts,
        inputs: &[Option<Self::Moments>],
        downs: &[Option<Self::Moments>],
        weighting: RouteWeighting,
    ) -> Result<()> {
        self.0.watch_experts(experts, inputs, downs, weighting)
    }

    fn take_moments(&self, moments: &Self::Moments) -> Result<Hessian> {
        self.0.take_moments(moments)
    }

    fn encode_trellis(&self, jobs: Vec<EncodeJob<EncodeConfig>>) -> Result<Vec<Encoded>> {
        self.count()?;
        let encode = |job: EncodeJob<EncodeConfig>| {
            let [rows, cols] = [job.shape.in_features, job.shape.out_features]
                .map(|features| features.next_multiple_of(128));
            let shape = [rows / 16, cols / 16, job.config.bits.words_per_tile()];
            let words: Vec<u16> = (0..shape.iter().product::<usize>())
                .map(|i| (i as u16).wrapping_mul(40503).wrapping_add(12345))
                .collect();
            let linear = PackedLinear::new(PackedParts {
                words: Arc::new(words),
                shape,
                codebook: job.config.codebook,
                suh: vec![f16::from_f32(1.0 / (rows as f32).sqrt()); rows],
                svh: vec![f16::ONE; cols],
                bias: None,
            })?;
            let report = EncodeReport {
                relative_error: 1.0,
                damping: 0.0,
                scale: 1.0,
                fallback: None,
            };
            Ok(Encoded { linear, report })
        };
        jobs.into_iter().map(encode).collect()
    }

    fn encode_grouped(
        &self,
        jobs: Vec<EncodeJob<treillage_gptq::Config>>,
    ) -> Result<Vec<treillage_gptq::Quantized>> {
        self.count()?;
        self.0.encode_grouped(jobs)
    }
}
