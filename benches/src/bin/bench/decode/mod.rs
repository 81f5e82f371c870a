//! `decode`: how fast does a model of random words read and write?

mod profile;
mod rounds;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
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
use treillage_report::results::{Path, Spread};
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
    /// Whether all linears have the same bits, or experts' differ by one either way with the same average
    #[arg(long, default_value = Spread::Uniform.name(), value_parser = named([Spread::Uniform, Spread::Mixed], Spread::name))]
    bits: Spread,
    /// How ops are computed: as fast as may be, or as the baseline to compare with, in f32, kernel by kernel and expert by expert; of
    /// several, rounds alternate
    #[arg(long, value_delimiter = ',', default_value = Path::Optimized.name(), value_parser = named([Path::Baseline, Path::Optimized], Path::name))]
    paths: Vec<Path>,
    /// Arithmetic of linears on the optimized path; by default, int8 on a GPU and beside a baseline, otherwise each in turn
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

/// The one of `all` that is called so.
fn named<T: Copy + Send + Sync + 'static, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.map(name)).try_map(move |text| {
        let found = all.into_iter().find(|one| name(*one) == text);
        found.ok_or("no such name")
    })
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
            Storage::Bf16 => Kind::Bf16,
        })
    };
    let weights = RandomModel::new(kind(args.bpw)?, kind(head_bits)?);
    let whole = args.preset.config(None, None)?;
    let spread = args.bits.name();
    let weights = match args.bits {
        Spread::Uniform => weights,
        Spread::Mixed => weights.mixed()?,
    };
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
            "spread": spread,
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
        ([], Device::Cpu) if args.paths == [Path::Optimized] => {
            &[ArithmeticChoice::Exact, ArithmeticChoice::Int8]
        }
        ([], _) => &[ArithmeticChoice::Int8][..],
        (asked, _) => asked,
    };
    for &choice in choices {
        let (layers, tokens) = (config.num_layers, config.vocab_size);
        print!("{}, {layers} layers, {tokens} tokens, ", args.preset.name);
        match args.format {
            Storage::Trellis => println!("{} bits, {spread}, head {head_bits}, {choice}", args.bpw),
            format => println!("{format}, {choice}"),
        }
        let bench = Bench {
            args,
            config: &config,
            weights: &weights,
            arithmetic: choice,
        };
        let mut results = match args.device {
            Device::Cpu => crate::pool(args.threads)?.install(|| bench.cpu())?,
            Device::Gpu(index) => bench.gpu(index)?,
        };
        for (path, result) in args.paths.iter().zip(&mut results) {
            result["path"] = path.name().into();
            result["bits"] = spread.into();
            result["arithmetic"] = match path {
                Path::Baseline => ArithmeticChoice::Exact.to_string(),
                Path::Optimized => choice.to_string(),
            }
            .into();
        }
        results.into_iter().for_each(|result| artifact.push(result));
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
    fn cpu(&self) -> Result<Vec<Value>> {
        self.check_memory()?;
        let backend = CpuBackend::new(treillage_cpu::Options {
            arithmetic: self.arithmetic.into(),
            ..treillage_cpu::Options::default()
        });
        let model = self.load(&backend)?;
        let mut rounds = self.rounds(&backend, &model)?;
        let take = |backend: &CpuBackend, path| backend.compute_plainly(path == Path::Baseline);
        let measured = rounds.measure(self.args.repeats, &self.args.paths, take)?;
        self.print(&measured);
        let mut all = self.json(&backend, &measured);
        for (path, json) in self.args.paths.iter().zip(&mut all) {
            take(&backend, *path);
            backend.telemetry().reset();
            let (_, first) = rounds.read_prompt()?;
            rounds.decode(first)?;
            json["telemetry"] = serde_json::to_value(backend.telemetry().counts())?;
        }
        Ok(all)
    }

    fn gpu(&self, index: usize) -> Result<Vec<Value>> {
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
        let take = |backend: &GpuBackend, path| backend.compute_plainly(path == Path::Baseline);
        let paths = &self.args.paths;
        let measured = rounds.measure(self.args.repeats, paths, take)?;
        self.print(&measured);
        let mut all = self.json(&backend, &measured);
        for ((path, measured), json) in paths.iter().zip(&measured).zip(&mut all) {
            println!("{}:", path.name());
            take(&backend, *path);
            self.device_figures(&backend, &mut rounds, measured, json)?;
            let bytes = backend.gpu().allocated() - before;
            self.memory(&backend, bytes, json);
            if let Some((bandwidth, rate)) = limits {
                json["copy_bytes_per_second"] = bandwidth.into();
                json["f32_operations_per_second"] = rate.into();
                json["profiles"] = profile::take(&backend, &mut rounds, bandwidth)?;
            }
        }
        Ok(all)
    }

    /// What a device's path does beside taking its time: how much is dispatched, and what was counted.
    fn device_figures(
        &self,
        backend: &GpuBackend,
        rounds: &mut Rounds<'_, GpuBackend>,
        measured: &Measured,
        json: &mut Value,
    ) -> Result<()> {
        backend.telemetry().reset();
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
        json["recording_seconds_median"] = host.0.into();
        json["waiting_seconds_median"] = host.1.into();
        json["dispatches_per_token"] = dispatches.into();
        json["submissions_per_token"] = submissions.into();
        json["bind_groups_made"] = groups.into();
        let counts = backend.telemetry().counts();
        println!(
            "fallbacks   {}; values not finite {}",
            counts.fallbacks(),
            counts.trellis_moe_metrics.nan_detected
        );
        json["driver"] = backend.gpu().adapter().driver().into();
        json["telemetry"] = serde_json::to_value(counts)?;
        Ok(())
    }

    fn memory(&self, backend: &GpuBackend, all: u64, json: &mut Value) {
        let (slabs, arena) = backend.memory();
        let rest = all.saturating_sub(slabs + arena);
        println!(
            "memory      {:.2} GiB: weights {:.2}, activations {:.2}, caches and tables {:.2}",
            gib(all),
            gib(slabs),
            gib(arena),
            gib(rest)
        );
        json["device_bytes"] = json!({"weights": slabs, "activations": arena, "rest": rest});
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

    fn print(&self, measured: &[Measured]) {
        for (path, measured) in self.args.paths.iter().zip(measured) {
            println!("{}:", path.name());
            self.print_one(measured);
        }
        let of = |path| self.args.paths.iter().position(|p| *p == path);
        if let (Some(before), Some(after)) = (of(Path::Baseline), of(Path::Optimized)) {
            let (before, after) = (&measured[before], &measured[after]);
            let each = [before, after].map(|m| 1e3 * m.steps.median());
            let rates = [before, after].map(|m| self.args.tokens as f64 / m.decode.median());
            println!("| path | ms a token | tokens/s |\n|---|---|---|");
            for (path, (each, rate)) in ["baseline", "optimized"].iter().zip(each.iter().zip(rates))
            {
                println!("| {path} | {each:.3} | {rate:.2} |");
            }
            println!(
                "| difference | {:+.3} ({:+.1} %) | {:+.2} ({:+.1} %) |",
                each[1] - each[0],
                100.0 * (each[1] / each[0] - 1.0),
                rates[1] - rates[0],
                100.0 * (rates[1] / rates[0] - 1.0)
            );
        }
    }

    fn print_one(&self, measured: &Measured) {
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

    fn json<B: Inference>(&self, backend: &B, measured: &[Measured]) -> Vec<Value> {
        measured.iter().map(|m| self.json_of(backend, m)).collect()
    }

    fn json_of<B: Inference>(&self, backend: &B, measured: &Measured) -> Value {
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
