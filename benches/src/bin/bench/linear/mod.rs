//! `linear`: how fast is one packed or grouped linear multiplied, straight from its words or codes?

mod cpu;
mod gpu;

use anyhow::Result;
use treillage_benches::{artifact::Artifact, random::Kind};
use treillage_trellis::{Bits, Codebook};

use crate::device::Device;
use crate::{ArithmeticChoice, Storage};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What multiplies: cpu, gpu, or gpu:N as `treillage devices` numbers them
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// trellis, int2, int3, int4, int8, nvfp4, mxfp4, fp4, bf16; by default trellis, on a CPU also int4, int8, nvfp4 and mxfp4
    #[arg(long, value_delimiter = ',')]
    formats: Vec<Storage>,
    /// Bits per weight of trellis codes; by default 2, 3, 4 on a CPU, 3 on a GPU
    #[arg(long, value_delimiter = ',')]
    bits: Vec<usize>,
    /// Codebooks of trellis codes
    #[arg(long, value_delimiter = ',', default_values_t = [Codebook::Mul1])]
    codebook: Vec<Codebook>,
    /// Inputs x outputs, on a GPU also experts x inputs x outputs: so many experts of a row in one go. By default those of an expert, on
    /// a GPU also of attention and of a head
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<String>,
    /// Rows of activations; by default 1, 4, 64 on a CPU, 1 to 512 on a GPU
    #[arg(long, value_delimiter = ',')]
    batches: Vec<usize>,
    /// Arithmetic; by default each in turn on a CPU, int8 on a GPU, which then is for single rows
    #[arg(long, value_enum, value_delimiter = ',')]
    arithmetic: Vec<ArithmeticChoice>,
    #[command(flatten, next_help_heading = "On a CPU")]
    cpu: cpu::Args,
    #[command(flatten, next_help_heading = "On a GPU")]
    gpu: gpu::Args,
}

/// What is measured, one with another.
struct Cases {
    formats: Vec<Storage>,
    bits: Vec<usize>,
    codebooks: Vec<Codebook>,
    shapes: Vec<String>,
    batches: Vec<usize>,
    arithmetic: Vec<ArithmeticChoice>,
}

impl Cases {
    /// What `args` ask for, or else `usual`.
    fn new(args: &Args, usual: Self) -> Self {
        fn or<T: Clone>(asked: &[T], usual: Vec<T>) -> Vec<T> {
            match asked {
                [] => usual,
                _ => asked.to_vec(),
            }
        }
        Self {
            formats: or(&args.formats, usual.formats),
            bits: or(&args.bits, usual.bits),
            codebooks: or(&args.codebook, usual.codebooks),
            shapes: or(&args.shapes, usual.shapes),
            batches: or(&args.batches, usual.batches),
            arithmetic: or(&args.arithmetic, usual.arithmetic),
        }
    }

    /// Trellis codes at every rate, the others as they are.
    fn kinds(&self) -> Result<Vec<(Storage, Kind)>> {
        let mut kinds = Vec::new();
        for &format in &self.formats {
            match format {
                Storage::Grouped(grouped) => kinds.push((format, Kind::Grouped(grouped))),
                Storage::Bf16 => kinds.push((format, Kind::Bf16)),
                Storage::Trellis => {
                    for &codebook in &self.codebooks {
                        for &bits in &self.bits {
                            kinds.push((format, Kind::Trellis(Bits::new(bits)?, codebook)));
                        }
                    }
                }
            }
        }
        Ok(kinds)
    }
}

/// Bits of a weight, scales aside.
fn bits(kind: Kind) -> usize {
    match kind {
        Kind::Trellis(bits, _) => bits.get(),
        Kind::Grouped(format) => format.element().bits(),
        Kind::Bf16 => 16,
    }
}

fn codebook(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Trellis(_, codebook) => Some(codebook.name()),
        _ => None,
    }
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    match args.device {
        Device::Cpu => cpu::run(&args.cpu, &Cases::new(args, cpu::usual())),
        Device::Gpu(index) => gpu::run(&args.gpu, index, &Cases::new(args, gpu::usual())),
    }
}
