//! `cargo xtask bench --against REVISION`: is what lies here slower than that revision?
//!
//! | module | |
//! |---|---|
//! | `revision` | a checkout, and its benches built |
//! | `times` | criterion's benches, run in turns |
//! | `paired` | what pairs of times say |
//! | `instructions` | what Valgrind counts |

mod instructions;
mod paired;
mod revision;
mod times;

use std::{
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use treillage_report::{Artifact, Machine, artifact::SCHEMA};

use crate::command::root;
use instructions::Counted;
use paired::Verdict;
use revision::Revision;
use times::{Finding, Pairs};

#[derive(clap::Args)]
pub(crate) struct Comparison {
    /// Compare the speed of what lies here with that of a git revision; fails if anything is slower. After a verb, this goes to
    /// the measurement, and names an artifact
    #[arg(long, value_name = "REVISION")]
    pub(crate) against: Option<String>,
    /// Of the comparison: only these criterion benches, by file; by default those of the hot kernels
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        requires = "against"
    )]
    bench: Vec<String>,
    /// Of the comparison: only names of criterion's that match this regular expression
    #[arg(
        long,
        value_name = "REGEX",
        requires = "against",
        conflicts_with = "what"
    )]
    filter: Option<String>,
    /// Of the comparison: how often each revision runs each bench, at least 8
    #[arg(long, value_name = "N", default_value_t = 40, requires = "against", conflicts_with = "what", value_parser = clap::value_parser!(u32).range(8..))]
    visits: u32,
    /// Of the comparison: one half of it
    #[arg(long, requires = "against", conflicts_with = "what")]
    only: Option<Half>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Half {
    /// Criterion's times of both revisions, measured in turns
    Times,
    /// Instructions, which Valgrind counts
    Instructions,
}

pub(crate) fn run(name: &str, args: &Comparison) -> Result<ExitCode> {
    if Path::new(name).is_file() {
        bail!(
            "{name} is a file, not a revision: `cargo xtask bench report --against {name}` compares with an artifact"
        );
    }
    let old = Revision::checkout(name)?;
    let new = Revision::here()?;
    let both = [&old, &new];
    println!("{} against {} ({name})", new.short(), old.short());

    let wanted = |half| args.only.is_none_or(|only| only == half);
    let mut found = Found::default();
    if wanted(Half::Instructions) {
        found.left_out = instructions::obstacle(both);
    }
    let counts = wanted(Half::Instructions) && found.left_out.is_none();
    let programs = match wanted(Half::Times) {
        true => args.programs(both)?,
        false => Vec::new(),
    };
    let names: Vec<&str> = programs.iter().map(|(bench, _)| *bench).collect();
    // All of one revision before the other: what they share is built once.
    for revision in both {
        if counts {
            revision.build(instructions::PACKAGE, &[instructions::BENCH])?;
        }
        revision.build(times::PACKAGE, &names)?;
    }
    if counts {
        found.counts = instructions::compare(both)?;
    }
    let mut pairs = Pairs::new();
    for (bench, filter) in programs {
        println!("measuring {bench}, {} visits of each revision", args.visits);
        times::visit(both, bench, filter, args.visits, &mut pairs)?;
    }
    found.times = times::findings(pairs);
    found.print();

    let settings = json!({
        "against": old.commit,
        "bench": args.bench,
        "filter": args.filter,
        "visits": args.visits,
        "least_change_of_times": paired::THRESHOLD,
        "confidence": paired::CONFIDENCE,
        "least_change_of_instructions": instructions::THRESHOLD,
        "instructions_left_out": found.left_out,
    });
    let path = write(&new, settings, found.results())?;
    println!("\n{path}");
    Ok(match found.slower() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

impl Comparison {
    /// Criterion's benches that were asked for and that both revisions have, and the filter of each.
    fn programs<'a>(&'a self, [old, new]: [&Revision; 2]) -> Result<Vec<(&'a str, &'a str)>> {
        let filter = self.filter.as_deref();
        let mut chosen: Vec<(&str, &str)> = match &self.bench[..] {
            [] => times::DEFAULT
                .iter()
                .map(|(bench, usual)| (*bench, filter.unwrap_or(usual)))
                .collect(),
            named => named
                .iter()
                .map(|bench| (bench.as_str(), filter.unwrap_or("")))
                .collect(),
        };
        let has = |revision: &Revision, bench| revision.has(times::PACKAGE_FOLDER, bench);
        if let Some((unknown, _)) = chosen.iter().find(|(bench, _)| !has(new, bench)) {
            bail!("there is no bench {unknown}");
        }
        chosen.retain(|(bench, _)| {
            let both = has(old, bench);
            if !both {
                println!("{} has no bench {bench}", old.short());
            }
            both
        });
        Ok(chosen)
    }
}

/// What a comparison says.
#[derive(Default)]
struct Found {
    times: Vec<Finding>,
    counts: Vec<Counted>,
    /// Why no instructions were counted, if they should have been.
    left_out: Option<String>,
}

impl Found {
    fn slower(&self) -> bool {
        let times = self.times.iter().map(Finding::verdict);
        let counts = self.counts.iter().map(Counted::verdict);
        times
            .chain(counts)
            .any(|verdict| verdict == Verdict::Slower)
    }

    fn print(&self) {
        if let Some(obstacle) = &self.left_out {
            println!("\nno instructions were counted: {obstacle}");
        }
        if !self.counts.is_empty() {
            println!(
                "\n{:<44} {:>12} {:>12} {:>7}  verdict",
                "instructions", "old", "new", "ratio"
            );
        }
        for counted in &self.counts {
            let Counted { kernel, old, new } = counted;
            let (ratio, verdict) = (counted.ratio(), counted.verdict().name());
            println!("{kernel:<44} {old:>12} {new:>12} {ratio:>7.3}  {verdict}");
        }
        if !self.times.is_empty() {
            println!(
                "\n{:<44} {:>12} {:>12} {:>7} {:>15}  verdict",
                "time", "old, µs", "new, µs", "ratio", "interval"
            );
        }
        for finding in &self.times {
            let Finding {
                bench,
                old,
                new,
                ratio,
                ..
            } = finding;
            let [old, new] = [old, new].map(|nanoseconds| nanoseconds / 1e3);
            let interval = format!("{:.3} – {:.3}", ratio.low, ratio.high);
            let verdict = match finding.verdict() {
                Verdict::None => Verdict::None.name().to_owned(),
                certain => format!("{}, {:.1} %", certain.name(), 100.0 * ratio.confidence),
            };
            println!(
                "{bench:<44} {old:>12.2} {new:>12.2} {:>7.3} {interval:>15}  {verdict}",
                ratio.median
            );
        }
    }

    fn results(&self) -> Vec<Value> {
        let counts = self.counts.iter().map(|counted| {
            json!({
                "kind": "instructions",
                "bench": counted.kernel,
                "old": counted.old,
                "new": counted.new,
                "ratio": counted.ratio(),
                "verdict": counted.verdict().name(),
            })
        });
        let times = self.times.iter().map(|finding| {
            json!({
                "kind": "time",
                "bench": finding.bench,
                "old_nanoseconds": finding.old,
                "new_nanoseconds": finding.new,
                "visits": finding.visits,
                "ratio": finding.ratio.median,
                "ratio_low": finding.ratio.low,
                "ratio_high": finding.ratio.high,
                "confidence": finding.ratio.confidence,
                "verdict": finding.verdict().name(),
            })
        });
        counts.chain(times).collect()
    }
}

/// Beside the other artifacts; gives the path from the workspace's root.
fn write(new: &Revision, settings: Value, results: Vec<Value>) -> Result<String> {
    let unix_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    let path = format!("target/bench/against-{unix_time}.json");
    let artifact = Artifact {
        schema: SCHEMA.to_owned(),
        measurement: "against".to_owned(),
        unix_time,
        commit: Some(new.commit.clone()),
        modified: new.modified,
        // Of what was measured, not of this program.
        optimised: true,
        machine: Machine::here(),
        settings,
        results,
    };
    artifact.write(&root().join(&path))?;
    Ok(path)
}
