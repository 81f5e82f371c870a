//! Criterion's benches, run in turns: old new, new old, old new, …

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    paired::{Ratio, Verdict},
    revision::{Revision, folder},
};
use crate::command::run;

pub(crate) const PACKAGE: &str = "treillage-benches";
pub(crate) const PACKAGE_FOLDER: &str = "benches";

/// Programs, and what criterion's filter takes of each: what the product spends its time in, as far as one call is short.
/// Together they take some minutes. Of whole quantizers, instructions are counted.
pub(crate) const DEFAULT: &[(&str, &str)] = &[
    ("viterbi", "viterbi/.*/3 bits"),
    ("packed_linear", "packed_linear/(Exact|Int8)/.*/1$"),
    ("hadamard", "dispatched/128|matrix2048"),
    ("decode", "decode/mul1/[35]$"),
    ("attention", "decode/512"),
    ("mixers", "decode/(1|512)$"),
    ("router", "top8of128"),
];

/// Old and new time of each visit, in nanoseconds, by criterion's name of the bench.
pub(crate) type Pairs = BTreeMap<String, Vec<[f64; 2]>>;

/// What was found about one bench.
pub(crate) struct Finding {
    pub(crate) bench: String,
    /// Medians over visits, in nanoseconds.
    pub(crate) old: f64,
    pub(crate) new: f64,
    pub(crate) visits: usize,
    pub(crate) ratio: Ratio,
}

impl Finding {
    pub(crate) fn verdict(&self) -> Verdict {
        self.ratio.verdict()
    }
}

/// Visits the benches of one program and adds a pair to each.
pub(crate) fn visit(
    [old, new]: [&Revision; 2],
    program: &str,
    filter: &str,
    visits: u32,
    pairs: &mut Pairs,
) -> Result<()> {
    for round in 0..visits {
        let mut first = once(if round % 2 == 0 { old } else { new }, program, filter)?;
        let mut second = once(if round % 2 == 0 { new } else { old }, program, filter)?;
        if round % 2 == 1 {
            std::mem::swap(&mut first, &mut second);
        }
        // A bench that one revision lacks is not compared.
        for (bench, old) in first {
            if let Some(new) = second.get(&bench) {
                pairs.entry(bench).or_default().push([old, *new]);
            }
        }
    }
    Ok(())
}

pub(crate) fn findings(pairs: Pairs) -> Vec<Finding> {
    let all = pairs.into_iter().filter_map(|(bench, pairs)| {
        let ratio = Ratio::of(&pairs)?;
        let middle = |half: usize| {
            let mut times: Vec<f64> = pairs.iter().map(|pair| pair[half]).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        Some(Finding {
            bench,
            old: middle(0),
            new: middle(1),
            visits: pairs.len(),
            ratio,
        })
    });
    all.collect()
}

/// One short visit: what criterion estimates for each bench.
fn once(revision: &Revision, program: &str, filter: &str) -> Result<BTreeMap<String, f64>> {
    let home = folder()?.join("criterion");
    // What an earlier visit left would read as this one's.
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
    }
    let mut command = Command::new(revision.program(program));
    command.args(["--bench", "--noplot", "--sample-size", "10"]);
    command.args(["--warm-up-time", "0.1", "--measurement-time", "0.3", filter]);
    command.env("CRITERION_HOME", &home);
    run(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let mut found = BTreeMap::new();
    if home.exists() {
        estimates(&home, &mut found)?;
    }
    Ok(found)
}

/// The medians in criterion's folders below `folder`.
fn estimates(folder: &Path, found: &mut BTreeMap<String, f64>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") {
            let name = json(path.join("benchmark.json"))?;
            let estimate = json(path.join("estimates.json"))?;
            let name = name["full_id"].as_str();
            let median = estimate["median"]["point_estimate"].as_f64();
            let context = || format!("{}: not what criterion writes", path.display());
            let (name, median) = name.zip(median).with_context(context)?;
            found.insert(name.to_owned(), median);
        } else if path.is_dir() {
            estimates(&path, found)?;
        }
    }
    Ok(())
}

pub(crate) fn json(path: PathBuf) -> Result<Value> {
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
