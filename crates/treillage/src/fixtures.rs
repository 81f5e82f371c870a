//! The repository's own small models and texts.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The checkout that holds `fixtures/`: the working directory, else the one that this program was built from.
pub(crate) fn checkout() -> Result<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for root in [PathBuf::new(), built_from] {
        if root.join("fixtures").is_dir() {
            return Ok(root.canonicalize().unwrap_or(root));
        }
    }
    bail!("no folder fixtures/ here: run this from a checkout of the repository")
}
