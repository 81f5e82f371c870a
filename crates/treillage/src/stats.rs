//! What a run counted, and how long its stages took.

use std::{io::Write, path::PathBuf, str::FromStr};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use treillage_checkpoint::write_atomically;
use treillage_telemetry::{Counts, StageTime, Stages, prometheus};

use crate::{output, table::Table};

/// Whether to tell, and where.
#[derive(clap::Args)]
pub(crate) struct StatsArgs {
    /// Tell in the end what was counted, work that was asked of a GPU and fell back and values that are not finite, and how long
    /// stages took
    #[arg(long)]
    stats: bool,
    /// Write the same to FILE: as Prometheus reads it if that ends in .prom or .txt, as JSON if it ends in .json
    #[arg(long, value_name = "FILE")]
    stats_file: Option<StatsFile>,
    #[arg(skip)]
    stages: Stages,
}

#[derive(Clone, Debug)]
struct StatsFile {
    path: PathBuf,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Prometheus,
    Json,
}

impl FromStr for StatsFile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = PathBuf::from(text);
        let form = match path.extension().and_then(|extension| extension.to_str()) {
            Some("prom" | "txt") => Form::Prometheus,
            Some("json") => Form::Json,
            _ => return Err("expected a name that ends in .prom, .txt or .json"),
        };
        Ok(Self { path, form })
    }
}

impl StatsArgs {
    /// The clock of the run's stages, which runs if anybody will read it.
    pub(crate) fn stages(&self) -> &Stages {
        if self.stats || self.stats_file.is_some() {
            self.stages.enable();
        }
        &self.stages
    }

    /// Tells people and programs what was counted, if anything counted, and how long stages took.
    pub(crate) fn tell(&self, counts: Option<&Counts>) -> Result<()> {
        let times = self.stages.times();
        if self.stats {
            match counts {
                Some(counts) => output::note(counters(counts)?),
                None => output::note("no counters: no model was run"),
            }
            output::note(stage_times(&times));
        }
        if let Some(StatsFile { path, form }) = &self.stats_file {
            let text = match form {
                Form::Prometheus => prometheus(counts, &times),
                Form::Json => {
                    let all = json!({ "counters": counts, "stages": times });
                    serde_json::to_string_pretty(&all).context("cannot write counters")? + "\n"
                }
            };
            // Whoever collects such files reads a whole one or none.
            write_atomically(path, |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

/// Every counter, whether or not it moved.
fn counters(counts: &Counts) -> Result<Table> {
    let groups = serde_json::to_value(counts).context("cannot write counters")?;
    let mut table = Table::new(&["counter", ""]);
    for (group, counters) in groups.as_object().into_iter().flatten() {
        for (name, value) in counters.as_object().into_iter().flatten() {
            let value = match value {
                Value::Null => "none".to_owned(),
                Value::Array(values) if values.is_empty() => "none".to_owned(),
                other => other.to_string(),
            };
            table.row([format!("{group}.{name}"), value]);
        }
    }
    Ok(table)
}

fn stage_times(times: &[StageTime]) -> Table {
    let mut table = Table::new(&["stage", "times", "seconds", "longest"]);
    for time in times {
        table.row([
            time.stage.clone(),
            time.count.to_string(),
            format!("{:.3}", time.total_seconds),
            format!("{:.3}", time.longest_seconds),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_told() {
        let telemetry = treillage_telemetry::Telemetry::default();
        telemetry.moe_dispatch.gpu_router_calls.add(7);
        let text = counters(&telemetry.counts()).unwrap().to_string();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("trellis_moe_dispatch.gpu_router_calls").ends_with(" 7"));
        assert!(line("trellis_mixed_bpw_grouping.grouping_cpu_fallback_total").ends_with(" 0"));
        assert!(line("trellis_moe_metrics.nan_detected").ends_with(" 0"));
        assert!(line("trellis_nan_guard.most_affected_layer").ends_with(" none"));
        assert!(line("trellis_nan_guard.sample_triggering_inputs").ends_with(" none"));
    }

    #[test]
    fn a_files_name_says_its_form() {
        let form = |name: &str| name.parse().map(|file: StatsFile| file.form);
        assert_eq!(form("a.prom"), Ok(Form::Prometheus));
        assert_eq!(form("dir.json/a.txt"), Ok(Form::Prometheus));
        assert_eq!(form("a.json"), Ok(Form::Json));
        for wrong in ["a", "a.csv", ".json", ""] {
            assert!(form(wrong).is_err(), "{wrong}");
        }
    }
}
