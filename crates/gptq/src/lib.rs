//! MR-GPTQ: group quantization of linear layers to INT and FP4 formats, with micro-rotations and error feedback.
//!
//! A linear's weights become codes of 2, 3, 4 or 8 bits with a scale per group of inputs: integers, NVFP4, MXFP4 or plain FP4. GPTQ
//! (arXiv 2210.17323) chooses the codes so that each weight makes up for the errors of those before it, in the metric of the
//! layer's output; MR-GPTQ (arXiv 2509.23202) rotates short runs of inputs first, where that helps. What comes out is what other
//! engines' files hold, bit for bit.
//!
//! - [`quantize_linear`] makes a [`GroupedLinear`] of a weight matrix and the second moment of its inputs, as [`Config`] says, and
//!   reports how well that went: relative error, damping, and why, if codes were only rounded to nearest after all;
//! - [`Calibration`] does the same for several linears that share an input, and factorizes once;
//! - [`choose_rotation`] says which rotation suits an input, by the error on tokens that nothing was fitted to;
//! - [`choose_scales`] and [`round_to_nearest`] are the parts of it that need no Hessian, [`relative_error`] is the judge.
//!
//! An nalgebra matrix and a Hessian in; codes, scales and the relative error out:
//!
//! ```
//! use nalgebra::DMatrix;
//! use treillage_gptq::{Config, Format, quantize_linear};
//!
//! let weights = DMatrix::from_fn(256, 64, |i, o| ((i * o * 7 + i * i + o) as f32).sin()); // (in, out)
//! let inputs = DMatrix::from_fn(256, 900, |i, t| ((t * t + i) as f32 * 0.37).sin() + ((t * i) as f32).cos());
//! let hessian = &inputs * inputs.transpose() / 900.0; // E[x xᵀ]
//!
//! let quantized = quantize_linear(&weights, Some(&hessian), &Config::new(Format::NvFp4))?;
//! let parts = quantized.linear.parts(); // parts.codes, parts.scales, ...
//! assert_eq!((parts.codes.len(), parts.scales.len()), (64 * 256 / 2, 64 * 256 / 16));
//! assert!(quantized.report.relative_error < 0.006);
//! # Ok::<(), treillage_gptq::Error>(())
//! ```
//!
//! # The sweep
//!
//! It is the pull form: with `H + λI = V Vᵀ`, `V` upper triangular, `t_i = w_i + Σ_{j<i} (w_j − q_j) V_ji / V_ii` and `q_i = Q(t_i)`.
//! The codes are those of the textbook, which factorizes the inverse and pushes errors forward; but nothing is inverted, and
//! weights are only read. Outputs do not interact: each is a lane of a vector, bands of them are shared out over the current
//! rayon pool, and results do not depend on the number of threads, to the bit. (They do depend on the processor: some have fused
//! multiply-adds.) Inputs are taken in order of descending `diag H` while groups stay as they are, so files need no order.
//!
//! It reads and writes no files and knows no models.
//!
//! # Modules
//! | module | |
//! |---|---|
//! | [`e2m1`], [`int`] | what codes stand for |
//! | [`e4m3`], [`e8m0`] | what bytes of scales stand for |
//! | [`pack`] | codes as files hold them |
#![forbid(unsafe_code)]

mod calibration;
mod choose;
mod config;
pub mod e2m1;
pub mod e4m3;
pub mod e8m0;
mod error;
mod fidelity;
mod format;
pub mod int;
mod linear;
pub mod pack;
mod quantize;
mod rotation;
mod scales;
mod solve;

pub use calibration::Calibration;
pub use choose::{RotationChoice, choose_rotation};
pub use config::{Config, MxRule, Rotation, ScaleRule, ScaleType, Solver};
pub use error::Error;
pub use fidelity::relative_error;
pub use format::{Element, Format, IntBits};
pub use linear::{GroupedLinear, Parts, Scales};
pub use quantize::{Fallback, Quantized, Report, quantize_linear};
pub use scales::{GroupScales, choose_scales, global_scale, round_to_nearest};
