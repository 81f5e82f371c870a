use std::fmt;

use treillage_backend::{
    AttentionInputs, AttentionSpec, Choice, DeltaInputs, DeltaSpec, DeltaWeights, DenseWeights,
    Error, Inference, LatentInputs, LatentSpec, LinearShape, LinearWeights, MixerSpec, MoeLayer,
    Routing, SwiGlu,
};

use treillage_telemetry::Telemetry;

use crate::guard::{self, Guard};
use crate::linear::{Linear, project};
use crate::ops::{
    self, Activations, Cache, DeltaRule, Embedding, Expansion, Experts, Moe, Norm, RopeTables,
    Rules, Tokens,
};
use crate::{Adapter, Context, Counts, Gpu, Mode, Options, Profile, Slice};

/// Rows from which an op is submitted as it is recorded, so that the device starts on a prompt while its rest is recorded.
const EAGER_ROWS: usize = 32;

/// Records ops and runs them together when something is read.
pub struct GpuBackend {
    context: Context,
    ropes: RopeTables,
    /// All of the guard's.
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
        let context = Context::new(gpu);
        Ok(Self {
            flags: context.guard.flags(gpu)?,
            context,
            ropes: RopeTables::default(),
            telemetry: Telemetry::default(),
        })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
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

    /// See [`Recorder::time_kernels`](crate::Recorder::time_kernels).
    pub fn time_kernels(&self, on: bool) {
        self.context.recorder.time_kernels(on);
    }

    /// Whether ops from here on take the plain path, to compare with and to fall back to: in f32, every step a kernel of its own, one
    /// linear at a time, and of up to 8 rows one expert at a time. Caches keep what they are made for.
    pub fn compute_plainly(&self, on: bool) {
        self.context.guard.path.ask(on);
    }

    /// Bytes of weights and of activations on the device; of what [`Gpu::allocated`] counts, the rest
    /// is caches of keys and values, tables of rotations, and small change.
    pub fn memory(&self) -> (u64, u64) {
        (self.context.slabs.bytes(), self.context.arena.bytes())
    }

    /// Fails if one of the flags, as they were read, is raised, and lowers them.
    fn check_flags(&self, flags: &[u8]) -> Result<(), Error> {
        let Some(input) = guard::first_noted(flags) else {
            return Ok(());
        };
        self.context.recorder.write(&self.flags, &[0; guard::BYTES]);
        self.context.guard.path.fail(&self.telemetry, input);
        Err(Error::NotFinite(input.to_string()))
    }

    /// Lets the device start on an op of many rows.
    fn recorded<T: Into<Activations>>(&self, x: T) -> Result<Activations, Error> {
        let x = x.into();
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
    type Tensor = Activations;
    type Tokens = Tokens;
    type Norm = Norm;
    type Linear = Linear;
    type Embedding = Embedding;
    type Experts = Experts;
    type Expansion = Expansion;
    type DeltaRule = DeltaRule;
    type Cache = Cache;

    fn describe(&self) -> String {
        let adapter = self.gpu().adapter();
        let checked = match self.gpu().options().mode {
            Mode::Checked => ", checked",
            Mode::Trusted => "",
        };
        format!("{} ({}{checked})", adapter.name(), adapter.api())
    }

    fn prompt_rows(&self) -> usize {
        // Of a mixture of experts each sees a few rows in a hundred, and all of its weights are decoded for them.
        2048
    }

    fn runs_behind(&self) -> bool {
        true
    }

    fn enter_block(&self, index: usize) {
        self.context.guard.enter(index);
    }

    fn recover<T, E>(&self, again: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.context.guard.path.recover(&self.telemetry, again)
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

    fn load_experts_and_shared(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
        shared: SwiGlu<LinearWeights>,
        shared_shape: LinearShape,
    ) -> Result<(Experts, SwiGlu<Linear>), Error> {
        let shapes = (hidden_to_intermediate, shared_shape);
        Experts::with_shared(&self.context, experts, shared, shapes)
    }

    fn load_expansion(
        &self,
        weights: LinearWeights,
        spec: &LatentSpec,
    ) -> Result<Expansion, Error> {
        Expansion::new(&self.context, &weights, spec)
    }

    fn load_delta(&self, weights: DeltaWeights, spec: &DeltaSpec) -> Result<DeltaRule, Error> {
        DeltaRule::new(&self.context, &weights, spec)
    }

    fn new_cache(&self, spec: &MixerSpec, capacity: usize) -> Result<Cache, Error> {
        Cache::new(&self.context, &self.ropes, spec, capacity)
    }

    fn cache_len(&self, cache: &Cache) -> usize {
        cache.len()
    }

    fn mark_cache(&self, cache: &mut Cache) -> Result<(), Error> {
        cache.mark(&self.context)
    }

    fn truncate_cache(&self, cache: &mut Cache, len: usize) -> usize {
        cache.truncate(&self.context, len)
    }

    fn upload(&self, values: &[f32], width: usize) -> Result<Activations, Error> {
        Ok(ops::upload(&self.context, values, width)?.into())
    }

    fn read(&self, x: &Activations) -> Result<Vec<f32>, Error> {
        let x = x.ready(&self.context)?;
        let slices = [&x.slice(), &self.flags];
        let [values, flags] = self.context.recorder.download(slices).wait()?;
        self.check_flags(&flags)?;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&values);
        values.truncate(x.rows() * x.width());
        Ok(values)
    }

    fn select_rows(&self, x: &Activations, rows: &[usize]) -> Result<Activations, Error> {
        if rows.iter().copied().eq(0..x.rows()) {
            return Ok(x.clone());
        }
        let x = x.ready(&self.context)?;
        Ok(ops::select(&self.context, x, rows)?.into())
    }

    fn embed(&self, table: &Embedding, ids: &[u32]) -> Result<Activations, Error> {
        Ok(table.embed(&self.context, ids)?.into())
    }

    fn embed_tokens(&self, table: &Embedding, tokens: &Tokens) -> Result<Activations, Error> {
        let rows = table.embed_on_device(&self.context, &tokens.slice(), tokens.len())?;
        Ok(rows.into())
    }

    /// Submits what is recorded: a step of decoding is one submission, and its token is on its way to the host while the
    /// next is recorded.
    fn sample(&self, logits: &Activations, choice: &Choice) -> Result<Tokens, Error> {
        let logits = logits.ready(&self.context)?;
        let ids = ops::sample(&self.context, logits, choice, (&self.flags, Guard::LOGITS))?;
        Ok(Tokens::submit(&self.context, ids, &self.flags))
    }

    fn read_tokens(&self, tokens: &Tokens) -> Result<Vec<u32>, Error> {
        tokens.wait(|flags| self.check_flags(flags))
    }

    fn norm_project<const N: usize>(
        &self,
        x: &Activations,
        norm: &Norm,
        linears: [&Linear; N],
    ) -> Result<[Activations; N], Error> {
        let normed = x.normed(&self.context, norm)?;
        let outputs = project(&self.context, &normed, &linears, None)?;
        let outputs: Vec<Activations> = outputs.into_iter().map(Activations::from).collect();
        let count = outputs.len();
        outputs.try_into().map_err(|_| Error::Shape {
            what: "outputs of linears".to_owned(),
            expected: N,
            found: count,
        })
    }

    fn project_add(
        &self,
        x: &Activations,
        linear: &Linear,
        residual: &Activations,
    ) -> Result<Activations, Error> {
        let (x, residual) = (x.ready(&self.context)?, residual.ready(&self.context)?);
        residual.check_width("width of a residual", linear.shape().out_features)?;
        Error::check_shape("rows of a residual", x.rows(), residual.rows())?;
        Ok(ops::first(project(&self.context, x, &[linear], Some(residual))?)?.into())
    }

    fn attention(
        &self,
        inputs: AttentionInputs<'_, Activations, Norm>,
        spec: &AttentionSpec,
        cache: &mut Cache,
    ) -> Result<Activations, Error> {
        let inputs = AttentionInputs {
            q: inputs.q.ready(&self.context)?,
            k: inputs.k.ready(&self.context)?,
            v: inputs.v.ready(&self.context)?,
            q_norm: inputs.q_norm,
            k_norm: inputs.k_norm,
        };
        let cache = cache.keys_and_values()?;
        self.recorded(ops::attend(&self.context, &inputs, spec, cache)?)
    }

    fn latent_attention(
        &self,
        inputs: LatentInputs<'_, Activations, Norm>,
        expansion: &Expansion,
        spec: &LatentSpec,
        cache: &mut Cache,
    ) -> Result<Activations, Error> {
        let inputs = LatentInputs {
            q: inputs.q.ready(&self.context)?,
            latent: inputs.latent.ready(&self.context)?,
            norm: inputs.norm,
        };
        let cache = cache.latents()?;
        let out = ops::latent_attend(&self.context, &inputs, expansion, spec, cache)?;
        self.recorded(out)
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_, Activations>,
        rule: &DeltaRule,
        spec: &DeltaSpec,
        cache: &mut Cache,
    ) -> Result<Activations, Error> {
        let inputs = DeltaInputs {
            qkvz: inputs.qkvz.ready(&self.context)?,
            ba: inputs.ba.ready(&self.context)?,
        };
        let out = ops::delta_rule(&self.context, &inputs, rule, spec, cache.state()?)?;
        self.recorded(out)
    }

    fn mlp(
        &self,
        x: &Activations,
        norm: &Norm,
        network: &SwiGlu<Linear>,
    ) -> Result<Activations, Error> {
        let out = ops::mlp(&self.context, x, norm, network)?;
        let flag = self.context.guard.flag();
        Ok(self.recorded(out)?.ending(flag))
    }

    fn moe(
        &self,
        x: &Activations,
        norm: &Norm,
        layer: MoeLayer<'_, Self>,
        routing: &Routing,
    ) -> Result<Activations, Error> {
        let correction = match layer.correction {
            Some(correction) => Some(correction.ready(&self.context)?),
            None => None,
        };
        let moe = Moe {
            norm,
            router: layer.router,
            experts: layer.experts,
            shared: layer.shared,
            rules: Rules {
                routing,
                correction,
            },
        };
        let x = x.ready(&self.context)?;
        self.recorded(ops::moe(&self.context, x, &moe, &self.telemetry)?)
    }
}
