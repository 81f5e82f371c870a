//! `encode`: how many tiles a second does the Viterbi search encode, how near do they come, and how long do whole linears take?

mod linears;
mod tiles;

use anyhow::Result;
use serde_json::json;
use treillage_benches::artifact::Artifact;
use treillage_gpu::{Adapters, Context, Gpu, Options, quantize::Tuning};
use treillage_trellis::Codebook;
use treillage_trellis::viterbi::Effort;

use crate::device::Device;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What encodes: cpu, gpu, or gpu:N as `treillage devices` numbers them
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// How thoroughly: fast, normal or best
    #[arg(long, value_delimiter = ',', default_value = "best")]
    effort: Vec<Effort>,
    /// Bits per weight
    #[arg(long, value_delimiter = ',', default_values_t = [2, 3, 4])]
    bits: Vec<usize>,
    /// 3inst, mcg or mul1
    #[arg(long, value_delimiter = ',', default_values_t = [Codebook::default()])]
    codebook: Vec<Codebook>,
    /// Threads, on the CPU
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Tiles of 256 weights, drawn from N(0, 1)
    #[arg(long, default_value_t = 128)]
    tiles: usize,
    /// Measured runs, of which the best counts
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Encode so many whole linears together, instead of tiles
    #[arg(long, default_value_t = 0)]
    experts: usize,
    /// Inputs of each
    #[arg(long, default_value_t = 2048)]
    rows: usize,
    /// Outputs of each
    #[arg(long, default_value_t = 1536)]
    columns: usize,
    /// Encode linears without a Hessian
    #[arg(long)]
    no_feedback: bool,
    /// Lanes that share a tile, on the GPU
    #[arg(long)]
    lanes: Option<usize>,
    /// Costs in workgroup memory, on the GPU
    #[arg(long)]
    shown: Option<usize>,
    /// Up to four bits, costs in whole numbers instead of half precision, on the GPU
    #[arg(long)]
    whole: bool,
    /// Time the GPU's kernels, of whole linears
    #[arg(long)]
    profile: bool,
}

impl Args {
    /// The device, unless it is the CPU.
    fn open(&self) -> Result<Option<Context>> {
        let Device::Gpu(number) = self.device else {
            return Ok(None);
        };
        let adapters = Adapters::find();
        let adapter = adapters.get(number)?;
        println!("{}", adapter.name());
        let options = Options {
            profile: self.profile,
            ..Options::default()
        };
        Ok(Some(Context::new(&Gpu::open(adapter, options)?)))
    }

    fn tuning(&self) -> Tuning {
        let usual = Tuning::default();
        Tuning {
            lanes: self.lanes.unwrap_or(usual.lanes),
            shown: self.shown.unwrap_or(usual.shown),
            halves: !self.whole,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let context = args.open()?;
    let efforts: Vec<_> = args.effort.iter().map(|effort| effort.name()).collect();
    let codebooks: Vec<_> = args
        .codebook
        .iter()
        .map(|codebook| codebook.name())
        .collect();
    let mut artifact = Artifact::new(
        "encode",
        json!({
            "device": context.as_ref().map_or("cpu", |context| context.gpu().adapter().name()),
            "effort": efforts,
            "codebook": codebooks,
            "tiles": args.tiles,
            "experts": args.experts,
            "rows": args.rows,
            "columns": args.columns,
            "feedback": !args.no_feedback,
            "repeats": args.repeats,
        }),
    );
    match args.experts {
        0 => tiles::run(args, context.as_ref(), &mut artifact)?,
        _ => linears::run(args, context.as_ref(), &mut artifact)?,
    }
    Ok(artifact)
}
