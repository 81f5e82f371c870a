//! Reading JSON files of bounded size.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::{Error, Result};

/// The bytes of the file `path`, which may have at most `limit`.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io_error = |cause| Error::io("read", path, cause);
    let file = File::open(path).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(io_error(io::Error::other("not a regular file")));
    }
    if metadata.len() > limit {
        return Err(Error::TooLarge {
            file: path.to_owned(),
            found: metadata.len(),
            limit,
        });
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // Bounded even if the file grows meanwhile.
    file.take(limit).read_to_end(&mut bytes).map_err(io_error)?;
    Ok(bytes)
}
