use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Writes the file `target` so that it is either whole or not there: beside it, flushed to the disk, then renamed.
///
/// # Errors
/// [`Error::Io`] naming `target`, for example when the disk is full; what was there before is then still there.
pub fn write_atomically(
    target: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let mut beside = OsString::from(target);
    beside.push(".tmp");
    write_via(Path::new(&beside), target, fill)
}

/// As [`write_atomically`], the unfinished file being `beside`, which must be on the same disk.
pub(super) fn write_via(
    beside: &Path,
    target: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(beside)?);
        fill(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(beside, target)?;
        target.parent().map_or(Ok(()), sync_dir)
    };
    write().map_err(|cause| {
        // Best effort, the first error is the one to report: on a full disk this makes room.
        let _ = fs::remove_file(beside);
        Error::io("write", target, cause)
    })
}

/// Makes renames in `dir` survive a power failure.
#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)?.sync_all()
}

/// Elsewhere folders cannot be opened; renames are as durable as the system makes them.
#[cfg(not(unix))]
pub(super) fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Writes `value` as JSON for people.
pub(super) fn json(
    value: &impl serde::Serialize,
) -> impl FnOnce(&mut BufWriter<File>) -> io::Result<()> {
    move |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    }
}
