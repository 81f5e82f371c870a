//! `suite`: everything that the summary reports, on what this machine has.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::json;
use treillage_benches::artifact::{Artifact, unix_time};
use treillage_gpu::Adapters;
use treillage_report::results::{Device, Path, Spread, Step};

use crate::{Cli, report::Place};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Less of everything: a few minutes on two cores. The report says what was cut
    #[arg(long)]
    quick: bool,
    /// On a CPU, the first so many transformer blocks of models only; with --quick, 4
    #[arg(long, value_name = "N", value_parser = crate::decode::at_least_one)]
    layers: Option<usize>,
    #[command(flatten)]
    place: Place,
}

/// Models whose sizes are measured.
const PRESETS: [&str; 3] = ["glm47_moe", "qwen3_coder_next", "qwen3_30b_a3b"];

/// Blocks of a model, with `--quick`: as many as it takes to have all kinds of them.
const QUICK_LAYERS: usize = 4;

pub(crate) fn run(args: &Args) -> Result<()> {
    let time = unix_time();
    let mut suite = Artifact::new(
        "suite",
        json!({ "quick": args.quick, "layers": args.layers }),
    );
    let steps = steps(args)?;
    let count = steps.iter().filter(|step| step.command.is_some()).count();
    let mut number = 0;
    for mut step in steps {
        if let Some(command) = &step.command {
            number += 1;
            println!("\n[{number}/{count}] bench {command}");
            let start = Instant::now();
            let name = format!("{}-{time}-{number}.json", step.measurement);
            let path = args.place.folder.join(&name);
            match measure(command).and_then(|artifact| artifact.write(Some(&path))) {
                Ok(_) => step.artifact = Some(name),
                Err(error) => {
                    eprintln!("error: {error:#}");
                    step.unavailable = Some(format!("{error:#}"));
                }
            }
            println!("{:.0} s", start.elapsed().as_secs_f64());
        }
        suite.push(serde_json::to_value(&step)?);
    }
    let path = args.place.folder.join(format!("suite-{time}.json"));
    suite.write(Some(&path))?;
    println!();
    args.place.render(&[path])
}

/// What the command measures by itself.
fn measure(command: &str) -> Result<Artifact> {
    let words = ["bench"].into_iter().chain(command.split(' '));
    Cli::try_parse_from(words)?
        .what
        .measure()?
        .context("nothing to measure")
}

/// What to measure, and why not what cannot be.
fn steps(args: &Args) -> Result<Vec<Step>> {
    let cores = std::thread::available_parallelism()?;
    let gpu = gpu();
    let gptq = match args.quick {
        true => "gptq --workloads glm47_moe,qwen3_coder_next --formats int4 --repeats 3",
        false => "gptq --workloads glm47_moe,qwen3_coder_next",
    };
    let gptq_step = |device| Step {
        cut: quick(args, "MR-GPTQ: int4 only, the median of 3 runs."),
        ..step("gptq", device)
    };
    let mut steps = vec![
        Step {
            command: Some(gptq.to_owned()),
            ..gptq_step(Device::Cpu)
        },
        on_gpu(&gpu, format!("{gptq} --device gpu"), gptq_step(Device::Gpu)),
        Step {
            command: Some(match args.quick {
                true => format!("encode --bits 3 --threads {cores} --tiles 64 --repeats 2"),
                false => format!("encode --threads 1,{cores}"),
            }),
            cut: quick(args, "Encoding: 3 bits only, the best of 2 runs."),
            ..step("encode", Device::Cpu)
        },
        Step {
            command: Some(match args.quick {
                true => {
                    "linear --formats trellis,int4 --bits 3 --batches 1,64 --copies 8 --repeats 2"
                        .to_owned()
                }
                false => "linear".to_owned(),
            }),
            cut: quick(
                args,
                "Linears: trellis codes of 3 bits and int4 only, the best of 2 runs.",
            ),
            ..step("linear", Device::Cpu)
        },
        on_gpu(
            &gpu,
            "linear --device gpu".to_owned(),
            step("linear", Device::Gpu),
        ),
    ];
    let runs = match args.quick {
        true => "--prompt 32 --tokens 16 --repeats 2",
        false => "--prompt 128 --tokens 64 --repeats 5",
    };
    let layers = args.layers.or(args.quick.then_some(QUICK_LAYERS));
    for preset in PRESETS {
        for bits in [Spread::Uniform, Spread::Mixed] {
            // Where bits are mixed, what is compared is the optimized path with itself at uniform bits.
            let path = (bits == Spread::Mixed).then_some(Path::Optimized);
            let decode = |device| Step {
                preset: Some(preset.to_owned()),
                path,
                bits: Some(bits),
                cut: quick(args, "Decoding: 16 tokens after 32, the median of 2 runs."),
                ..step("decode", device)
            };
            let paths = match path {
                Some(_) => "optimized",
                None => "baseline,optimized",
            };
            let bits = bits.name();
            let command = format!("decode --preset {preset} --paths {paths} --bits {bits} {runs}");
            let mut cut = Vec::from_iter(decode(Device::Cpu).cut);
            cut.extend(layers.map(|layers| {
                format!("Decoding on the CPU: the first {layers} blocks of each model only, with its whole vocabulary.")
            }));
            let on_cpu = format!("{command} --threads {cores} --arithmetic int8");
            steps.push(Step {
                command: Some(match layers {
                    Some(layers) => format!("{on_cpu} --layers {layers}"),
                    None => on_cpu,
                }),
                cut: (!cut.is_empty()).then(|| cut.join(" ")),
                ..decode(Device::Cpu)
            });
            let command = format!("{command} --device gpu --profile");
            steps.push(on_gpu(&gpu, command, decode(Device::Gpu)));
        }
    }
    steps.push(Step {
        measurement: "decode".to_owned(),
        path: Some(Path::Baseline),
        bits: Some(Spread::Mixed),
        unavailable: Some(
            "mixed bits are compared with uniform ones, on the optimized path".to_owned(),
        ),
        ..Step::default()
    });
    Ok(steps)
}

fn step(measurement: &str, device: Device) -> Step {
    Step {
        measurement: measurement.to_owned(),
        device: Some(device),
        ..Step::default()
    }
}

fn quick(args: &Args, cut: &str) -> Option<String> {
    args.quick.then(|| cut.to_owned())
}

/// `step` as `command` does it, or why it cannot be done.
fn on_gpu(gpu: &Result<(), String>, command: String, step: Step) -> Step {
    match gpu {
        Ok(()) => Step {
            command: Some(command),
            ..step
        },
        // Of that device, whichever way.
        Err(reason) => Step {
            unavailable: Some(reason.clone()),
            cut: None,
            path: None,
            bits: None,
            ..step
        },
    }
}

/// Whether number 0 is a GPU; if not, why.
fn gpu() -> Result<(), String> {
    let adapters = Adapters::find();
    match (adapters.hardware(), adapters.first()) {
        (Some(_), _) => Ok(()),
        (None, Ok(software)) => Err(format!(
            "no GPU: only a software driver ({})",
            software.name()
        )),
        (None, Err(_)) => Err("no GPU".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use treillage_report::{Evidence, Figure, Summary};

    #[test]
    fn what_is_written_is_what_the_report_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let commands = [
            "decode --preset small --layers 1 --vocabulary 128 --arithmetic exact --threads 1 --prompt 2 --tokens 2 --repeats 1",
            "gptq --workloads glm47_moe --formats int4 --tokens 32 --repeats 1",
        ];
        let paths = commands.map(|command| {
            let artifact = measure(command).expect("a measurement");
            let path = folder
                .path()
                .join(format!("{}.json", artifact.measurement()));
            artifact.write(Some(&path)).expect("a file")
        });
        let evidence = Evidence::read(&paths).expect("artifacts");
        let summary = Summary::new(&evidence, None, &[]);
        let unread = |caution: &&String| caution.contains("could not be read");
        assert_eq!(summary.cautions.iter().find(unread), None);
        let row = summary.decode.iter().find(|row| row.preset == "small");
        let row = row.expect("a row for the run");
        assert_eq!(row.device, Device::Cpu);
        assert_eq!(row.arithmetic.as_deref(), Some("exact"));
        assert_eq!(
            row.cut.as_deref(),
            Some("1 of 8 layers, 128 of 32000 tokens")
        );
        assert!(matches!(row.optimized.ms_per_token, Figure::Measured(ms) if ms > 0.0));
        let total = &summary.gptq.backends[3];
        assert_eq!((total.workload, total.stage), ("glm47_moe", "total"));
        assert!(matches!(total.cpu_ms, Figure::Measured(ms) if ms > 0.0));
    }

    #[test]
    fn steps_are_commands_or_say_why_not() {
        for (quick, layers) in [(true, None), (false, None), (false, Some(2))] {
            let place = Cli::try_parse_from(["bench", "report"])
                .expect("arguments")
                .what;
            let crate::What::Report(report) = place else {
                unreachable!("that is what was asked for")
            };
            let args = Args {
                quick,
                layers,
                place: report.place,
            };
            for step in steps(&args).expect("steps") {
                assert_ne!(
                    step.command.is_some(),
                    step.unavailable.is_some(),
                    "{step:?}"
                );
                let words = step.command.iter().flat_map(|command| command.split(' '));
                let parsed = Cli::try_parse_from(["bench"].into_iter().chain(words));
                assert_eq!(parsed.is_ok(), step.command.is_some(), "{step:?}");
                assert!(quick || step.cut.is_none() || layers.is_some(), "{step:?}");
            }
        }
    }
}
