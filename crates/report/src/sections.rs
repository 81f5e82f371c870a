//! A summary as text and tables: what Markdown and the page both say.

use serde_json::Value;

use crate::{
    date,
    figure::{Figure, per_cent},
    plots::si,
    results::Device,
    summary::{Counters, DecodeRow, Profile, Series, Summary},
    table::{Good, Table},
};

/// A part of a report.
pub(crate) struct Section {
    /// Of its address in the page.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What its figures are.
    pub(crate) about: String,
    pub(crate) tables: Vec<Table>,
}

/// All of them, in their order.
pub(crate) fn sections(summary: &Summary) -> Vec<Section> {
    vec![
        gptq(summary),
        decode(summary),
        counters(&summary.counters),
        kernels(summary),
        history(&summary.history),
        sources(summary),
    ]
}

/// What ran where, in a line.
pub(crate) fn headline(summary: &Summary) -> String {
    let mut parts = vec![date::utc(summary.unix_time)];
    parts.push(match &summary.commit {
        Some(commit) => format!("commit {}", short(commit)),
        None => "no commit".to_owned(),
    });
    if let Some(machine) = &summary.machine {
        let processor = machine
            .processor
            .as_deref()
            .unwrap_or(&machine.architecture);
        parts.push(format!("{processor}, {} cores", machine.cores));
        parts.push(machine.system.clone());
        if !machine.features.is_empty() {
            parts.push(machine.features.join(" "));
        }
    }
    parts.join(" · ")
}

/// The first letters of a commit, as git shows it.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

fn gptq(summary: &Summary) -> Section {
    let mut backends = Table::new(
        "Backends: cpu against gpu",
        &["workload", "format", "stage"],
        &["cpu, ms", "gpu, ms", "Δ, ms", "cpu ÷ gpu"],
    );
    for row in &summary.gptq.backends {
        let workload = match row.shape {
            Some([outputs, inputs]) => format!("{} ({outputs}×{inputs})", row.workload),
            None => row.workload.to_owned(),
        };
        backends
            .row([&workload, &row.format, row.stage])
            .number(&row.cpu_ms, 2)
            .number(&row.gpu_ms, 2)
            .change(&row.delta_ms, 2, "", Good::Less)
            .with_unit(&row.ratio, 2, "×");
    }
    let mut models = Table::new(
        "Models: GLM against Qwen",
        &["backend", "format", "stage"],
        &["glm47_moe, ms", "qwen3_coder_next, ms", "Δ, ms", "Δ, %"],
    );
    for row in &summary.gptq.models {
        models
            .row([row.device.name(), &row.format, row.stage])
            .number(&row.glm_ms, 2)
            .number(&row.qwen_ms, 2)
            .difference(&row.delta_ms, 2)
            .difference(&row.per_cent, 0);
    }
    Section {
        id: "gptq",
        title: "1. MR-GPTQ: time of a linear",
        about: "Milliseconds of the median run. Hessian: from activations to their second moment. Cholesky: rotating, ordering, damping and \
            factorizing it. Quantize: scales, sweep, packed codes. The baseline is the backend cpu, the optimized one is gpu."
            .to_owned(),
        tables: vec![backends, models],
    }
}

fn decode(summary: &Summary) -> Section {
    let mut paths = Table::new(
        "Baseline against optimized",
        &["preset", "on", "bits", "what was run"],
        &[
            "baseline, ms/token",
            "optimized, ms/token",
            "baseline, tok/s",
            "optimized, tok/s",
            "Δ, ms",
            "Δ, tok/s",
            "Δ, %",
        ],
    );
    for row in &summary.decode {
        paths
            .row(decode_words(row, true).each_ref().map(|word| &**word))
            .number(&row.baseline.ms_per_token, 2)
            .number(&row.optimized.ms_per_token, 2)
            .number(&row.baseline.tokens_per_second, 1)
            .number(&row.optimized.tokens_per_second, 1)
            .change(&row.delta_ms, 2, "", Good::Less)
            .change(&row.delta_tokens_per_second, 1, "", Good::More)
            .change(&row.per_cent, 1, "", Good::More);
    }
    let mut tables = vec![paths];
    let mut earlier = Table::new(
        "Optimized, against the earlier artifact",
        &["preset", "on", "bits", "what was run"],
        &[
            "earlier, ms/token",
            "now, ms/token",
            "earlier, tok/s",
            "now, tok/s",
            "Δ, ms",
            "Δ, tok/s",
            "Δ, %",
        ],
    );
    // What was not run now is named above, with the reason.
    let run_now = |row: &&DecodeRow| row.optimized.ms_per_token.value().is_some();
    for row in summary.decode.iter().filter(run_now) {
        if let Some(before) = &row.earlier {
            earlier
                .row(decode_words(row, false).each_ref().map(|word| &**word))
                .number(&before.speed.ms_per_token, 2)
                .number(&row.optimized.ms_per_token, 2)
                .number(&before.speed.tokens_per_second, 1)
                .number(&row.optimized.tokens_per_second, 1)
                .change(&before.delta_ms, 2, "", Good::Less)
                .change(&before.delta_tokens_per_second, 1, "", Good::More)
                .change(&before.per_cent, 1, "", Good::More);
        }
    }
    let mut about = "Models of random words: speed does not depend on what they mean. Milliseconds of the median token, tokens a second of \
        the median run. Where not all of a model was run, the row says so and nothing is scaled up to the whole."
        .to_owned();
    if summary.decode.iter().all(|row| row.earlier.is_none()) {
        about.push_str(" No earlier artifact was given to compare with (--against FILE).");
    }
    tables.push(earlier);
    Section {
        id: "decode",
        title: "2. Trellis decode",
        about,
        tables,
    }
}

/// Preset, device, bits, and whatever else tells runs from each other; of the optimized path, or of both.
pub(crate) fn decode_words(row: &DecodeRow, both: bool) -> [String; 4] {
    let mut what: Vec<String> = Vec::new();
    what.extend(row.cut.clone());
    what.extend(row.bpw.clone());
    what.extend(match (&row.baseline_arithmetic, &row.arithmetic) {
        (Some(baseline), Some(arithmetic)) if both && baseline != arithmetic => {
            Some(format!("{baseline} → {arithmetic}"))
        }
        (baseline, arithmetic) => arithmetic.clone().or(baseline.clone()),
    });
    if row.device == Device::Gpu {
        what.extend(row.device_name.clone());
    }
    [
        row.preset.clone(),
        row.device.name().to_owned(),
        row.bits.name().to_owned(),
        what.join(", "),
    ]
}

fn counters(counters: &Counters) -> Section {
    let numbers: Vec<String> = match counters.runs.len() {
        0 | 1 => vec!["count".to_owned()],
        runs => (1..=runs).map(|run| format!("run {run}")).collect(),
    };
    let numbers: Vec<&str> = numbers.iter().map(|name| &**name).collect();
    let mut table = Table::new("The four groups", &["group", "counter"], &numbers);
    for row in &counters.rows {
        let mut cells = table.row([&row.group, &row.counter]);
        for value in &row.values {
            cells = match value {
                Value::Object(absent) if absent.contains_key("unavailable") => {
                    let reason = absent["unavailable"].as_str().unwrap_or_default();
                    cells.number(&Figure::unavailable(reason), 0)
                }
                Value::Null => cells.text("none"),
                Value::Array(values) if values.is_empty() => cells.text("none"),
                other => cells.text(other.to_string()),
            };
        }
    }
    let mut about = "As the backend counted them in these runs, prompts, warm-up and profile included. A fallback is work that was asked of \
        the GPU and ran elsewhere, or a grouped dispatch that ran expert by expert: each should be 0."
        .to_owned();
    match &counters.runs[..] {
        [] => {}
        [run] => about.push_str(&format!(" The run: {run}.")),
        runs => {
            let named = (1..)
                .zip(runs)
                .map(|(number, run)| format!("{number}: {run}"));
            about.push_str(&format!(" Runs: {}.", named.collect::<Vec<_>>().join("; ")));
        }
    }
    Section {
        id: "counters",
        title: "3a. Counters",
        about,
        tables: vec![table],
    }
}

fn kernels(summary: &Summary) -> Section {
    let mut about = "Bytes and operations are what a kernel must move and compute at the least; lost is its time \
        beyond what the device, as measured, needs for that. Above 100 %: caches helped, or it multiplies in narrower numbers than f32."
        .to_owned();
    if let Some(reason) = &summary.no_profile {
        about.push_str(&format!(" Unavailable: {reason}."));
    }
    Section {
        id: "kernels",
        title: "3b. Bottlenecks, by kernel",
        about,
        tables: summary.profiles.iter().map(profile).collect(),
    }
}

fn profile(profile: &Profile) -> Table {
    let limit = |figure: &Figure, unit: &str, what: &str| match figure.value() {
        Some(value) => format!("{}{unit} {what}", si(value)),
        None => format!("{what} unavailable"),
    };
    let title = format!(
        "{}: {} µs for a {}; device: {}, {}",
        profile.run,
        micros(profile.seconds),
        if profile.part == "decode" {
            "token"
        } else {
            "prompt"
        },
        limit(&profile.bytes_per_second, "B/s", "copying"),
        limit(&profile.operations_per_second, "FLOP/s", "in f32"),
    );
    let mut table = Table::new(
        title,
        &["kernel"],
        &[
            "no.",
            "times",
            "µs",
            "share, %",
            "lost, µs",
            "MB",
            "Mop",
            "GB/s",
            "of copying, %",
            "Gop/s",
            "of f32, %",
        ],
    );
    for (number, row) in (1..).zip(&profile.kernels) {
        let kernel = &row.kernel;
        // A clock may be too coarse for it.
        let giga_per_second = |of: f64| Figure::Measured(of).map(|of| of / kernel.seconds / 1e9);
        table
            .row([&kernel.kernel])
            .text(number.to_string())
            .text(format!("{:.0}", kernel.dispatches))
            .text(micros(kernel.seconds))
            .text(format!("{:.1}", 100.0 * row.share))
            .number(&row.lost_seconds.map(|seconds| 1e6 * seconds), 1)
            .text(format!("{:.2}", kernel.bytes / 1e6))
            .text(format!("{:.1}", kernel.operations / 1e6))
            .number(&giga_per_second(kernel.bytes), 1)
            .number(&row.of_bandwidth.map(|share| 100.0 * share), 1)
            .number(&giga_per_second(kernel.operations), 1)
            .number(&row.of_rate.map(|share| 100.0 * share), 1);
    }
    table
}

fn micros(seconds: f64) -> String {
    format!("{:.1}", 1e6 * seconds)
}

fn history(history: &[Series]) -> Section {
    let mut table = Table::new(
        "Every measurement, from artifact to artifact",
        &["measurement", "unit"],
        &[
            "runs",
            "first",
            "latest",
            "Δ, %",
            "first commit",
            "latest commit",
        ],
    );
    let machine = history.first().map(|series| &series.machine);
    let one_machine = history
        .iter()
        .all(|series| Some(&series.machine) == machine);
    for series in history {
        // A series without points is none.
        let (Some(first), Some(last)) = (series.points.first(), series.points.last()) else {
            continue;
        };
        let name = match one_machine {
            true => series.name.clone(),
            false => format!("{} · {}", series.name, series.machine),
        };
        let good = match series.less_is_better() {
            true => Good::Less,
            false => Good::More,
        };
        let change = match series.points.len() {
            1 => Figure::unavailable("measured once"),
            _ => Figure::Measured(per_cent(first.value, last.value)),
        };
        let commit = |commit: &Option<String>| commit.as_deref().map_or("none", short).to_owned();
        table
            .row([&name, series.unit])
            .text(series.points.len().to_string())
            .text(format!("{:.1}", first.value))
            .text(format!("{:.1}", last.value))
            .change(&change, 1, "", good)
            .text(commit(&first.commit))
            .text(commit(&last.commit));
    }
    let mut about = match history {
        [] => "Unavailable: the folder holds no artifact of a build in release.".to_owned(),
        _ => "Of all artifacts in the folder that were measured in release. A line is of one machine and one size of work, so that \
            its values can be compared."
            .to_owned(),
    };
    if let (true, Some(machine)) = (one_machine, machine) {
        about.push_str(&format!(" The machine of all: {machine}."));
    }
    Section {
        id: "history",
        title: "4. History",
        about,
        tables: vec![table],
    }
}

fn sources(summary: &Summary) -> Section {
    let mut table = Table::new(
        "Artifacts",
        &["file", "measured", "when", "commit", "command"],
        &[],
    );
    for source in &summary.sources {
        let commit = source.commit.as_deref().map_or("none", short);
        let command = source.command.as_deref().unwrap_or_default();
        let when = date::utc(source.unix_time);
        table.row([&source.file, &source.measurement, &when, commit, command]);
    }
    Section {
        id: "sources",
        title: "5. Sources",
        about: "What all of this was read from. No figure comes from anywhere else.".to_owned(),
        tables: vec![table],
    }
}
