use treillage_moe::Routing;

use crate::{
    AttentionSpec, Choice, DeltaSpec, DeltaWeights, DenseWeights, Error, LatentSpec, LinearShape,
    LinearWeights, MixerSpec, SwiGlu,
};

/// Runs transformer blocks: the ops that architectures are written in.
///
/// Ops take and return handles. An implementation may run an op at once or only record it; nothing is read back
/// until [`Inference::read`]. Activations are f32 matrices of one row per token. Ops are coarse, so that an
/// implementation can fuse what is inside: a transformer block is about five of them,
/// whatever its kind.
pub trait Inference: Send + Sync {
    /// Activations `[tokens, width]`. Cloning copies the handle.
    type Tensor: Clone + Send + Sync;
    /// Token ids, one per row of logits, which the host need not know. Cloning copies the handle.
    type Tokens: Clone + Send + Sync;
    /// The weight and epsilon of an RMS norm.
    type Norm: Send + Sync;
    /// A linear layer, dense or packed.
    type Linear: Send + Sync;
    /// A table of token embeddings.
    type Embedding: Send + Sync;
    /// The routed experts of one layer.
    type Experts: Send + Sync;
    /// The linear that makes keys and values of latents.
    type Expansion: Send + Sync;
    /// The weights of a gated DeltaNet that are no linears.
    type DeltaRule: Send + Sync;
    /// What one layer keeps of one sequence: keys and values, latents, or a recurrent state.
    type Cache: Send + Sync;

    /// What this backend runs on, for people.
    fn describe(&self) -> String;

    /// Whether ops are only recorded and run later: then it pays to ask for the next token before reading the last.
    fn runs_behind(&self) -> bool;

    /// Tokens that a prompt is best read in pieces of: more would not be faster, and activations are bounded by it.
    fn prompt_rows(&self) -> usize;

    /// What follows is block `index` of a model, counted from 0: to be named where something goes wrong, and for nothing else.
    /// Blocks of `treillage-model` say so themselves.
    fn enter_block(&self, index: usize) {
        _ = index;
    }

    /// Runs `again`, which repeats what failed with [`Error::NotFinite`] and reads the result, with all of its ops on the
    /// reference path: in f32, where others are faster. Where that is finite it is counted as a recovery. A backend that has one path
    /// runs it as it is.
    fn recover<T, E>(&self, again: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        again()
    }

    /// Loads an RMS norm: `x / sqrt(mean(x²) + epsilon) ∘ weight`.
    fn load_norm(&self, weight: Vec<f32>, epsilon: f32) -> Result<Self::Norm, Error>;

    /// Loads a linear of logical size `shape`; fails with [`Error::Shape`] if `weights` is not of that size.
    fn load_linear(
        &self,
        weights: LinearWeights,
        shape: LinearShape,
    ) -> Result<Self::Linear, Error>;

    /// Loads an embedding table `[vocabulary, hidden]`.
    fn load_embedding(&self, table: DenseWeights) -> Result<Self::Embedding, Error>;

    /// Loads a layer's experts, `gate` and `up` of size `hidden_to_intermediate`, `down` the other way round.
    fn load_experts(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
    ) -> Result<Self::Experts, Error>;

    /// Loads a layer's experts and the one of size `shared_shape` that sees every token, for a backend that is faster with both in
    /// one place: [`Inference::moe`] is given them together. Otherwise what [`Inference::load_experts`] and
    /// [`Inference::load_linear`] do.
    fn load_experts_and_shared(
        &self,
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
        shared: SwiGlu<LinearWeights>,
        shared_shape: LinearShape,
    ) -> Result<(Self::Experts, SwiGlu<Self::Linear>), Error> {
        let back = LinearShape {
            in_features: shared_shape.out_features,
            out_features: shared_shape.in_features,
        };
        let experts = self.load_experts(experts, hidden_to_intermediate)?;
        let shared = SwiGlu {
            gate: self.load_linear(shared.gate, shared_shape)?,
            up: self.load_linear(shared.up, shared_shape)?,
            down: self.load_linear(shared.down, back)?,
        };
        Ok((experts, shared))
    }

    /// Loads the expansion of latents, a linear of the size [`LatentSpec::expansion`]. In which form it is kept is the
    /// backend's business: attention multiplies by it and by its transpose.
    fn load_expansion(
        &self,
        weights: LinearWeights,
        spec: &LatentSpec,
    ) -> Result<Self::Expansion, Error>;

    /// Loads what a gated DeltaNet of size `spec` has beside its linears.
    fn load_delta(&self, weights: DeltaWeights, spec: &DeltaSpec)
    -> Result<Self::DeltaRule, Error>;

    /// An empty cache for up to `capacity` tokens of what `spec` describes.
    fn new_cache(&self, spec: &MixerSpec, capacity: usize) -> Result<Self::Cache, Error>;

    /// Tokens in the cache.
    fn cache_len(&self, cache: &Self::Cache) -> usize;

    /// Makes the tokens there are now a point that [`Inference::truncate_cache`] can go back to, in the place of an
    /// earlier one. A recurrent state is copied; where any token can be gone back to, there is nothing to do.
    fn mark_cache(&self, cache: &mut Self::Cache) -> Result<(), Error>;

    /// Forgets all but the first `len` tokens and gives how many remain: all, if there are no more. A recurrent state
    /// cannot be wound back token by token, so that such a cache goes back to the marked point if that is not beyond `len`,
    /// and is emptied if it is.
    fn truncate_cache(&self, cache: &mut Self::Cache, len: usize) -> usize;

    /// Brings activations from the host: `values` is row-major, `width` values a row. Fails with [`Error::Shape`] if
    /// they are not whole rows.
    fn upload(&self, values: &[f32], width: usize) -> Result<Self::Tensor, Error>;

    /// Waits for all recorded work and brings `x` to the host, row-major.
    fn read(&self, x: &Self::Tensor) -> Result<Vec<f32>, Error>;

    /// Rows `rows` of `x`, in that order. Fails with [`Error::Shape`] on a row that is not there.
    fn select_rows(&self, x: &Self::Tensor, rows: &[usize]) -> Result<Self::Tensor, Error>;

    /// One row of the table per id. Fails with [`Error::Token`] on an id outside it.
    fn embed(&self, table: &Self::Embedding, ids: &[u32]) -> Result<Self::Tensor, Error>;

    /// One row of the table per token. Those come from logits over the same vocabulary, so none is outside the table.
    fn embed_tokens(
        &self,
        table: &Self::Embedding,
        tokens: &Self::Tokens,
    ) -> Result<Self::Tensor, Error>;

    /// Chooses a token for each row of `logits`, as [`Choice::choose`] does, or of a single row if it has a temperature: a
    /// draw is for one token, and [`Error::Shape`] says so. A backend that computes probabilities in f32
    /// may choose a neighbour where the draw falls within rounding of the border between two.
    fn sample(&self, logits: &Self::Tensor, choice: &Choice) -> Result<Self::Tokens, Error>;

    /// Waits for `tokens`, not for ops recorded after them, and brings them to the host. Fails with
    /// [`Error::NotFinite`] if there was nothing to choose, unless [`Inference::sample`] did.
    fn read_tokens(&self, tokens: &Self::Tokens) -> Result<Vec<u32>, Error>;

    /// `linear(norm(x))` for each of `linears`, which share one input.
    fn norm_project<const N: usize>(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        linears: [&Self::Linear; N],
    ) -> Result<[Self::Tensor; N], Error>;

    /// `residual + linear(x)`.
    fn project_add(
        &self,
        x: &Self::Tensor,
        linear: &Self::Linear,
        residual: &Self::Tensor,
    ) -> Result<Self::Tensor, Error>;

    /// Causal grouped-query attention of new tokens to the cache and to each other. Normalises each head of q and
    /// k, rotates them to their positions (from [`Inference::cache_len`] on) and appends k and v to the cache; multiplies
    /// by sigmoids of gates, if `spec` has them. Fails with [`Error::CacheFull`] where the tokens do not fit. Returns
    /// `[tokens, heads × head_dim]`.
    fn attention(
        &self,
        inputs: AttentionInputs<'_, Self::Tensor, Self::Norm>,
        spec: &AttentionSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor, Error>;

    /// Causal multi-head latent attention of new tokens to the cache and to each other. Normalises the new latents `c`,
    /// rotates queries and keys to their positions, and appends to the cache. With `[k_h | v_h] = expansion_h c`, the
    /// output of head `h` is `Σ_s p_s v_hs`, `p = softmax(scale · (q_h · k_hs + q'_h · k'_s))`, where `'` marks the part
    /// that rotates. Whether keys and values are made, or queries taken to the latents' side by the transposed expansion,
    /// is the backend's choice. Fails with [`Error::CacheFull`] where the tokens do not fit. Returns
    /// `[tokens, heads × value_dim]`.
    fn latent_attention(
        &self,
        inputs: LatentInputs<'_, Self::Tensor, Self::Norm>,
        expansion: &Self::Expansion,
        spec: &LatentSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor, Error>;

    /// The gated delta rule over new tokens, from the state in the cache, which it replaces.
    ///
    /// 1. Queries, keys and values go through a causal depthwise convolution over [`DeltaSpec::kernel`] tokens, zeros
    ///    before the first, and SiLU.
    /// 2. For each value head: `β = sigmoid(b)`, `g = −e^log_rate · softplus(a + time_bias)`; q and k of its key head are
    ///    divided by `√(Σx² + 1e-6)`, and q by `√key_dim`.
    /// 3. Its state `S`, `[key_dim, value_dim]` in f32 and zero before the first token, becomes `e^g S`, then
    ///    `S + k uᵀ` with `u = β (v − Sᵀk)`; the head gives `o = Sᵀq`.
    /// 4. `rms_norm(o) · silu(z)` for each head.
    ///
    /// Fails with [`Error::CacheFull`] where the tokens do not fit. Returns `[tokens, value_heads × value_dim]`.
    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_, Self::Tensor>,
        rule: &Self::DeltaRule,
        spec: &DeltaSpec,
        cache: &mut Self::Cache,
    ) -> Result<Self::Tensor, Error>;

    /// `x + swiglu(norm(x))`.
    fn mlp(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        mlp: &SwiGlu<Self::Linear>,
    ) -> Result<Self::Tensor, Error>;

    /// `x + Σ_e p_e · expert_e(n) + g · shared(n)` with `n = norm(x)`, over the experts and weights that `routing` makes
    /// of the logits `router(n)`; see [`MoeLayer`].
    fn moe(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        layer: MoeLayer<'_, Self>,
        routing: &Routing,
    ) -> Result<Self::Tensor, Error>;
}

/// What [`Inference::attention`] reads: projections of the new tokens and the norms of their heads.
pub struct AttentionInputs<'a, T, N> {
    /// `[tokens, heads × head_dim]`; with gates `[tokens, heads × 2 head_dim]`, each head's query and then its gate.
    pub q: &'a T,
    /// `[tokens, kv_heads × head_dim]`.
    pub k: &'a T,
    /// `[tokens, kv_heads × head_dim]`.
    pub v: &'a T,
    /// RMS norm of each query head, if the architecture has one.
    pub q_norm: Option<&'a N>,
    /// RMS norm of each key head, if the architecture has one.
    pub k_norm: Option<&'a N>,
}

/// What [`Inference::latent_attention`] reads: projections of the new tokens and the norm of their latents.
pub struct LatentInputs<'a, T, N> {
    /// `[tokens, heads × (nope_dim + rope.dims)]`.
    pub q: &'a T,
    /// `[tokens, rank + rope.dims]`: the latent, and the part of the keys that rotates.
    pub latent: &'a T,
    /// RMS norm of the latent alone.
    pub norm: &'a N,
}

/// What [`Inference::delta_rule`] reads: projections of the new tokens.
pub struct DeltaInputs<'a, T> {
    /// `[tokens, projected]`: for each key head its query, its key, the values of its value heads, and their output
    /// gates z.
    pub qkvz: &'a T,
    /// `[tokens, 2 value_heads]`: for each key head b of its value heads, and then a.
    pub ba: &'a T,
}

/// The second half of a block that has experts.
pub struct MoeLayer<'a, B: Inference + ?Sized> {
    /// hidden → one logit per expert.
    pub router: &'a B::Linear,
    /// `[1, experts]`: added to the experts' scores while they are compared, and only then.
    pub correction: Option<&'a B::Tensor>,
    /// The experts that tokens are routed to.
    pub experts: &'a B::Experts,
    /// One that sees every token.
    pub shared: Option<SharedExpert<'a, B::Linear>>,
}

/// An expert that sees every token.
pub struct SharedExpert<'a, L> {
    /// What it computes.
    pub network: &'a SwiGlu<L>,
    /// hidden → one logit, whose sigmoid is the factor `g` of its output; 1 without.
    pub gate: Option<&'a L>,
}

impl<L> Clone for SharedExpert<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for SharedExpert<'_, L> {}
