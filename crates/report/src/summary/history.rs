use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::{
    evidence::{Decoded, Evidence},
    results::Path,
};

/// One measurement, from artifact to artifact, on one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// On which processor, with how many cores.
    pub machine: String,
    /// Of the values: `tok/s`, `ms` or `tiles/s`.
    pub unit: &'static str,
    /// Oldest first.
    pub points: Vec<Point>,
}

/// A value of a [`Series`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// When, in seconds since 1970.
    pub unix_time: u64,
    /// At which commit.
    pub commit: Option<String>,
    /// The value.
    pub value: f64,
}

impl Series {
    /// Whether a larger value is a worse one.
    pub fn less_is_better(&self) -> bool {
        self.unit == "ms"
    }
}

/// Of all that was measured in release.
pub(super) fn series(history: &[Evidence]) -> Vec<Series> {
    let mut all: BTreeMap<(String, String, &'static str), Vec<Point>> = BTreeMap::new();
    for evidence in history {
        // Of a history each stands alone.
        let Some((_, artifact)) = evidence.artifacts.first() else {
            continue;
        };
        if !artifact.optimised {
            continue;
        }
        let cores = artifact.machine.cores;
        let machine = match &artifact.machine.processor {
            Some(processor) => format!("{processor}, {cores} cores"),
            None => format!("{}, {cores} cores", artifact.machine.architecture),
        };
        for (name, unit, value) in values(evidence) {
            let point = Point {
                unix_time: artifact.unix_time,
                commit: artifact.commit.clone(),
                value,
            };
            all.entry((name, machine.clone(), unit))
                .or_default()
                .push(point);
        }
    }
    let series = |((name, machine, unit), points)| Series {
        name,
        machine,
        unit,
        points,
    };
    all.into_iter().map(series).collect()
}

fn values(evidence: &Evidence) -> Vec<(String, &'static str, f64)> {
    let mut values = Vec::new();
    for decoded in &evidence.decoded {
        let rate = decoded.result.decode_tokens_per_second;
        values.push((decode_name(decoded), "tok/s", rate));
    }
    for result in &evidence.gptq {
        let (workload, format) = (&result.workload, &result.format);
        let name = format!("gptq: {workload}, {format}, {}", result.device.name());
        values.push((name, "ms", result.ours.median.total_ms));
    }
    let encoded = evidence
        .artifacts
        .iter()
        .filter(|(_, artifact)| artifact.measurement == "encode")
        .flat_map(|(_, artifact)| &artifact.results);
    for result in encoded {
        if let Some(rate) = result["tiles_per_second"].as_f64() {
            values.push((encode_name(result), "tiles/s", rate));
        }
    }
    values
}

/// With whatever must be the same for two values to be comparable.
fn decode_name(decoded: &Decoded) -> String {
    let settings = &decoded.settings;
    let path = match decoded.result.path {
        Path::Baseline => ", baseline",
        Path::Optimized => "",
    };
    format!(
        "decode: {}{path}, {} after {}",
        super::run_name(decoded),
        settings.decoded_tokens,
        settings.prompt_tokens
    )
}

fn encode_name(result: &Value) -> String {
    let words = |key: &str| match &result[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut name = format!("encode: {} bits", words("bits"));
    for key in ["device", "level"] {
        if !result[key].is_null() {
            name = format!("{name}, {}", words(key));
        }
    }
    match result["threads"].is_null() {
        true => name,
        false => format!("{name}, {} threads", words("threads")),
    }
}
