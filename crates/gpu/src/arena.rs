//! Memory for activations, used again and again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{ALIGNMENT, Buffer, Error, Gpu, Slice};

/// Lends memory and takes it back, so that the same sequence of ops runs in the same memory.
///
/// Of all free regions of a size class the oldest is lent: what is lent depends on which regions are free, not on the
/// order in which they became so. From the second token on a step of decoding therefore finds all of its bind groups.
///
/// Each region is a buffer of its own: WebGPU tracks how buffers are used as wholes, and what a kernel writes must not be in
/// the buffer that it reads.
#[derive(Clone, Debug)]
pub struct Arena {
    gpu: Gpu,
    free: Arc<Mutex<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    /// By size class, and by age within.
    regions: BTreeMap<u64, BTreeMap<u64, Buffer>>,
    made: u64,
    bytes: u64,
}

/// Memory that is lent until the last handle to it is gone.
///
/// It may be lent again at once: what is recorded later runs later.
#[derive(Debug)]
pub struct Region {
    buffer: Buffer,
    age: u64,
    free: Arc<Mutex<Free>>,
}

fn lock(free: &Mutex<Free>) -> MutexGuard<'_, Free> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// An empty arena.
    pub fn new(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.clone(),
            free: Arc::default(),
        }
    }

    /// At least `bytes` bytes that nothing else uses. What is in them is unspecified.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::TooLarge`].
    pub fn lend(&self, bytes: u64) -> Result<Arc<Region>, Error> {
        let class = class(bytes).min(self.gpu.max_binding()).max(bytes);
        let mut free = lock(&self.free);
        let found = free.regions.get_mut(&class).and_then(BTreeMap::pop_first);
        let (age, buffer) = match found {
            Some(found) => found,
            None => {
                let buffer = self.gpu.buffer("activations", class)?;
                free.made += 1;
                free.bytes += buffer.size();
                (free.made, buffer)
            }
        };
        Ok(Arc::new(Region {
            buffer,
            age,
            free: Arc::clone(&self.free),
        }))
    }

    /// Bytes of all regions, lent and free.
    pub fn bytes(&self) -> u64 {
        lock(&self.free).bytes
    }

    /// Gives all free regions back to the device.
    pub fn trim(&self) {
        let mut free = lock(&self.free);
        let regions = std::mem::take(&mut free.regions);
        let freed: u64 = regions
            .values()
            .flat_map(BTreeMap::values)
            .map(Buffer::size)
            .sum();
        free.bytes -= freed;
    }
}

impl Region {
    /// `bytes` bytes of it from `offset` on, a multiple of [`ALIGNMENT`].
    ///
    /// # Panics
    /// If it has fewer.
    pub fn range(&self, offset: u64, bytes: u64) -> Slice {
        self.buffer.range(offset, bytes)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let mut free = lock(&self.free);
        let class = free.regions.entry(self.buffer.size()).or_default();
        class.insert(self.age, self.buffer.clone());
    }
}

/// The size that regions for `bytes` have: of four steps between powers of two, the next.
fn class(bytes: u64) -> u64 {
    let bytes = bytes.max(ALIGNMENT);
    let step = (bytes.next_power_of_two() / 8).max(ALIGNMENT);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_a_quarter() {
        for bytes in (1..100_000).step_by(37) {
            let class = class(bytes);
            assert!(class >= bytes && class.is_multiple_of(ALIGNMENT));
            assert!(
                class - bytes < (bytes / 4).max(ALIGNMENT),
                "{bytes}: {class}"
            );
        }
    }
}
