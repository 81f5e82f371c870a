//! Compute kernels in WGSL for running quantized language models, and the composer that makes modules of them.
//!
//! The sources under `wgsl/` are plain files that any tool can read, but for two marks: a line `//!use common/sum` stands
//! for that source, once, before its user; `{{NAME}}` stands for a constant that [`compose`] is given (sizes of register
//! tiles, which WGSL wants as literals, and choices between twins such as `//!use common/reduce_{{REDUCE}}`). No device is
//! needed to compose, and nothing here knows one; with the feature `check` the composed modules can be validated and
//! translated as `wgpu` would do it.
//!
//! ```
//! let wgsl = treillage_shaders::compose("add", &[("WG", "64")])?;
//! assert!(wgsl.contains("@workgroup_size(64)"));
//! # Ok::<(), treillage_shaders::ComposeError>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`compose`] and [`ComposeError`] | imports and constants |
//! | [`kernels`], [`Kernel`], [`Specialization`] | every kernel and the constants it is tested with |
//! | [`sources`], [`Source`] | every file |
#![cfg_attr(feature = "check", doc = "| [`check`] | validation, MSL, SPIR-V |")]
//!
//! What each kernel computes, its bindings, grid and scalars stand at the top of its file; the layouts they share are in
//! the crate's README.
#![forbid(unsafe_code)]

#[cfg(feature = "check")]
pub mod check;
mod compose;
pub mod encode;
mod error;
mod families;
pub mod linear;
pub mod matmul;
mod registry;
pub mod rows;
pub mod trellis;

pub use compose::compose;
pub use error::ComposeError;
pub use registry::{Kernel, Source, Specialization, kernel, kernels, sources};
