//! Watching for values that are not finite: kernels note them on the device, and every read brings the notes along.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use treillage_telemetry::{PlainPath, TriggeringInput};

use crate::{Error, Gpu, Slice};

/// Words of a record: whether it was written, the row, how many values are not finite, bits of the largest magnitude of the others.
const WORDS: usize = 4;
/// Records: one for what comes after the blocks, and one for each block; what is beyond shares the last.
const RECORDS: usize = 256;
/// Bytes of all of them.
pub(crate) const BYTES: usize = 4 * WORDS * RECORDS;

/// The records, and the block that is being recorded.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    flags: Mutex<Option<Slice>>,
    block: AtomicU32,
    pub(crate) path: PlainPath,
}

impl Guard {
    /// The flag of logits.
    pub(crate) const LOGITS: u32 = 0;

    /// Ops from here on are those of block `index`.
    pub(crate) fn enter(&self, index: usize) {
        let index = index.min(RECORDS - 2) as u32;
        self.block.store(index, Ordering::Relaxed);
    }

    /// Whether ops take the plain path.
    pub(crate) fn is_plain(&self) -> bool {
        self.path.is_taken()
    }

    /// The flag of the current block: the first word of its record.
    pub(crate) fn flag(&self) -> u32 {
        (1 + self.block.load(Ordering::Relaxed)) * WORDS as u32
    }

    /// All flags, as kernels bind them.
    pub(crate) fn flags(&self, gpu: &Gpu) -> Result<Slice, Error> {
        let mut flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flags) = &*flags {
            return Ok(flags.clone());
        }
        let slice = gpu.buffer("flags", BYTES as u64)?.slice();
        *flags = Some(slice.clone());
        Ok(slice)
    }
}

/// The first record that is written in `bytes`, as they were read: that of the first block, and of what comes after them if there
/// is no other.
pub(crate) fn first_noted(bytes: &[u8]) -> Option<TriggeringInput> {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
    let (records, _) = words.as_chunks::<WORDS>();
    let noted = |&(_, record): &(usize, &[u32; WORDS])| record[0] != 0;
    let mut records = records.iter().enumerate();
    let after = records.next();
    let first = records.find(noted).or(after.filter(noted));
    first.map(|(place, &[_, row, not_finite, largest])| TriggeringInput {
        layer: place.checked_sub(1),
        row: row as usize,
        not_finite: not_finite.into(),
        largest_finite: f32::from_bits(largest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_is_named_and_logits_come_last() {
        let mut words = vec![0u32; WORDS * RECORDS];
        let noted = |words: &[u32]| first_noted(bytemuck::cast_slice(words));
        assert_eq!(noted(&words), None);
        words[Guard::LOGITS as usize] = 1;
        let found = noted(&words).unwrap();
        assert_eq!(
            (found.layer, found.to_string()),
            (None, "a logit".to_owned())
        );
        let guard = Guard::default();
        for (block, row) in [(1000, 9), (3, 7)] {
            guard.enter(block);
            let record = &mut words[guard.flag() as usize..][..WORDS];
            record.copy_from_slice(&[1, row, 2, 1.5f32.to_bits()]);
            let found = noted(&words).unwrap();
            assert_eq!(found.layer, Some(block.min(RECORDS - 2)));
            assert_eq!((found.row, found.not_finite), (row as usize, 2));
            assert_eq!(found.largest_finite, 1.5);
        }
    }
}
