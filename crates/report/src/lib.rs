//! Reads the artifacts that treillage's benchmarks leave behind and renders a summary: as Markdown, as JSON, and as one HTML page
//! that needs nothing but itself.
//!
//! What was not measured reads `unavailable`, with the reason. No figure is made up, scaled, or taken from an older run.
//!
//! ```no_run
//! use std::path::Path;
//! use treillage_report::{Evidence, Summary};
//!
//! // A suite's artifact stands for all that the suite measured.
//! let evidence = Evidence::read(&["target/bench/suite-1763971200.json".into()])?;
//! let (history, _unreadable) = Evidence::read_folder(Path::new("target/bench"))?;
//! let summary = Summary::new(&evidence, None, &history);
//! println!("{}", summary.markdown());
//! summary.write(Path::new("target/bench"))?;
//! # Ok::<(), treillage_report::Error>(())
//! ```
//!
//! # Modules
//! | module | |
//! |---|---|
//! | [`artifact`] | the file: its schema, which the benchmarks write by |
//! | `machine` | what a program runs on |
//! | [`results`] | what measurements put into it |
//! | `evidence` | artifacts that belong together |
//! | `figure` | a number, or why there is none |
//! | [`summary`] | what the report says, before it is drawn |
//! | `sections`, `table` | the same as text and tables |
//! | `markdown`, `html`, `plots` | how it is drawn |
//! | `date` | times as people read them |
#![forbid(unsafe_code)]

pub mod artifact;
mod date;
mod evidence;
mod figure;
mod html;
mod machine;
mod markdown;
mod plots;
pub mod results;
mod sections;
pub mod summary;
mod table;

use std::path::{Path, PathBuf};

pub use artifact::{Artifact, Error};
pub use evidence::Evidence;
pub use figure::Figure;
pub use machine::Machine;
pub use summary::Summary;

impl Summary {
    /// Writes `summary.md`, `summary.json` and `summary.html` into `folder`, and gives the path of the first.
    ///
    /// # Errors
    /// [`Error::Io`], naming the file.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, Error> {
        let markdown = folder.join("summary.md");
        let json = folder.join("summary.json");
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            path: json.clone(),
            source,
        })?;
        artifact::write_whole(&json, &(text + "\n"))?;
        artifact::write_whole(&folder.join("summary.html"), &self.html())?;
        artifact::write_whole(&markdown, &self.markdown())?;
        Ok(markdown)
    }
}
