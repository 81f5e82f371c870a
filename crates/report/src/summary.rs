//! What a report says, before it is drawn: numbers, and reasons where there are none. Serializes as `summary.json`.

mod counters;
mod decode;
mod gptq;
mod history;
mod kernels;

use serde::Serialize;

use crate::{
    Machine,
    evidence::{Decoded, Evidence},
    results::Spread,
};

pub use counters::{CounterRow, Counters};
pub use decode::{DecodeRow, Earlier, Speed};
pub use gptq::{BackendRow, Gptq, ModelRow, STAGES, WORKLOADS};
pub use history::{Point, Series};
pub use kernels::{KernelRow, Profile};

/// Name and version of the schema of `summary.json`.
pub const SCHEMA: &str = "treillage-summary/1";

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// When the newest artifact was written, in seconds since 1970.
    pub unix_time: u64,
    /// Commit of the newest artifact.
    pub commit: Option<String>,
    /// Whether tracked files differed from it.
    pub modified: bool,
    /// What it ran on; `None` without artifacts.
    pub machine: Option<Machine>,
    /// What a reader must know before he believes a number: what was cut, a busy machine, a build without optimisation.
    pub cautions: Vec<String>,
    /// The artifacts.
    pub sources: Vec<Source>,
    /// Section 1.
    pub gptq: Gptq,
    /// Section 2.
    pub decode: Vec<DecodeRow>,
    /// Section 3: counters.
    pub counters: Counters,
    /// Section 3: kernels.
    pub profiles: Vec<Profile>,
    /// Why there is no profile, if there is none.
    pub no_profile: Option<String>,
    /// Every measurement, from artifact to artifact.
    pub history: Vec<Series>,
}

/// An artifact that the report draws on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// Its name.
    pub file: String,
    /// What was measured.
    pub measurement: String,
    /// When, in seconds since 1970.
    pub unix_time: u64,
    /// At which commit.
    pub commit: Option<String>,
    /// The command that repeats it, where the suite says.
    pub command: Option<String>,
}

impl Summary {
    /// What `evidence` says, compared with what `against` says. `history` is all there is, oldest first.
    pub fn new(evidence: &Evidence, against: Option<&Evidence>, history: &[Evidence]) -> Self {
        let newest = evidence.newest();
        let profiles = kernels::profiles(evidence);
        Self {
            schema: SCHEMA,
            unix_time: newest.map_or(0, |artifact| artifact.unix_time),
            commit: newest.and_then(|artifact| artifact.commit.clone()),
            modified: newest.is_some_and(|artifact| artifact.modified),
            machine: newest.map(|artifact| artifact.machine.clone()),
            cautions: cautions(evidence),
            sources: sources(evidence),
            gptq: Gptq::new(evidence),
            decode: decode::rows(evidence, against),
            counters: Counters::new(evidence),
            no_profile: profiles.is_empty().then(|| kernels::why_none(evidence)),
            profiles,
            history: history::series(history),
        }
    }
}

fn sources(evidence: &Evidence) -> Vec<Source> {
    let artifacts = evidence.artifacts.iter();
    let source = |(file, artifact): &(String, crate::Artifact)| {
        let mut steps = evidence.steps.iter();
        let step = steps.find(|step| step.artifact.as_ref() == Some(file));
        Source {
            file: file.clone(),
            measurement: artifact.measurement.clone(),
            unix_time: artifact.unix_time,
            commit: artifact.commit.clone(),
            command: step.and_then(|step| step.command.clone()),
        }
    };
    artifacts.map(source).collect()
}

/// A run of `decode` in a line: the model, what of it, how, and where.
fn run_name(decoded: &Decoded) -> String {
    let mut parts = vec![decoded.settings.preset.clone()];
    parts.extend(decoded.cut());
    parts.push(decoded.bpw());
    if decoded.result.bits == Spread::Mixed {
        parts.push("mixed".to_owned());
    }
    parts.extend(decoded.result.arithmetic.clone());
    parts.push(decoded.result.device.clone());
    parts.join(", ")
}

/// Load from which on other work shows in what is measured, in units of a core.
const BUSY: f64 = 0.5;

fn cautions(evidence: &Evidence) -> Vec<String> {
    let mut cautions: Vec<String> = Vec::new();
    let mut add = |caution: String| {
        if !cautions.contains(&caution) {
            cautions.push(caution);
        }
    };
    for step in &evidence.steps {
        if let Some(cut) = &step.cut {
            add(cut.clone());
        }
    }
    let artifacts = || evidence.artifacts.iter().map(|(_, artifact)| artifact);
    if artifacts().any(|artifact| !artifact.optimised) {
        add("Some of it was measured in a build without optimisation: no figure of that is worth keeping.".to_owned());
    }
    if artifacts().any(|artifact| artifact.modified) {
        add("The sources differed from the commit.".to_owned());
    }
    let loads = artifacts().filter_map(|artifact| artifact.machine.load_average);
    let load = loads.fold(0.0, f64::max);
    if load > BUSY {
        add(format!(
            "The machine's load average reached {load:.1}, the measurements' own work included: compare with care."
        ));
    }
    let newest = evidence.newest();
    if artifacts().any(|artifact| Some(&artifact.commit) != newest.map(|n| &n.commit)) {
        add("The artifacts are of more than one commit: see the list of sources.".to_owned());
    }
    let processor = |artifact: &crate::Artifact| artifact.machine.processor.clone();
    if artifacts().any(|artifact| Some(processor(artifact)) != newest.map(processor)) {
        add("The artifacts are of more than one machine: do not compare across them.".to_owned());
    }
    for problem in &evidence.unreadable {
        add(format!("A result could not be read: {problem}"));
    }
    cautions
}
