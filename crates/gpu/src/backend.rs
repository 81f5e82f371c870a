use std::{convert::Infallible, fmt};

use treillage_backend::{
    AttentionInputs, AttentionSpec, Choice, DeltaInputs, DeltaSpec, DeltaWeights, DenseWeights,
    Error, Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec, MoeLayer,
    Routing, SwiGlu,
};

use treillage_telemetry::Telemetry;

use crate::linear::{Linear, project};
use crate::ops::{self, Embedding, Experts, KvCache, Norm, RopeTables, Tokens};
use crate::{Adapter, Context, Counts, Gpu, Mode, Options, Profile, Slice, Tensor};

/// Words of flags that kernels raise; a block's own are to come.
const FLAGS: u64 = 64;
/// Raised by a router.
const ROUTER: u32 = 0;
/// Raised by sampling.
const LOGITS: u32 = 1;
/// Rows from which an op is submitted as it is recorded, so that the device starts on a prompt while its rest is recorded.
const EAGER_ROWS: usize = 32;

/// Records ops and runs them together when something is read.
pub struct GpuBackend {
    context: Context,
    ropes: RopeTables,
    /// [`ROUTER`] and [`LOGITS`]; each says that a value was not finite.
    flags: Slice,
    telemetry: Telemetry,
}

impl GpuBackend {
    /// On `adapter`.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn new(adapter: &Adapter, options: Options) -> Result<Self, crate::Error> {
        Self::on(&Gpu::open(adapter, options)?)
    }

    /// On a device that is open.
    ///
    /// # Errors
    /// If it has no memory at all.
    pub fn on(gpu: &Gpu) -> Result<Self, crate::Error> {
        Ok(Self {
            context: Context::new(gpu),
            ropes: RopeTables::default(),
            flags: gpu.buffer("flags", 4 * FLAGS)?.slice(),
            telemetry: Telemetry::default(),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.context.gpu()
    }

    /// What it ran since it was made.
    pub fn counts(&self) -> Counts {
        self.context.recorder.counts()
    }

    /// What it counts.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Where time went since the last call, by kernel; `None` unless the device was opened for profiles and has a clock.
    pub fn take_profile(&self) -> Option<Profile> {
        self.context.recorder.take_profile()
    }

    /// Bytes of weights and of activations on the device; caches of keys and values come on top.
    pub fn memory(&self) -> (u64, u64) {
        (self.context.slabs.bytes(), self.context.arena.bytes())
    }

    /// The flags in use.
    fn watched(&self) -> Slice {
        self.flags.range(0, 8)
    }

    /// Fails if one of the flags, as they were read, is raised, and lowers them.
    fn check_flags(&self, flags: &[u8]) -> Result<(), Error> {
        let raised = |flag: u32| flags[4 * flag as usize..][..4] != [0; 4];
        let what = match (raised(ROUTER), raised(LOGITS)) {
            (false, false) => return Ok(()),
            (true, _) => "a router's logit",
            (false, true) => "a logit",
        };
        self.context.recorder.write(&self.watched(), &[0; 8]);
        self.telemetry.moe_metrics.nan_detected.add(1);
        Err(Error::NotFinite(what.to_owned()))
    }

    /// Lets the device start on an op of many rows.
    fn recorded(&self, x: Tensor) -> Result<Tensor, Error> {
        if x.rows() >= EAGER_ROWS {
            self.context.recorder.submit();
        }
        Ok(x)
    }
}

impl fmt::Debug for GpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuBackend")
            .field("gpu", self.gpu())
            .finish_non_exhaustive()
    }
}

impl Inference for GpuBackend {
    type Tensor = Tensor;
    type Tokens = Tokens;
    type Norm = Norm;
    type Linear = Linear;
    type Embedding = Embedding;
    type Experts = Experts;
    type Expansion = Infallible;
    type DeltaRule = Infallible;
    type Cache = KvCache;

    fn describe(&self) -> String {
        let adapter = self.gpu().adapter();
        let checked = match self.gpu().options().mode {
            Mode::Checked => ", checked",
            Mode::Trusted => "",
        };
        format!("{} ({}{checked})", adapter.name(), adapter.api())
    }

    fn runs_behind(&self) -> bool {
        true
    }

    fn load_norm(&self, weight: Vec<f32>, epsilon: f32) -> Result<Norm, Error> {
        Norm::new(&self.context, weight, epsilon)
    }

    fn load_linear(&self, weights: LinearWeights, shape: LinearShape) -> Result<Linear, Error> {
        Linear::load(&self.context, &weights, shape)
    }

    fn load_embedding(&self, table: DenseWeights) -> Result<Embedding, Error> {
        Embedding::new(&self.context, &table)
    }

    fn load_experts(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
    ) -> Result<Experts, Error> {
        Experts::new(&self.context, experts, hidden_to_intermediate)
    }

    fn load_expansion(&self, _: LinearWeights, _: &LatentSpec) -> Result<Infallible, Error> {
        Err(Error::Unsupported("latent attention"))
    }

    fn load_delta(&self, _: DeltaWeights, _: &DeltaSpec) -> Result<Infallible, Error> {
        Err(Error::Unsupported("the gated delta rule"))
    }

    fn new_cache(&self, spec: &MixerSpec, capacity: usize) -> Result<KvCache, Error> {
        let spec = match spec {
            MixerSpec::Attention(spec) => spec,
            MixerSpec::Latent(_) => return Err(Error::Unsupported("latent attention")),
            MixerSpec::Delta(_) => return Err(Error::Unsupported("the gated delta rule")),
        };
        KvCache::new(&self.context, &self.ropes, spec, capacity)
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.len()
    }

    fn mark_cache(&self, _: &mut KvCache) -> Result<(), Error> {
        Ok(())
    }

    fn truncate_cache(&self, cache: &mut KvCache, len: usize) -> usize {
        cache.truncate(len);
        cache.len()
    }

    fn upload(&self, values: &[f32], width: usize) -> Result<Tensor, Error> {
        ops::upload(&self.context, values, width)
    }

    fn read(&self, x: &Tensor) -> Result<Vec<f32>, Error> {
        let slices = [&x.slice(), &self.watched()];
        let [values, flags] = self.context.recorder.download(slices).wait()?;
        self.check_flags(&flags)?;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&values);
        values.truncate(x.rows() * x.width());
        Ok(values)
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor, Error> {
        ops::select(&self.context, x, rows)
    }

    fn embed(&self, table: &Embedding, ids: &[u32]) -> Result<Tensor, Error> {
        table.embed(&self.context, ids)
    }

    fn embed_tokens(&self, table: &Embedding, tokens: &Tokens) -> Result<Tensor, Error> {
        table.embed_on_device(&self.context, &tokens.slice(), tokens.len())
    }

    /// Submits what is recorded: a step of decoding is one submission, and its token is on its way to the host while the
    /// next is recorded.
    fn sample(&self, logits: &Tensor, choice: &Choice) -> Result<Tokens, Error> {
        let ids = ops::sample(&self.context, logits, choice, (&self.flags, LOGITS))?;
        Ok(Tokens::submit(&self.context, ids, &self.watched()))
    }

    fn read_tokens(&self, tokens: &Tokens) -> Result<Vec<u32>, Error> {
        tokens.wait(|flags| self.check_flags(flags))
    }

    fn norm_project<const N: usize>(
        &self,
        x: &Tensor,
        norm: &Norm,
        linears: [&Linear; N],
    ) -> Result<[Tensor; N], Error> {
        let normed = norm.apply(&self.context, x)?;
        let outputs = project(&self.context, &normed, &linears, None)?;
        let count = outputs.len();
        outputs.try_into().map_err(|_| Error::Shape {
            what: "outputs of linears".to_owned(),
            expected: N,
            found: count,
        })
    }

    fn project_add(&self, x: &Tensor, linear: &Linear, residual: &Tensor) -> Result<Tensor, Error> {
        residual.check_width("width of a residual", linear.shape().out_features)?;
        Error::check_shape("rows of a residual", x.rows(), residual.rows())?;
        ops::first(project(&self.context, x, &[linear], Some(residual))?)
    }

    fn attention(
        &self,
        inputs: AttentionInputs<'_, Tensor, Norm>,
        spec: &AttentionSpec,
        cache: &mut KvCache,
    ) -> Result<Tensor, Error> {
        self.recorded(ops::attend(&self.context, &inputs, spec, cache)?)
    }

    fn latent_attention(
        &self,
        _: LatentInputs<'_, Tensor, Norm>,
        expansion: &Infallible,
        _: &LatentSpec,
        _: &mut KvCache,
    ) -> Result<Tensor, Error> {
        match *expansion {}
    }

    fn delta_rule(
        &self,
        _: DeltaInputs<'_, Tensor>,
        rule: &Infallible,
        _: &DeltaSpec,
        _: &mut KvCache,
    ) -> Result<Tensor, Error> {
        match *rule {}
    }

    fn mlp(&self, x: &Tensor, norm: &Norm, network: &SwiGlu<Linear>) -> Result<Tensor, Error> {
        self.recorded(ops::mlp(&self.context, x, norm, network)?)
    }

    fn moe(
        &self,
        x: &Tensor,
        norm: &Norm,
        layer: MoeLayer<'_, Self>,
        routing: &Routing,
    ) -> Result<Tensor, Error> {
        let MoeLayer {
            router, experts, ..
        } = layer;
        let plain = Routing::softmax(routing.top_k, routing.normalize);
        if layer.correction.is_some() || *routing != plain {
            return Err(Error::Unsupported("routing by corrected sigmoids"));
        }
        if layer.shared.is_some() {
            return Err(Error::Unsupported("a shared expert"));
        }
        let out = ops::moe(
            &self.context,
            x,
            norm,
            router,
            experts,
            routing,
            ops::Watch {
                flags: &self.flags,
                telemetry: &self.telemetry,
            },
        )?;
        self.recorded(out)
    }
}
