//! The treillage backend for GPUs: [`GpuBackend`] implements [`Inference`](treillage_backend::Inference) and
//! [`Quantization`](treillage_backend::Quantization) through wgpu, on Vulkan, Metal and DX12.
//!
//! Ops record dispatches; reading a tensor submits them all, so that a token is one submission, and what a router chooses
//! never leaves the device. Activations and sums are f32, keys and values f16 or, if asked for, eight bits. It knows no architecture and reads no files.
//!
//! - [`Adapters`] lists what there is to compute on; [`Gpu`] is an open device.
//! - [`GpuBackend`]: see its trait for the ops.
//! - [`Context`], [`Recorder`], [`Arena`], [`Slabs`] are what ops are made with; they are of use without the rest.
//!
//! ```
//! use std::sync::Arc;
//!
//! use treillage_backend::{DenseData, DenseWeights, Inference, LinearShape, LinearWeights};
//! use treillage_gpu::{Adapters, GpuBackend, Options};
//!
//! let adapters = Adapters::find();
//! let Ok(adapter) = adapters.first() else {
//!     return Ok(()); // nothing to compute on
//! };
//! let backend = GpuBackend::new(adapter, Options::default())?;
//! let shape = LinearShape { in_features: 4, out_features: 2 };
//! let values = vec![1.0, 2.0, 3.0, 0.0, /* */ 0.0, 1.0, 0.0, 0.0];
//! let weight = DenseWeights::new(2, 4, DenseData::F32(Arc::new(values)))?;
//! let linear = backend.load_linear(LinearWeights::Dense { weight, bias: None }, shape)?;
//!
//! let x = backend.upload(&[1.0, 1.0, 2.0, 5.0], 4)?;
//! let residual = backend.upload(&[0.5, 0.5], 2)?;
//! let y = backend.project_add(&x, &linear, &residual)?;
//! assert_eq!(backend.read(&y)?, [9.5, 1.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//! All but [`linear`] and [`quantize`] are private; their items are here.
//!
//! | module | |
//! |---|---|
//! | `adapters`, `gpu`, `error` | what there is to compute on, an open device, what goes wrong |
//! | `buffer`, `upload`, `slabs` | memory, filling it, weights in it |
//! | `arena`, `tensor` | memory that is lent, activations in it |
//! | `pipeline`, `cache`, `recorder`, `profile` | kernels compiled, kept on disk, recorded, timed |
//! | `guard` | flags that kernels raise at what is not finite |
//! | `context` | all of the above, and kernels by name |
//! | [`linear`] | linears of every format, by themselves and stacked |
//! | `ops`, `backend` | what architectures ask for |
//! | `moments`, `quantization` | what calibration gathers, and who asks for it |
//! | [`quantize`] | codes of weights |

mod adapters;
mod arena;
mod backend;
mod buffer;
mod cache;
mod context;
mod error;
mod gpu;
mod guard;
pub mod linear;
mod moments;
mod ops;
mod pipeline;
mod profile;
mod quantization;
pub mod quantize;
mod recorder;
mod slabs;
mod tensor;
mod upload;

pub use adapters::{Adapter, AdapterKind, Adapters};
pub use arena::{Arena, Region};
pub use backend::GpuBackend;
pub use buffer::{ALIGNMENT, Buffer, Slice};
pub use cache::user_cache;
pub use context::{Constant, Context};
pub use error::Error;
pub use gpu::{CacheBits, Gpu, Mode, Options};
pub use moments::Moments;
pub use ops::{Activations, Cache, DeltaRule, Embedding, Expansion, Experts, Norm, Tokens};
pub use pipeline::{MAX_BINDINGS, MAX_IMMEDIATES, Pipeline};
pub use profile::{KernelProfile, Profile, Work};
pub use recorder::{Counts, Dispatch, Download, Recorder};
pub use slabs::Slabs;
pub use tensor::Tensor;
/// What an adapter can do, in the terms of wgpu.
pub use wgpu::Features;
