//! `layer`: how long does a block of full size take, from calibration rows to codes on disk?
//!
//! A random checkpoint of the first blocks of a model, with all of their experts, is written to a temporary folder and quantized as
//! `treillage quantize` does it; of the last block each stage is told, and what a whole model of such blocks would take.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use rand::Rng;
use serde_json::json;
use treillage_backend::Quantization;
use treillage_benches::{artifact::Artifact, presets::Preset, random, stored};
use treillage_cpu::CpuBackend;
use treillage_gptq::Rotation;
use treillage_gpu::{Adapters, GpuBackend};
use treillage_quantize::{
    AllocationRule, CalibrationTokens, Event, GptqOptions, HeadBits, Options, RotationRule, Stage,
    TrellisOptions, quantize,
};

use crate::{Storage, device::Device};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sizes of the model: small, qwen3_30b_a3b, glm47_moe or qwen3_coder_next
    #[arg(long, default_value = "glm47_moe", value_parser = Preset::find)]
    preset: &'static Preset,
    /// What calibrates and encodes: cpu, gpu, or gpu:N as `treillage devices` numbers them
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// trellis, int2, int3, int4, int8, nvfp4 or mxfp4
    #[arg(long, default_value = "trellis")]
    format: Storage,
    /// Bits per weight of trellis codes
    #[arg(long, default_value_t = 3.0)]
    bpw: f64,
    /// The first so many blocks are quantized; the last of them counts
    #[arg(long, default_value_t = 2)]
    layers: usize,
    /// Experts of a block; by default, as many as the model has. Nothing is scaled: the projection is for blocks of so many
    #[arg(long)]
    experts: Option<usize>,
    /// Calibration rows
    #[arg(long, default_value_t = CalibrationTokens::ROWS)]
    rows: usize,
    /// Tokens of each
    #[arg(long, default_value_t = CalibrationTokens::COLS)]
    cols: usize,
}

/// Tokens that there are: the embedding and the head are not what is measured.
const VOCABULARY: usize = 4096;

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let mut config = args.preset.json(Some(args.layers), Some(VOCABULARY));
    let fields = ["num_experts", "n_routed_experts"];
    if let (Some(experts), Some(field)) = (
        args.experts,
        fields.into_iter().find(|field| config.get(field).is_some()),
    ) {
        config[field] = experts.into();
    }
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let source = folder.path().join("source");
    std::fs::create_dir(&source).context("the source's folder")?;
    stored::write(&source, &config)?;
    let mut rng = random::rng(7);
    let ids: Vec<u32> = (0..args.rows * args.cols)
        .map(|_| rng.random_range(0..VOCABULARY as u32))
        .collect();
    let job = Job {
        tokens: CalibrationTokens::spread(&ids, args.rows, args.cols)?,
        out: folder.path().join("out"),
        options: options(args)?,
        source,
    };
    let (device, block) = match args.device {
        Device::Cpu => job.run(&CpuBackend::default())?,
        Device::Gpu(index) => {
            let adapters = Adapters::find();
            let exact = treillage_gpu::Options {
                exact: true,
                ..treillage_gpu::Options::default()
            };
            job.run(&GpuBackend::new(adapters.get(index)?, exact)?)?
        }
    };
    println!("{device}");
    let blocks = args.preset.config(None, None)?.num_layers;
    let seconds: f64 = block.stages.values().sum();
    let hours = seconds * blocks as f64 / 3600.0;
    for (stage, seconds) in &block.stages {
        println!("{stage:<8} {seconds:>9.2} s");
    }
    println!(
        "{seconds:.2} s for {} linears, {:.3} s each; {blocks} blocks like this: {hours:.2} h{}",
        block.linears,
        seconds / block.linears as f64,
        match args.experts {
            Some(experts) =>
                format!(", which has {experts} experts, as asked, and not those of the model"),
            None => String::new(),
        },
    );
    let mut artifact = Artifact::new(
        "layer",
        json!({
            "preset": args.preset.name,
            "device": device,
            "layers": args.layers,
            "experts": args.experts,
            "rows": args.rows,
            "cols": args.cols,
            "options": job.options,
        }),
    );
    artifact.push(json!({
        "stages": block.stages,
        "seconds": seconds,
        "linears": block.linears,
        "blocks": blocks,
        "hours": hours,
    }));
    Ok(artifact)
}

fn options(args: &Args) -> Result<Options> {
    Ok(match args.format {
        // What a survey of the whole model takes is not a block's.
        Storage::Trellis => Options::trellis(TrellisOptions {
            bits_per_weight: args.bpw,
            allocation: AllocationRule::Uniform,
            head_bits: HeadBits::Keep,
            ..TrellisOptions::default()
        }),
        Storage::Grouped(format) => Options::mr_gptq(GptqOptions {
            rotation: RotationRule::Fixed(Rotation::None),
            ..GptqOptions::new(format)
        }),
        Storage::Bf16 => bail!("bf16: that is what is quantized, choose what to make of it"),
    })
}

/// What is quantized, and how.
struct Job {
    source: PathBuf,
    out: PathBuf,
    tokens: CalibrationTokens,
    options: Options,
}

/// What became of the last block.
#[derive(Default)]
struct Measured {
    /// Seconds of each stage.
    stages: BTreeMap<&'static str, f64>,
    linears: usize,
}

impl Job {
    /// Does it, and names what did.
    fn run<B: Quantization>(&self, backend: &B) -> Result<(String, Measured)> {
        let mut block = Measured::default();
        let mut observe = |event: Event| match event {
            Event::Block { .. } => block = Measured::default(),
            // A model is assembled once, of however many blocks.
            Event::Took {
                stage: Stage::Assemble,
                ..
            } => {}
            Event::Took { stage, time } => {
                *block.stages.entry(stage.name()).or_default() += time.as_secs_f64();
            }
            Event::Encoded { .. } => block.linears += 1,
            _ => {}
        };
        let Self {
            source,
            out,
            tokens,
            options,
        } = self;
        quantize(backend, source, out, tokens, options, &mut observe)?;
        Ok((backend.encodes_as(), block))
    }
}
