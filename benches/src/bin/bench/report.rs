//! `report`: what do the artifacts say?

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use treillage_benches::artifact::FOLDER;
use treillage_report::{Evidence, Summary};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Artifacts to report on, those of suites or single ones; by default the latest suite's
    #[arg(value_name = "ARTIFACT")]
    artifacts: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Where reports are, and what they are compared with.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// Folder of the artifacts that history is drawn from, and of the report
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    pub(crate) folder: PathBuf,
    /// An earlier artifact, of a suite or a single one, to compare decoding with
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let artifacts = match &args.artifacts[..] {
        [] => vec![latest_suite(&args.place.folder)?],
        named => named.to_vec(),
    };
    args.place.render(&artifacts)
}

impl Place {
    /// Writes the report of `artifacts` and prints it.
    pub(crate) fn render(&self, artifacts: &[PathBuf]) -> Result<()> {
        let evidence = Evidence::read(artifacts)?;
        let against = self.against.iter().cloned().collect::<Vec<_>>();
        let against = match against.is_empty() {
            true => None,
            false => Some(Evidence::read(&against)?),
        };
        let (history, unreadable) = Evidence::read_folder(&self.folder)?;
        for problem in unreadable {
            eprintln!("left out of the history: {problem}");
        }
        let summary = Summary::new(&evidence, against.as_ref(), &history);
        let path = summary.write(&self.folder)?;
        println!("{}", summary.markdown());
        println!("{}, also as .json and .html", path.display());
        Ok(())
    }
}

/// The `suite-<time>.json` of the latest time.
fn latest_suite(folder: &Path) -> Result<PathBuf> {
    let context = || {
        format!(
            "{}: nothing was measured; cargo xtask bench does",
            folder.display()
        )
    };
    let time = |path: &PathBuf| -> Option<u64> {
        let name = path.file_stem()?.to_str()?;
        name.strip_prefix("suite-")?.parse().ok()
    };
    let entries = fs::read_dir(folder).with_context(context)?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let suites = paths.filter_map(|path| Some((time(&path)?, path)));
    Ok(suites.max().with_context(context)?.1)
}
