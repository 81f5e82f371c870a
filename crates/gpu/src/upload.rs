//! Bringing weights to the device without holding them twice in the host's memory.

use crate::{Error, Gpu, Slice};

/// Bytes that are staged at once.
const CHUNK: usize = 8 << 20;
/// Bytes that may wait for the device before we do: what uploads cost in host memory.
const IN_FLIGHT: u64 = 64 << 20;

impl Gpu {
    /// Copies `bytes` to `slice` from byte `offset` on. Only for memory that no recorded work uses: it does not wait its
    /// turn, [`Recorder::write`](crate::Recorder::write) does.
    ///
    /// # Errors
    /// Whatever the device reports.
    ///
    /// # Panics
    /// If they do not fit, or `offset` is not a multiple of four.
    pub fn upload(&self, slice: &Slice, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        assert!(
            offset.is_multiple_of(4) && offset + bytes.len() as u64 <= slice.size(),
            "{} bytes at {offset} of {}",
            bytes.len(),
            slice.size()
        );
        let mut at = slice.offset() + offset;
        for chunk in bytes.chunks(CHUNK) {
            let whole = chunk.len() / 4 * 4;
            let (words, rest) = chunk.split_at(whole);
            self.stage(slice, at, words)?;
            if !rest.is_empty() {
                // Copies are of whole words; what lies behind the last one is nobody's.
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                self.stage(slice, at + whole as u64, &word)?;
            }
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// Fills `bytes` bytes of `slice` from `offset` on with what `fill` writes, piece by piece: it is called with the first
    /// byte of each piece, relative to `offset`, and room for the piece. Pieces begin at multiples of `unit` bytes.
    ///
    /// # Errors
    /// Whatever the device reports.
    ///
    /// # Panics
    /// As [`Gpu::upload`]; if `unit` is zero or no multiple of four.
    pub fn upload_with(
        &self,
        slice: &Slice,
        offset: u64,
        bytes: usize,
        unit: usize,
        mut fill: impl FnMut(usize, &mut [u8]),
    ) -> Result<(), Error> {
        assert!(unit > 0 && unit.is_multiple_of(4), "units of {unit} bytes");
        let step = (CHUNK / unit).max(1) * unit;
        let mut piece = vec![0; step.min(bytes)];
        for start in (0..bytes).step_by(step) {
            let piece = &mut piece[..step.min(bytes - start)];
            fill(start, piece);
            self.upload(slice, offset + start as u64, piece)?;
        }
        Ok(())
    }

    fn stage(&self, slice: &Slice, at: u64, words: &[u8]) -> Result<(), Error> {
        if words.is_empty() {
            return Ok(());
        }
        self.queue().write_buffer(slice.buffer().raw(), at, words);
        if self.staged(words.len() as u64) >= IN_FLIGHT {
            self.queue().submit([]);
            self.wait()?;
            self.reset_staged();
        }
        self.check()
    }
}
