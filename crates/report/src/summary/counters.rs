use serde::Serialize;
use serde_json::{Value, json};
use treillage_telemetry::Counts;

use crate::{
    evidence::{Decoded, Evidence},
    results::{Device, Path, Spread},
};

/// The four groups, as runs captured them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counters {
    /// Runs that counted.
    pub runs: Vec<String>,
    /// Every counter, whether or not it moved.
    pub rows: Vec<CounterRow>,
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CounterRow {
    /// Its group.
    pub group: String,
    /// Its name.
    pub counter: String,
    /// Run by run; a single `{"unavailable": reason}` where nothing counted.
    pub values: Vec<Value>,
}

impl Counters {
    pub(super) fn new(evidence: &Evidence) -> Self {
        let counted = |decoded: &'_ Decoded| {
            let telemetry = decoded.result.telemetry.as_ref()?;
            Some((super::run_name(decoded), read(telemetry)))
        };
        let (mut runs, mut columns): (Vec<String>, Vec<Value>) =
            evidence.decoded.iter().filter_map(counted).unzip();
        if columns.is_empty() {
            let missing = evidence.reason(
                "decode",
                Device::Gpu,
                None,
                Some(Path::Optimized),
                Some(Spread::Uniform),
            );
            columns.push(unavailable(&missing));
            runs.clear();
        }
        Self {
            runs,
            rows: table(&columns),
        }
    }
}

fn unavailable(reason: &str) -> Value {
    json!({ "unavailable": reason })
}

/// Counters under today's names, whoever wrote them.
fn read(telemetry: &Value) -> Value {
    let counts: Result<Counts, _> = serde_json::from_value(telemetry.clone());
    match counts.and_then(serde_json::to_value) {
        Ok(counts) => counts,
        Err(error) => unavailable(&format!("counters of another version: {error}")),
    }
}

/// Every counter that there is, with its value in each of `columns`.
fn table(columns: &[Value]) -> Vec<CounterRow> {
    // Names are those of counters that nobody added to; numbers always serialize.
    let names = serde_json::to_value(Counts::default()).unwrap_or_default();
    let mut rows = Vec::new();
    for (group, counters) in names.as_object().into_iter().flatten() {
        for counter in counters
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
        {
            let value = |column: &Value| match column.get("unavailable") {
                Some(_) => column.clone(),
                None => column[group][counter].clone(),
            };
            rows.push(CounterRow {
                group: group.clone(),
                counter: counter.clone(),
                values: columns.iter().map(value).collect(),
            });
        }
    }
    rows
}
