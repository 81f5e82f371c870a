/// Why logits could not be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A top-k that no choice of experts satisfies.
    #[error("top {top_k} of {experts} experts: the number must lie between 1 and {experts}")]
    TopK {
        /// Experts asked for, per token.
        top_k: usize,
        /// Experts there are.
        experts: usize,
    },
    /// Logits that are not whole rows.
    #[error("{found} router logits are not a multiple of {experts} experts")]
    RowLength {
        /// Values given.
        found: usize,
        /// Experts there are.
        experts: usize,
    },
    /// A logit that is NaN or +∞.
    #[error("a router logit of token {token} is not finite")]
    NotFinite {
        /// The token's row.
        token: usize,
    },
}
