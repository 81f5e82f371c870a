use treillage_trellis::PackedLinear;
use treillage_trellis::lanes::{Lanes, Ring};

use super::BLOCK_TILES;

/// The words of a packed linear, tile by tile.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    words: &'a [u16],
    /// Tiles along the output axis.
    columns: usize,
    words_per_tile: usize,
}

impl<'a> Tiles<'a> {
    pub(super) fn new(linear: &'a PackedLinear) -> Self {
        let [_, columns, words_per_tile] = linear.shape();
        let words = linear.words();
        Self {
            words,
            columns,
            words_per_tile,
        }
    }

    /// Tiles `block · 8..` of one column, ready to be gathered from.
    #[inline(always)]
    pub(super) fn stage<'r, L: Lanes, const K: usize>(
        self,
        lanes: L,
        block: usize,
        column: usize,
        rings: &'r mut [Ring; BLOCK_TILES],
    ) -> [&'r [u8]; BLOCK_TILES]
    where
        'a: 'r,
    {
        let mut staged: [&[u8]; BLOCK_TILES] = [&[]; BLOCK_TILES];
        for (i, ring) in rings.iter_mut().enumerate() {
            let start = self.start(BLOCK_TILES * block + i, column);
            staged[i] = lanes.stage::<K>(&self.words[start..start + 16 * K], ring);
        }
        staged
    }

    /// Asks for the tiles of a block that will be staged later, if there are any.
    #[inline(always)]
    pub(super) fn prefetch(self, block: usize, column: usize) {
        for i in 0..BLOCK_TILES {
            let start = self.start(BLOCK_TILES * block + i, column);
            if let Some(words) = self.words.get(start..start + self.words_per_tile) {
                prefetch(words);
            }
        }
    }

    #[inline(always)]
    fn start(self, row: usize, column: usize) -> usize {
        (row * self.columns + column) * self.words_per_tile
    }
}

/// Asks for the cache lines that `words` begin in.
#[inline(always)]
fn prefetch(words: &[u16]) {
    #[cfg(target_arch = "x86_64")]
    for line in words.chunks(32) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, and SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}
