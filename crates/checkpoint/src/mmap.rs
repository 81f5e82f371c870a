//! Memory-mapped files and typed windows into them. The only unsafe code of the crate.

use std::{
    fs::File,
    io,
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytemuck::Pod;

use crate::{Error, Result, Shared};

#[cfg(target_endian = "big")]
compile_error!("safetensors is little-endian and this crate reads it in place");

/// A file mapped read-only, kept open by everything that looks into it.
pub(crate) struct MappedFile {
    path: PathBuf,
    map: memmap2::Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        let io_error = |cause| Error::io("read", path, cause);
        let file = File::open(path).map_err(io_error)?;
        if !file.metadata().map_err(io_error)?.is_file() {
            return Err(io_error(io::Error::other("not a regular file")));
        }
        // SAFETY: the mapping is read-only and private to this crate, which hands out only shared byte slices and
        // `Pod` views of them, for which every bit pattern is valid. What Rust cannot rule out is another process
        // truncating or rewriting the file meanwhile; as with every mapped checkpoint, that is the user's to avoid.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io_error)?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            map,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets the system reclaim the pages of `range`. They are read from the file again when next looked at; if the
    /// system declines, nothing is lost.
    pub(crate) fn evict(&self, range: Range<usize>) {
        #[cfg(unix)]
        if !range.is_empty() && range.end <= self.map.len() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies in the mapping, and for a read-only file mapping the advice only drops cached
            // pages: later reads see the file's bytes again.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(advice, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

/// The values in bytes `range` of `file`: in place if they are aligned for `T`, else copied.
pub(crate) fn window<T: Pod + Send + Sync>(
    file: &Arc<MappedFile>,
    range: Range<usize>,
) -> Shared<T> {
    let bytes = &file.bytes()[range.clone()];
    match bytemuck::try_cast_slice::<u8, T>(bytes) {
        Ok(_) => Arc::new(Window {
            file: Arc::clone(file),
            range,
            element: PhantomData,
        }),
        Err(_) => {
            let values = bytes.chunks_exact(size_of::<T>());
            Arc::new(values.map(bytemuck::pod_read_unaligned).collect::<Vec<T>>())
        }
    }
}

/// Aligned values inside a mapped file; made by [`window`] alone, which checks the alignment.
struct Window<T> {
    file: Arc<MappedFile>,
    range: Range<usize>,
    element: PhantomData<T>,
}

impl<T: Pod> AsRef<[T]> for Window<T> {
    fn as_ref(&self) -> &[T] {
        bytemuck::cast_slice(&self.file.bytes()[self.range.clone()])
    }
}
