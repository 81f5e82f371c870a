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
    /// Medians over visits of the fastest sample, in nanoseconds.
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

/// One visit: each bench's fastest sample. Visits are as short as criterion makes them, so that samples fit between two
/// switches of the scheduler. Where more programs run than there are cores, that one is still likely to
/// have had a core to itself; criterion's own estimates hold the others' time slices.
fn once(revision: &Revision, program: &str, filter: &str) -> Result<BTreeMap<String, f64>> {
    let home = folder()?.join("criterion");
    // What an earlier visit left would read as this one's.
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
    }
    let mut command = Command::new(revision.program(program));
    command.args(["--bench", "--noplot", "--sample-size", "10"]);
    command.args([
        "--warm-up-time",
        "0.05",
        "--measurement-time",
        "0.05",
        filter,
    ]);
    command.env("CRITERION_HOME", &home);
    run(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let mut found = BTreeMap::new();
    if home.exists() {
        samples(&home, &mut found)?;
    }
    Ok(found)
}

/// The fastest samples in criterion's folders below `folder`.
fn samples(folder: &Path, found: &mut BTreeMap<String, f64>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.ends_with("new") {
            let name = json(path.join("benchmark.json"))?;
            let name = name["full_id"].as_str().map(str::to_owned);
            let fastest = fastest(&json(path.join("sample.json"))?);
            let context = || format!("{}: not what criterion writes", path.display());
            let (name, fastest) = name.zip(fastest).with_context(context)?;
            found.insert(name, fastest);
        } else if path.is_dir() {
            samples(&path, found)?;
        }
    }
    Ok(())
}

/// Nanoseconds of one call in the sample where they are fewest.
fn fastest(sample: &Value) -> Option<f64> {
    let numbers = |name: &str| -> Option<Vec<f64>> {
        let values = sample[name].as_array()?.iter();
        values.map(Value::as_f64).collect()
    };
    let (calls, times) = (numbers("iters")?, numbers("times")?);
    let per_call = times.iter().zip(&calls).map(|(time, calls)| time / calls);
    per_call.min_by(f64::total_cmp)
}

pub(crate) fn json(path: PathBuf) -> Result<Value> {
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_fastest_sample_counts_by_the_call() {
        let sample = json!({"iters": [1.0, 2.0, 3.0], "times": [11.0, 18.0, 30.0]});
        assert_eq!(fastest(&sample), Some(9.0));
        assert_eq!(fastest(&json!({"iters": [], "times": []})), None);
        assert_eq!(fastest(&json!({"iters": [1.0]})), None);
    }
}
