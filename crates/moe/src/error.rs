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
    /// Groups that experts do not fall into, or that do not hold enough of them.
    #[error(
        "top {top_k} of {experts} experts in {kept} of {groups} groups: groups must divide the experts and hold enough of them"
    )]
    Groups {
        /// Groups asked for.
        groups: usize,
        /// Groups that a token may go to.
        kept: usize,
        /// Experts asked for, per token.
        top_k: usize,
        /// Experts there are.
        experts: usize,
    },
    /// A correction that is not one value per expert.
    #[error("{found} corrections of router scores for {experts} experts")]
    Correction {
        /// Values given.
        found: usize,
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
