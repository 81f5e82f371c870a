//! The safetensors format: checked headers, views into mapped files, a writer.

mod header;
mod write;

use std::{ops::Range, path::Path, sync::Arc};

use bytemuck::Pod;

pub(crate) use header::TensorInfo;
pub use header::{Header, HeaderError};
pub(crate) use write::{Entry, write_header};

use crate::{
    Dtype, Error, Result, Shared, TensorError,
    mmap::{MappedFile, window},
};

/// One memory-mapped safetensors file.
pub struct Safetensors {
    file: Arc<MappedFile>,
    header: Header,
}

impl Safetensors {
    /// Maps `path` and checks its header. No tensor is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Header`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = MappedFile::open(path.as_ref())?;
        let header = Header::parse(file.bytes()).map_err(|reason| Error::Header {
            file: file.path().to_owned(),
            reason,
        })?;
        Ok(Self { file, header })
    }

    /// The table of contents.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let tensors = &self.header.tensors;
        let index = tensors.binary_search_by(|t| (*t.name).cmp(name)).ok()?;
        Some(TensorView::new(&self.file, &tensors[index]))
    }

    /// All tensors, first byte first.
    pub(crate) fn in_storage_order(&self) -> Vec<TensorView<'_>> {
        let tensors = self.header.tensors.iter();
        let mut views: Vec<_> = tensors
            .map(|info| TensorView::new(&self.file, info))
            .collect();
        views.sort_by_key(|view| view.info.range.start);
        views
    }

    pub(crate) fn into_parts(self) -> (Arc<MappedFile>, Vec<TensorInfo>) {
        (self.file, self.header.tensors)
    }
}

/// A tensor where it lies in its file.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    file: &'a Arc<MappedFile>,
    info: &'a TensorInfo,
}

impl<'a> TensorView<'a> {
    pub(crate) fn new(file: &'a Arc<MappedFile>, info: &'a TensorInfo) -> Self {
        Self { file, info }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Its shape, row-major; `[]` for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// Its bytes, little-endian, in the mapped file.
    pub fn bytes(&self) -> &'a [u8] {
        &self.file.bytes()[self.info.range.clone()]
    }

    /// The file that holds it.
    pub fn file(&self) -> &'a Path {
        self.file.path()
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        // Cannot overflow: the header was checked against the file's size.
        self.shape().iter().product()
    }

    /// The elements `part` read as `T`, sharing the mapping where they are aligned for it and copied where not.
    ///
    /// The caller has compared [`TensorView::dtype`] with `T` and `part` with [`TensorView::len`].
    pub(crate) fn values<T: Pod + Send + Sync>(&self, part: Range<usize>) -> Shared<T> {
        let start = self.info.range.start;
        let bytes = start + part.start * size_of::<T>()..start + part.end * size_of::<T>();
        assert!(
            bytes.end <= self.info.range.end,
            "elements outside the tensor"
        );
        window(self.file, bytes)
    }

    pub(crate) fn evict(&self) {
        self.file.evict(self.info.range.clone());
    }

    /// `reason` with this tensor's name and file.
    pub(crate) fn error(&self, reason: impl Into<TensorError>) -> Error {
        Error::Tensor {
            file: self.file().to_owned(),
            name: self.name().to_owned(),
            reason: reason.into(),
        }
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// [`TensorError::Shape`] naming this tensor.
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape() == expected {
            return Ok(());
        }
        Err(self.error(TensorError::Shape {
            expected: expected.to_vec(),
            found: self.shape().to_vec(),
        }))
    }
}
