//! The file that a measurement leaves behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine;

/// Name and version of the schema. The version grows whenever a field changes its meaning or goes away.
pub const SCHEMA: &str = "treillage-bench/1";

/// A measurement with all that is needed to repeat it: machine, commit, settings, results.
pub struct Artifact {
    measurement: String,
    settings: Value,
    results: Vec<Value>,
}

impl Artifact {
    /// A measurement without results; `settings` is an object of what was asked for.
    pub fn new(measurement: &str, settings: Value) -> Self {
        Self {
            measurement: measurement.to_owned(),
            settings,
            results: Vec::new(),
        }
    }

    /// Adds a result: an object.
    pub fn push(&mut self, result: Value) {
        self.results.push(result);
    }

    /// The whole as JSON.
    pub fn to_json(&self) -> Value {
        let (commit, modified) = machine::commit();
        json!({
            "schema": SCHEMA,
            "measurement": self.measurement,
            "unix_time": unix_time(),
            "commit": commit,
            "modified": modified,
            "optimised": !cfg!(debug_assertions),
            "machine": machine::describe(),
            "settings": self.settings,
            "results": self.results,
        })
    }

    /// Writes the file, by default `target/bench/<measurement>-<time>.json`, and gives its path.
    ///
    /// # Errors
    /// The file system's, naming the file.
    pub fn write(&self, path: Option<&Path>) -> Result<PathBuf> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                Path::new("target/bench").join(format!("{}-{}.json", self.measurement, unix_time()))
            }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let text = serde_json::to_string_pretty(&self.to_json())?;
        fs::write(&path, text + "\n").with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
