//! The file that a measurement leaves behind: written by the benchmarks, read here.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Machine;

/// Name and version of the schema. The version grows whenever a field changes its meaning or goes away.
pub const SCHEMA: &str = "treillage-bench/1";

/// A measurement with all that is needed to repeat it: machine, commit, settings, results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was measured: `encode`, `linear`, `gptq`, `decode`, `suite` for a list of these, or `against`, one revision's
    /// speed beside another's.
    pub measurement: String,
    /// When it was written, in seconds since 1970.
    pub unix_time: u64,
    /// The checkout's commit; `None` outside of one.
    pub commit: Option<String>,
    /// Whether tracked files differed from the commit.
    pub modified: bool,
    /// Whether the program was built in release.
    pub optimised: bool,
    /// What it ran on.
    pub machine: Machine,
    /// What was asked for: an object.
    pub settings: Value,
    /// What was found: an object each.
    pub results: Vec<Value>,
}

/// Why an artifact could not be read or written. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Not JSON, or cut off.
    #[error("{}: not whole JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it breaks off.
        source: serde_json::Error,
    },
    /// JSON of something else, or of another version.
    #[error("{}: schema {found}, this program reads {SCHEMA}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says that it is, in JSON.
        found: Value,
    },
    /// The schema's name, but not its fields.
    #[error("{}: not what {SCHEMA} says: {source}", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// What is missing or of another type.
        source: serde_json::Error,
    },
}

impl Error {
    /// For `map_err`, with the file that it happened to.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Artifact {
    /// The artifact in `path`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let json = |source| Error::Json {
            path: path.to_owned(),
            source,
        };
        let value: Value = serde_json::from_str(&text).map_err(json)?;
        if value["schema"] != SCHEMA {
            return Err(Error::Schema {
                path: path.to_owned(),
                found: value["schema"].clone(),
            });
        }
        serde_json::from_value(value).map_err(|source| Error::Fields {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes it into `path`, and makes the folder that it lies in.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            path: path.to_owned(),
            source,
        })?;
        write_whole(path, &(text + "\n"))
    }
}

/// Writes a file that is whole or absent, and makes the folder that it lies in.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let whole = || {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    whole().map_err(Error::io(path))
}
