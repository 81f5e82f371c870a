//! Hadamard transforms, Hessians, Cholesky and block LDL for post-training quantization.

mod block_ldl;
mod cholesky;
mod error;
mod gemm;
mod gptq;
pub mod hadamard;
mod hessian;

pub use block_ldl::{BlockLdl, block_ldl};
pub use cholesky::{Cholesky, Damping, cholesky};
pub use error::Error;
pub use gemm::{Parallelism, View, ViewMut, gemm};
pub use gptq::{GptqFactor, gptq_factor};
pub use hessian::{Hessian, Precision};
