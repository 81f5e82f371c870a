use treillage_moe::Routing;

use crate::{AttentionSpec, Choice, DenseWeights, Error, LinearShape, LinearWeights, SwiGlu};

/// Runs transformer blocks: the ops that architectures are written in.
///
/// Ops take and return handles. An implementation may run an op at once or only record it; nothing is read back
/// until [`Inference::read`]. Activations are f32 matrices of one row per token. Ops are coarse, so that an
/// implementation can fuse what is inside: a transformer block is about five of them.
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
    /// Keys and values of one layer, for one sequence.
    type KvCache: Send + Sync;

    /// What this backend runs on, for people.
    fn describe(&self) -> String;

    /// Whether ops are only recorded and run later: then it pays to ask for the next token before reading the last.
    fn runs_behind(&self) -> bool;

    /// What follows is block `index` of a model, counted from 0: to be named where something goes wrong, and for nothing else.
    fn enter_block(&self, index: usize) {
        _ = index;
    }

    /// Tokens that a prompt is best read in pieces of: more would not be faster, and activations are bounded by it.
    fn prompt_rows(&self) -> usize;

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

    /// An empty cache for up to `capacity` tokens of attention of size `spec`.
    fn new_cache(&self, spec: &AttentionSpec, capacity: usize) -> Result<Self::KvCache, Error>;

    /// Tokens in the cache.
    fn cache_len(&self, cache: &Self::KvCache) -> usize;

    /// Forgets all but the first `len` tokens.
    fn truncate_cache(&self, cache: &mut Self::KvCache, len: usize);

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
    /// k, rotates them to their positions (from [`Inference::cache_len`] on) and appends k and v to the cache.
    /// Fails with [`Error::CacheFull`] where they do not fit. Returns `[tokens, heads × head_dim]`.
    fn attention(
        &self,
        inputs: AttentionInputs<'_, Self::Tensor, Self::Norm>,
        spec: &AttentionSpec,
        cache: &mut Self::KvCache,
    ) -> Result<Self::Tensor, Error>;

    /// `x + swiglu(norm(x))`.
    fn mlp(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        mlp: &SwiGlu<Self::Linear>,
    ) -> Result<Self::Tensor, Error>;

    /// `x + Σ_e p_e · expert_e(n)` with `n = norm(x)` over the experts and weights that `routing` makes of the
    /// logits `router(n)`.
    fn moe(
        &self,
        x: &Self::Tensor,
        norm: &Self::Norm,
        router: &Self::Linear,
        experts: &Self::Experts,
        routing: &Routing,
    ) -> Result<Self::Tensor, Error>;
}

/// What [`Inference::attention`] reads: projections of the new tokens and the norms of their heads.
pub struct AttentionInputs<'a, T, N> {
    /// `[tokens, heads × head_dim]`.
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
