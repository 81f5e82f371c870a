//! The one place that chooses a backend, and what every command that runs a model starts with.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use treillage_backend::{Inference, Quantization};
use treillage_checkpoint::{Checkpoint, ModelConfig};
use treillage_cpu::{CpuBackend, Options};
use treillage_gpu::{Adapters, CacheBits, Gpu, GpuBackend};
use treillage_model::Model;
use treillage_telemetry::{Counts, Stages};

use crate::stats::StatsArgs;

pub(crate) use treillage_cpu::Arithmetic;

/// What quantizes and runs models, as the command line chose: commands are written once, for any [`Runs`].
pub(crate) enum Runner {
    Cpu(Box<CpuBackend>),
    Gpu(Box<GpuBackend>),
}

/// A backend as commands see it.
pub(crate) trait Runs: Quantization + Sized {
    /// Whether it multiplies some packed linears with 8-bit activations.
    fn uses_int8(&self) -> bool;

    /// What it counted.
    fn counts(&self) -> Counts;

    /// One on the same device that computes with all the precision that weights have.
    fn exact(&self) -> Result<Self>;
}

impl Runs for CpuBackend {
    fn uses_int8(&self) -> bool {
        self.options().arithmetic == Arithmetic::Int8
    }

    fn counts(&self) -> Counts {
        self.telemetry().counts()
    }

    fn exact(&self) -> Result<Self> {
        Ok(backend(Arithmetic::Exact))
    }
}

impl Runs for GpuBackend {
    fn uses_int8(&self) -> bool {
        !self.gpu().options().exact
    }

    fn counts(&self) -> Counts {
        self.telemetry().counts()
    }

    fn exact(&self) -> Result<Self> {
        let options = treillage_gpu::Options {
            exact: true,
            cache_bits: CacheBits::Sixteen,
            ..self.gpu().options()
        };
        Ok(GpuBackend::new(self.gpu().adapter(), options)?)
    }
}

/// Where to compute.
#[derive(clap::Args)]
pub(crate) struct DeviceArgs {
    /// What computes: cpu, gpu, gpu:N (see `treillage devices`), or auto for a GPU if there is one
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Threads; by default, one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    /// A GPU if there is one, never a driver that computes on the CPU.
    Auto,
    Cpu,
    /// Number N of `treillage devices`.
    Gpu(usize),
}

impl FromStr for Device {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu(0)),
            _ => {
                let number = text.strip_prefix("gpu:").and_then(|n| n.parse().ok());
                number
                    .map(Device::Gpu)
                    .ok_or("expected auto, cpu, gpu or gpu:N")
            }
        }
    }
}

impl DeviceArgs {
    /// What the demo runs on, its threads started: the CPU.
    pub(crate) fn cpu(&self, arithmetic: Arithmetic) -> Result<CpuBackend> {
        if let Device::Gpu(_) = self.device {
            bail!("--device gpu: the demo runs on the CPU (--device cpu)");
        }
        self.start_threads()?;
        Ok(backend(arithmetic))
    }

    /// What quantizes, with all the precision that weights have, its threads started.
    pub(crate) fn quantizer(&self) -> Result<Runner> {
        let on_gpu = treillage_gpu::Options {
            exact: true,
            ..treillage_gpu::Options::default()
        };
        self.runner(Arithmetic::Exact, on_gpu)
    }

    /// What quantizes or runs models, on the CPU or on a GPU, its threads started.
    fn runner(&self, on_cpu: Arithmetic, on_gpu: treillage_gpu::Options) -> Result<Runner> {
        self.start_threads()?;
        let cpu = || match on_gpu.cache_bits {
            CacheBits::Eight => {
                bail!("--cache-bits 8: only GPUs keep such caches (--device gpu)")
            }
            CacheBits::Sixteen => Ok(Runner::Cpu(Box::new(backend(on_cpu)))),
        };
        let adapters = match self.device {
            Device::Cpu => return cpu(),
            Device::Auto | Device::Gpu(_) => Adapters::find(),
        };
        let adapter = match self.device {
            Device::Gpu(index) => adapters.get(index)?,
            Device::Cpu | Device::Auto => match adapters.hardware() {
                Some(adapter) => adapter,
                None => return cpu(),
            },
        };
        let gpu = match treillage_gpu::user_cache() {
            Some(folder) => Gpu::open_cached(adapter, on_gpu, &folder)?,
            None => Gpu::open(adapter, on_gpu)?,
        };
        Ok(Runner::Gpu(Box::new(GpuBackend::on(&gpu)?)))
    }

    fn start_threads(&self) -> Result<()> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.map_or(0, usize::from))
            .build_global()
            .context("cannot start threads")
    }
}

fn cache_bits(text: &str) -> Result<CacheBits, &'static str> {
    match text {
        "8" => Ok(CacheBits::Eight),
        "16" => Ok(CacheBits::Sixteen),
        _ => Err("expected 8 or 16"),
    }
}

/// Where and how to compute.
#[derive(clap::Args)]
pub(crate) struct RuntimeArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How the CPU multiplies packed linears, token by token: with 8-bit activations, twice as fast, or exactly
    #[arg(long, value_enum, default_value_t = ArithmeticChoice::Int8)]
    arithmetic: ArithmeticChoice,
    /// Bits of a value in the cache of keys and values: 8 takes half the memory of 16 and reads half as much, on a GPU
    #[arg(long, value_name = "8|16", value_parser = cache_bits)]
    cache_bits: Option<CacheBits>,
    #[command(flatten)]
    stats: StatsArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum ArithmeticChoice {
    Int8,
    Exact,
}

impl RuntimeArgs {
    /// The end of a command that ran on `backend`: its result, also where that is an error, after what there is to tell.
    pub(crate) fn end<T>(&self, backend: &impl Runs, result: Result<T>) -> Result<T> {
        self.stats.tell(Some(&backend.counts()))?;
        result
    }

    /// The clock of the run's stages.
    pub(crate) fn stages(&self) -> &Stages {
        self.stats.stages()
    }

    /// What runs models, its threads started.
    pub(crate) fn runner(&self) -> Result<Runner> {
        let arithmetic = match self.arithmetic {
            ArithmeticChoice::Int8 => Arithmetic::Int8,
            ArithmeticChoice::Exact => Arithmetic::Exact,
        };
        let on_gpu = treillage_gpu::Options {
            cache_bits: self.cache_bits.unwrap_or_default(),
            ..treillage_gpu::Options::default()
        };
        self.device.runner(arithmetic, on_gpu)
    }
}

/// A CPU backend on the threads that there are.
pub(crate) fn backend(arithmetic: Arithmetic) -> CpuBackend {
    CpuBackend::new(Options {
        arithmetic,
        ..Options::default()
    })
}

/// A model, ready to run on the backend that it was loaded for.
pub(crate) struct LoadedModel<B: Inference> {
    checkpoint: Checkpoint,
    pub(crate) model: Model<B>,
}

impl<B: Runs> LoadedModel<B> {
    pub(crate) fn open(backend: &B, dir: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let model = Model::load(backend, &checkpoint, checkpoint.config())?;
        Ok(Self { checkpoint, model })
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Whether `backend` multiplies some of its linears with 8-bit activations.
    pub(crate) fn uses_int8(&self, backend: &B) -> bool {
        let int8 = |name: &str| {
            let leaf = name.rsplit('.').next().unwrap_or(name);
            ["mul1", "weight_packed", "qweight"].contains(&leaf)
        };
        backend.uses_int8() && self.checkpoint.names().any(int8)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named() {
        let device = |text: &str| text.parse::<Device>();
        assert_eq!(device("auto"), Ok(Device::Auto));
        assert_eq!(device("cpu"), Ok(Device::Cpu));
        assert_eq!(device("gpu"), Ok(Device::Gpu(0)));
        assert_eq!(device("gpu:3"), Ok(Device::Gpu(3)));
        for wrong in ["", "GPU", "gpu:", "gpu:-1", "gpu:x", "cuda"] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }
}
