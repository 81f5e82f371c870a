//! The one place that chooses a backend, and what every command that runs a model starts with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use treillage_checkpoint::{Checkpoint, ModelConfig};
use treillage_cpu::{CpuBackend, Options};
use treillage_model::Model;

pub(crate) use treillage_cpu::Arithmetic;

/// What models run on. There is one backend; another one makes this an enum.
pub(crate) type Backend = CpuBackend;

/// Where to compute.
#[derive(clap::Args)]
pub(crate) struct DeviceArgs {
    /// What computes
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Threads; by default, one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
}

impl DeviceArgs {
    /// Starts the threads.
    pub(crate) fn backend(&self, arithmetic: Arithmetic) -> Result<Backend> {
        let Device::Cpu = self.device;
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.map_or(0, usize::from))
            .build_global()
            .context("cannot start threads")?;
        Ok(backend(arithmetic))
    }
}

/// Where and how to compute.
#[derive(clap::Args)]
pub(crate) struct RuntimeArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How packed linears are multiplied, token by token: with 8-bit activations, twice as fast, or exactly
    #[arg(long, value_enum, default_value_t = ArithmeticChoice::Int8)]
    arithmetic: ArithmeticChoice,
}

#[derive(Clone, Copy, ValueEnum)]
enum ArithmeticChoice {
    Int8,
    Exact,
}

impl RuntimeArgs {
    /// Starts the threads.
    pub(crate) fn backend(&self) -> Result<Backend> {
        self.device.backend(match self.arithmetic {
            ArithmeticChoice::Int8 => Arithmetic::Int8,
            ArithmeticChoice::Exact => Arithmetic::Exact,
        })
    }
}

/// A backend on the threads that there are.
pub(crate) fn backend(arithmetic: Arithmetic) -> Backend {
    CpuBackend::new(Options {
        arithmetic,
        ..Options::default()
    })
}

/// A model, ready to run on the backend that it was loaded for.
pub(crate) struct LoadedModel {
    checkpoint: Checkpoint,
    pub(crate) model: Model<Backend>,
}

impl LoadedModel {
    pub(crate) fn open(backend: &Backend, dir: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let model = Model::load(backend, &checkpoint, checkpoint.config())?;
        Ok(Self { checkpoint, model })
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Whether `backend` multiplies some of its linears with 8-bit activations.
    pub(crate) fn uses_int8(&self, backend: &Backend) -> bool {
        let int8 = |name: &str| {
            let leaf = name.rsplit('.').next().unwrap_or(name);
            ["mul1", "weight_packed", "qweight"].contains(&leaf)
        };
        backend.options().arithmetic == Arithmetic::Int8 && self.checkpoint.names().any(int8)
    }
}

/// Bytes of all weight files in `dir`.
pub(crate) fn weight_bytes(dir: &Path) -> Result<u64> {
    let context = || format!("cannot read {}", dir.display());
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(context)? {
        let path: PathBuf = entry.with_context(context)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            bytes += path.metadata().with_context(context)?.len();
        }
    }
    Ok(bytes)
}
