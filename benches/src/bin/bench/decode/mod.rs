//! `decode`: how fast does a model of random words read and write?

mod profile;
mod rounds;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use treillage_backend::Inference;
use treillage_benches::{
    artifact::Artifact,
    machine,
    model::RandomModel,
    presets::{PRESETS, Preset},
    random::Kind,
};
use treillage_checkpoint::ModelConfig;
use treillage_cpu::CpuBackend;
use treillage_gpu::{Adapters, GpuBackend};
use treillage_model::Model;
use treillage_trellis::{Bits, Codebook};

use crate::device::{Device, copy_bandwidth, f32_rate};
use crate::{ArithmeticChoice, Storage};
use rounds::{Lengths, Measured, Rounds};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sizes of the model: small, qwen3_30b_a3b, glm47_moe or qwen3_coder_next
    #[arg(long, default_value = PRESETS[0].name, value_parser = Preset::find)]
    preset: &'static Preset,
    /// The first so many transformer blocks only
    #[arg(long, value_parser = at_least_one)]
    layers: Option<usize>,
    /// The first so many tokens of the vocabulary only: for devices whose kernels do not see all of an embedding
    #[arg(long, value_parser = at_least_one)]
    vocabulary: Option<usize>,
    /// What computes: cpu, gpu, or gpu:N as `treillage devices` numbers them
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// trellis, int2, int3, int4, int8, nvfp4, mxfp4 or fp4
    #[arg(long, default_value_t = Storage::Trellis)]
    format: Storage,
    /// Bits per weight of trellis codes
    #[arg(long, default_value_t = 3)]
    bpw: usize,
    /// Bits of the head, of trellis codes; by default, 6 for models that exist
    #[arg(long)]
    head_bits: Option<usize>,
    /// Codebook of trellis codes
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Arithmetic of linears; by default, each in turn on a CPU, int8 on a GPU
    #[arg(long, value_enum, value_delimiter = ',')]
    arithmetic: Vec<ArithmeticChoice>,
    /// Threads, on a CPU
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    prompt: usize,
    /// Tokens to decode after it
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    tokens: usize,
    /// Tokens of another prompt, which is only read
    #[arg(long, value_parser = at_least_one)]
    prefill: Option<usize>,
    /// Measured runs, after one that is not
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    repeats: usize,
    /// Say where the time goes, by kernel: measured on its own, as it costs time; on a GPU
    #[arg(long)]
    profile: bool,
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let config = args.preset.config(args.layers, args.vocabulary)?;
    let head_bits = args.head_bits.unwrap_or(args.preset.head_bits);
    let kind = |bits| -> Result<Kind> {
        Ok(match args.format {
            Storage::Trellis => Kind::Trellis(Bits::new(bits)?, args.codebook),
            Storage::Grouped(format) => Kind::Grouped(format),
        })
    };
    let weights = RandomModel::new(kind(args.bpw)?, kind(head_bits)?);
    let whole = args.preset.config(None, None)?;
    let mut artifact = Artifact::new(
        "decode",
        json!({
            "preset": args.preset.name,
            "layers": config.num_layers,
            "model_layers": whole.num_layers,
            "vocabulary": config.vocab_size,
            "model_vocabulary": whole.vocab_size,
            "format": args.format.to_string(),
            "bits": args.bpw,
            "head_bits": head_bits,
            "codebook": args.codebook.name(),
            "threads": args.threads,
            "prompt_tokens": args.prompt,
            "decoded_tokens": args.tokens,
            "long_prompt_tokens": args.prefill,
            "repeats": args.repeats,
        }),
    );
    let choices = match (&args.arithmetic[..], args.device) {
        ([], Device::Cpu) => &[ArithmeticChoice::Exact, ArithmeticChoice::Int8],
        ([], Device::Gpu(_)) => &[ArithmeticChoice::Int8][..],
        (asked, _) => asked,
    };
    for &choice in choices {
        let (layers, tokens) = (config.num_layers, config.vocab_size);
        print!("{}, {layers} layers, {tokens} tokens, ", args.preset.name);
        match args.format {
            Storage::Trellis => println!("{} bits, head {head_bits}, {choice}", args.bpw),
            Storage::Grouped(format) => println!("{format}, {choice}"),
        }
        let bench = Bench {
            args,
            config: &config,
            weights: &weights,
            arithmetic: choice,
        };
        let mut result = match args.device {
            Device::Cpu => crate::pool(args.threads)?.install(|| bench.cpu())?,
            Device::Gpu(index) => bench.gpu(index)?,
        };
        result["arithmetic"] = choice.to_string().into();
        artifact.push(result);
    }
    Ok(artifact)
}

/// One model to measure.
struct Bench<'a> {
    args: &'a Args,
    config: &'a ModelConfig,
    weights: &'a RandomModel,
    arithmetic: ArithmeticChoice,
}

impl Bench<'_> {
    fn cpu(&self) -> Result<Value> {
        self.check_memory()?;
        let backend = CpuBackend::new(treillage_cpu::Options {
            arithmetic: self.arithmetic.into(),
            ..treillage_cpu::Options::default()
        });
        let model = self.load(&backend)?;
        let measured = self.rounds(&backend, &model)?.measure(self.args.repeats)?;
        self.print(&measured);
        Ok(self.json(&backend, &measured))
    }

    fn gpu(&self, index: usize) -> Result<Value> {
        let adapters = Adapters::find();
        let options = treillage_gpu::Options {
            exact: matches!(self.arithmetic, ArithmeticChoice::Exact),
            profile: self.args.profile,
            ..treillage_gpu::Options::default()
        };
        let backend = GpuBackend::new(adapters.get(index)?, options)?;
        backend.time_kernels(false);
        let limits = match self.args.profile {
            true => Some((copy_bandwidth(backend.gpu())?, f32_rate(backend.gpu())?)),
            false => None,
        };
        let before = backend.gpu().allocated();
        let model = self.load(&backend)?;
        let mut rounds = self.rounds(&backend, &model)?;
        let measured = rounds.measure(self.args.repeats)?;
        self.print(&measured);
        let mut json = self.json(&backend, &measured);

        let host = (measured.recording.median(), measured.waiting.median());
        let (_, first) = rounds.read_prompt()?;
        let start = backend.counts();
        rounds.decode(first)?;
        let end = backend.counts();
        let each = |start: u64, end: u64| (end - start) as f64 / self.args.tokens as f64;
        let dispatches = each(start.dispatches, end.dispatches);
        let submissions = each(start.submissions, end.submissions);
        let groups = end.bind_groups - start.bind_groups;
        println!(
            "host        {:.2} ms a token recording, {:.2} waiting for the device; {dispatches:.0} dispatches, {submissions:.0} submission, {groups} bind groups made in {} tokens",
            1e3 * host.0,
            1e3 * host.1,
            self.args.tokens
        );
        let all = backend.gpu().allocated() - before;
        let (slabs, arena) = backend.memory();
        let rest = all.saturating_sub(slabs + arena);
        println!(
            "memory      {:.2} GiB: weights {:.2}, activations {:.2}, caches and tables {:.2}",
            gib(all),
            gib(slabs),
            gib(arena),
            gib(rest)
        );
        json["recording_seconds_median"] = host.0.into();
        json["waiting_seconds_median"] = host.1.into();
        json["dispatches_per_token"] = dispatches.into();
        json["submissions_per_token"] = submissions.into();
        json["bind_groups_made"] = groups.into();
        json["device_bytes"] = json!({"weights": slabs, "activations": arena, "rest": rest});
        if let Some((bandwidth, rate)) = limits {
            json["copy_bytes_per_second"] = bandwidth.into();
            json["f32_operations_per_second"] = rate.into();
            json["profiles"] = profile::take(&backend, &mut rounds, bandwidth)?;
        }
        let counts = backend.telemetry().counts();
        println!(
            "fallbacks   {}; values not finite {}",
            counts.fallbacks(),
            counts.trellis_moe_metrics.nan_detected
        );
        json["driver"] = backend.gpu().adapter().driver().into();
        json["telemetry"] = serde_json::to_value(counts)?;
        Ok(json)
    }

    fn load<B: Inference>(&self, backend: &B) -> Result<Model<B>> {
        let start = Instant::now();
        let model = Model::load(backend, self.weights, self.config)
            .context("cannot load the model; --layers N takes only the first N of its layers, --vocabulary N of its tokens")?;
        println!(
            "device      {}; loaded in {:.1} s",
            backend.describe(),
            start.elapsed().as_secs_f64()
        );
        Ok(model)
    }

    fn rounds<'m, B: Inference>(
        &self,
        backend: &'m B,
        model: &'m Model<B>,
    ) -> Result<Rounds<'m, B>> {
        let lengths = Lengths {
            prompt: self.args.prompt,
            tokens: self.args.tokens,
            long: self.args.prefill,
        };
        Rounds::new(backend, model, lengths)
    }

    /// On a CPU each linear has memory of its own, as the weights of a checkpoint do: shared, caches would hold them.
    fn check_memory(&self) -> Result<()> {
        let Some(available) = machine::available_memory() else {
            return Ok(());
        };
        let (outside, blocks) = self.weights.bytes(self.config);
        let needed = outside + blocks.iter().sum::<u64>();
        let mut taken = outside;
        let fitting = blocks.iter().take_while(|&&block| {
            taken += block;
            taken <= available
        });
        ensure!(
            needed <= available,
            "the weights take {:.1} GiB of memory, and {:.1} are available: enough for --layers {}",
            gib(needed),
            gib(available),
            fitting.count()
        );
        Ok(())
    }

    fn print(&self, measured: &Measured) {
        let args = self.args;
        let prompt = args.prompt as f64 / measured.prefill.median();
        println!("prefill     {} tokens: {prompt:.1} tokens/s", args.prompt);
        if let (Some(tokens), Some(long)) = (args.prefill, &measured.long) {
            let rate = tokens as f64 / long.median();
            println!("prefill     {tokens} tokens: {rate:.1} tokens/s");
        }
        let tokens = args.tokens as f64;
        println!(
            "decode      {:.3} ms a token, 95 % within {:.3}: {:.1} tokens/s, best run {:.1}",
            1e3 * measured.steps.median(),
            1e3 * measured.steps.p95(),
            tokens / measured.decode.median(),
            tokens / measured.decode.best()
        );
    }

    fn json<B: Inference>(&self, backend: &B, measured: &Measured) -> Value {
        let args = self.args;
        let tokens = args.tokens as f64;
        let long = args.prefill.zip(measured.long.as_ref());
        json!({
            "device": backend.describe(),
            "prefill_tokens_per_second": args.prompt as f64 / measured.prefill.median(),
            "long_prefill_tokens_per_second":
                long.map(|(tokens, timings)| tokens as f64 / timings.median()),
            "decode_tokens_per_second": tokens / measured.decode.median(),
            "decode_tokens_per_second_best": tokens / measured.decode.best(),
            "token_seconds_median": measured.steps.median(),
            "token_seconds_p95": measured.steps.p95(),
        })
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
