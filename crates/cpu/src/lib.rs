//! The treillage backend for CPUs: SIMD kernels that compute straight from packed weights.

mod attention;
mod backend;
mod blocks;
mod compute;
mod dots;
mod linear;
mod math;
mod moe;
mod moments;
mod norm;
pub mod packed;
mod project;
mod quantization;
mod swiglu;
mod tensor;

pub use attention::KvCache;
pub use backend::{Arithmetic, CpuBackend, Options};
pub use linear::Linear;
pub use moe::Experts;
pub use moments::Moments;
pub use norm::Norm;
pub use tensor::Tensor;
