//! The file that a measurement leaves behind, filled in with what it ran on. Its schema is `treillage-report`'s, which reads it.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use serde_json::Value;
use treillage_report::{
    Machine,
    artifact::{self, SCHEMA},
};

use crate::machine;

/// A measurement with all that is needed to repeat it: machine, commit, settings, results.
pub struct Artifact(artifact::Artifact);

impl Artifact {
    /// A measurement without results; `settings` is an object of what was asked for.
    pub fn new(measurement: &str, settings: Value) -> Self {
        let (commit, modified) = machine::commit();
        Self(artifact::Artifact {
            schema: SCHEMA.to_owned(),
            measurement: measurement.to_owned(),
            unix_time: unix_time(),
            commit,
            modified,
            optimised: !cfg!(debug_assertions),
            machine: Machine::here(),
            settings,
            results: Vec::new(),
        })
    }

    /// Adds a result: an object.
    pub fn push(&mut self, result: Value) {
        self.0.results.push(result);
    }

    /// What was measured.
    pub fn measurement(&self) -> &str {
        &self.0.measurement
    }

    /// Writes the file, by default `target/bench/<measurement>-<time>.json`, and gives its path.
    ///
    /// # Errors
    /// The file system's, naming the file.
    pub fn write(&self, path: Option<&Path>) -> Result<PathBuf> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                let name = format!("{}-{}.json", self.0.measurement, unix_time());
                Path::new(FOLDER).join(name)
            }
        };
        self.0.write(&path)?;
        Ok(path)
    }
}

/// Where artifacts go unless they are told otherwise.
pub const FOLDER: &str = "target/bench";

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
