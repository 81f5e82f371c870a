//! The treillage backend for CPUs: [`CpuBackend`] implements [`Inference`](treillage_backend::Inference) and
//! [`Quantization`](treillage_backend::Quantization).
//!
//! Packed linears (trellis codes) and grouped ones (INT and FP4 codes) are multiplied straight from their words; a decoded
//! matrix is never in memory. Dense ones are read in the type they are stored in. Activations, norms, softmax and sums are
//! f32, but for packed and grouped linears where [`Arithmetic::Int8`] is asked for. It knows no architecture, reads no files
//! and starts no threads.
//!
//! Ops run at once, on the threads of the rayon pool they are called in, over blocks of 128 output columns of all linears
//! or experts at hand, or over heads. Results do not depend on the number of threads, to the bit. They do depend on the
//! instruction set, which is chosen at run time: AVX-512, AVX2, NEON or what the compiler makes of plain Rust.
//!
//! - [`CpuBackend`], made with [`Options`]: see its traits for the ops.
//! - [`Tensor`], [`Norm`], [`Linear`], [`Experts`], [`Expansion`], [`DeltaRule`], [`Cache`], [`Moments`] are the handles that ops take and give.
//! - [`packed`] and [`grouped`] multiply packed and grouped linears; they are of use without the rest.
//!
//! ```
//! use std::sync::Arc;
//!
//! use treillage_backend::{DenseData, DenseWeights, Inference, LinearShape, LinearWeights};
//! use treillage_cpu::CpuBackend;
//!
//! let backend = CpuBackend::default();
//! let shape = LinearShape { in_features: 3, out_features: 2 };
//! let values = vec![1.0, 2.0, 3.0, /* */ 0.0, 1.0, 0.0];
//! let weight = DenseWeights::new(2, 3, DenseData::F32(Arc::new(values)))?;
//! let linear = backend.load_linear(LinearWeights::Dense { weight, bias: None }, shape)?;
//!
//! let x = backend.upload(&[1.0, 1.0, 2.0], 3)?;
//! let residual = backend.upload(&[0.5, 0.5], 2)?;
//! let y = backend.project_add(&x, &linear, &residual)?;
//! assert_eq!(backend.read(&y)?, [9.5, 1.5]);
//! # Ok::<(), treillage_backend::Error>(())
//! ```
//!
//! # Modules
//! All but [`packed`] and [`grouped`] are private; their items are here.
//!
//! | module | |
//! |---|---|
//! | `backend`, `quantization` | the traits' methods, each a call into the modules below |
//! | `tensor`, `moments` | activations, and second moments of them |
//! | `blocks`, `project` | parallel work over output columns; projections with a norm before or a residual after |
//! | `linear`, `dots`, [`packed`], [`grouped`] | linears; products with dense, with packed and with grouped weights |
//! | `cache` | what a layer keeps of a sequence |
//! | `attention` | to keys and values or to latents: positions, the running softmax |
//! | `delta` | the gated delta rule, token by token and in chunks |
//! | `swiglu`, `moe` | networks and routed experts |
//! | `guard` | values that are not finite: where they are met first, and whether to compute in f32 alone |
//! | `norm`, `math` | RMS norm; functions that vectorise |

mod attention;
mod backend;
mod blocks;
mod cache;
mod compute;
mod delta;
mod dots;
pub mod grouped;
mod guard;
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

pub use attention::Expansion;
pub use backend::{Arithmetic, CpuBackend, Options};
pub use cache::Cache;
pub use delta::DeltaRule;
pub use linear::Linear;
pub use moe::Experts;
pub use moments::Moments;
pub use norm::Norm;
pub use tensor::Tensor;
