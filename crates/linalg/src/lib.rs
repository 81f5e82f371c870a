//! The linear algebra of post-training quantization: Hadamard transforms, Hessians and their factors.
//!
//! Matrices at its face are nalgebra's `DMatrix<f32>`, column-major; the work inside is done by [faer], which no other crate of
//! the workspace names: nalgebra's own factorizations take ten times as long at the sizes of a linear layer. It is not a general
//! library: there is what trellis quantization (LDLQ) and GPTQ need of symmetric matrices, and nothing else. It knows no number
//! formats, no weights and no files.
//!
//! - [`hadamard`] rotates activations, weights and Hessians blockwise, with AVX-512, AVX2 or NEON where there is one;
//! - [`Hessian`] gathers `Σ x xᵀ` over the inputs of a layer, batch by batch, and shrinks experts' toward their layer's;
//! - [`block_ldl`] gives the feedback matrix of LDLQ, [`gptq_factor`] the sweep matrix of GPTQ, [`cholesky`] the plain factor.
//!   Each damps the diagonal as far as it must ([`Damping`]) and says how far that was;
//! - [`gemm`] multiplies windows of matrices ([`View`], [`ViewMut`]), [`syrk`] one with itself;
//! - [`lanes`] is what loops are written in that are to use the vector instructions of whatever machine they run on.
//!
//! Results do not depend on the number of threads, to the bit: products and factorizations use the current rayon pool, but each
//! sum is taken in the same order. They do depend on the processor, whose vectors may be wider.
//!
//! ```
//! use treillage_linalg::{Damping, Hessian, block_ldl, hadamard};
//!
//! // Activations of 300 tokens into a layer of 128 inputs, which follow one another closely.
//! let rows: Vec<f32> = (0..300 * 128).map(|i| (i as f32 * 0.01).sin() + (i as f32 * 1.7).cos()).collect();
//! let mut hessian = Hessian::new(128);
//! hessian.update(&rows)?;
//! assert_eq!((hessian.count(), hessian.dropped()), (300.0, 0));
//!
//! // In the rotated basis, where LDLQ works, with 16 rows to a block.
//! let mut h = hessian.mean();
//! hadamard::rotate_both(&mut h, 128);
//! let ldl = block_ldl(&h, 16, Damping::default())?;
//!
//! // L D Lᵀ is the Hessian again, with what was added to its diagonal.
//! let mut d = nalgebra::DMatrix::zeros(128, 128);
//! for start in (0..128).step_by(16) {
//!     d.view_mut((start, start), (16, 16)).copy_from(&ldl.diagonal.rows(start, 16));
//! }
//! let l = &ldl.lower + nalgebra::DMatrix::identity(128, 128);
//! let damped = h + nalgebra::DMatrix::identity(128, 128) * ldl.damping;
//! assert!((&l * d * l.transpose() - damped).abs().max() < 1e-4);
//! # Ok::<(), treillage_linalg::Error>(())
//! ```
//!
//! [faer]: https://docs.rs/faer

mod block_ldl;
mod cholesky;
mod error;
mod gemm;
mod gptq;
mod gram;
pub mod hadamard;
mod hessian;
pub mod lanes;

pub use block_ldl::{BlockLdl, block_ldl};
pub use cholesky::{Cholesky, Damping, cholesky};
pub use error::Error;
pub use gemm::{Parallelism, View, ViewMut, gemm, syrk};
pub use gptq::{GptqFactor, gptq_factor};
pub use hessian::{Hessian, Precision};
