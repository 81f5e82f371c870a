//! Memory for weights.

use std::sync::{Mutex, PoisonError};

use crate::{ALIGNMENT, Buffer, Error, Gpu, Slice};

/// The first slab; each further one adds a quarter to what there is, up to [`LARGEST`].
const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 256 << 20;

/// Cuts weights from large buffers, one after the other. Weights live as long as their slices; a slab is free when the last of
/// its slices is gone.
///
/// A weight of more than half a slab gets a buffer of its own.
#[derive(Debug)]
pub struct Slabs {
    gpu: Gpu,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Buffer>,
    used: u64,
    bytes: u64,
}

impl Slabs {
    /// No slab yet.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.clone(),
            state: Mutex::default(),
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Room for `bytes` bytes of `what`, to be uploaded to.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::TooLarge`] if kernels could not bind them at once.
    pub fn cut(&self, what: &str, bytes: u64) -> Result<Slice, Error> {
        let bytes = bytes.max(4).next_multiple_of(4);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = state.current.as_ref().map_or(0, Buffer::size) - state.used;
        if bytes > room {
            let limit = self.gpu.max_binding();
            let slab = (state.bytes / 4)
                .next_multiple_of(ALIGNMENT)
                .clamp(SMALLEST, LARGEST)
                .min(limit);
            if bytes > slab / 2 {
                let slice = self.gpu.buffer(what, bytes)?.slice();
                state.bytes += bytes;
                return Ok(slice);
            }
            state.current = Some(self.gpu.buffer("weights", slab)?);
            state.used = 0;
            state.bytes += slab;
        }
        let offset = state.used;
        let Some(slab) = &state.current else {
            unreachable!("a slab was made where there was none");
        };
        let slice = slab.range(offset, bytes);
        state.used = (offset + bytes)
            .next_multiple_of(ALIGNMENT)
            .min(slab.size());
        Ok(slice)
    }

    /// `bytes`, uploaded.
    ///
    /// # Errors
    /// As [`Slabs::cut`], and whatever the device reports.
    pub fn put(&self, what: &str, bytes: &[u8]) -> Result<Slice, Error> {
        let slice = self.cut(what, bytes.len() as u64)?;
        self.gpu.upload(&slice, 0, bytes)?;
        Ok(slice)
    }

    /// Bytes of all slabs made.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes
    }
}
