//! Memory of the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wgpu::BufferUsages;

use crate::gpu::Shared;
use crate::{Error, Gpu};

/// Offsets of what kernels bind are multiples of this: what every adapter accepts.
pub const ALIGNMENT: u64 = 256;

/// Names a buffer; no two buffers of a process have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BufferId(u64);

/// Memory of the device. Cloning copies the handle; the memory is free when the last one is gone.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: BufferId,
    raw: wgpu::Buffer,
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Bind groups keep memory alive: those of this buffer are to be forgotten.
        self.shared.bury(self.id, self.raw.size());
    }
}

impl Buffer {
    pub(crate) fn new(gpu: &Gpu, what: &str, bytes: u64) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bytes = bytes.max(4).next_multiple_of(4);
        let limit = gpu.max_binding();
        if bytes > limit {
            return Err(Error::TooLarge {
                what: what.to_owned(),
                bytes,
                limit,
            });
        }
        gpu.check()?;
        let scope = gpu
            .device()
            .push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Error::reported(error, what, bytes));
        }
        gpu.shared().born(bytes);
        Ok(Self(Arc::new(Inner {
            id: BufferId(NEXT.fetch_add(1, Ordering::Relaxed)),
            raw,
            shared: Arc::clone(gpu.shared()),
        })))
    }

    pub(crate) fn id(&self) -> BufferId {
        self.0.id
    }

    /// The buffer, for what this crate does not wrap.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.raw.size()
    }

    /// All of it.
    pub fn slice(&self) -> Slice {
        self.range(0, self.size())
    }

    /// `size` bytes from `offset` on, a multiple of [`ALIGNMENT`].
    ///
    /// # Panics
    /// If the range is not in the buffer or not aligned.
    pub fn range(&self, offset: u64, size: u64) -> Slice {
        assert!(
            offset.is_multiple_of(ALIGNMENT) && offset + size <= self.size(),
            "bytes {offset}..{} of {}",
            offset + size,
            self.size()
        );
        Slice {
            buffer: self.clone(),
            offset,
            size,
        }
    }
}

/// A part of a buffer, as kernels bind it.
#[derive(Clone, Debug)]
pub struct Slice {
    buffer: Buffer,
    offset: u64,
    size: u64,
}

impl Slice {
    /// Where it lies.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its first byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// `size` bytes from `offset` of this slice on, a multiple of [`ALIGNMENT`].
    ///
    /// # Panics
    /// If the range is not in the slice or not aligned.
    pub fn range(&self, offset: u64, size: u64) -> Slice {
        assert!(offset + size <= self.size, "a part of a slice");
        self.buffer.range(self.offset + offset, size)
    }

    pub(crate) fn key(&self) -> (BufferId, u64, u64) {
        (self.buffer.id(), self.offset, self.size)
    }
}
