//! The files beside weights and configuration that make a checkpoint usable: tokenizer, templates, licence.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::job::Job;
use crate::{Error, Result};

/// How names of files to be copied begin…
const BEGINNINGS: [&str; 8] = [
    "tokenizer",
    "special_tokens_map",
    "added_tokens",
    "vocab.",
    "merges.",
    "chat_template",
    "generation_config",
    "LICENSE",
];
/// …or end.
const ENDINGS: [&str; 3] = [".jinja", ".model", ".tiktoken"];

/// Copies what belongs to the model from the checkpoint `source` to the finished one.
pub(super) fn copy(source: &Path, job: &Job) -> Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(source).map_err(|cause| Error::io("read", source, cause))? {
        let entry = entry.map_err(|cause| Error::io("read", source, cause))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let belongs = BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
            || ENDINGS.iter().any(|ending| name.ends_with(ending));
        if belongs && entry.path().is_file() {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    files
        .iter()
        .try_for_each(|(name, path)| copy_file(name, path, job))
}

fn copy_file(name: &str, path: &PathBuf, job: &Job) -> Result<()> {
    let mut file = File::open(path).map_err(|cause| Error::io("read", path, cause))?;
    job.write_file(name, |out| io::copy(&mut file, out).map(|_| ()))
}
