/// How a router's logits become experts and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// Whether the chosen experts' softmax weights are divided by their sum.
    pub normalize: bool,
}
