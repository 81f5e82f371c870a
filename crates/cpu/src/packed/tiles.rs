use std::ops::Range;

use treillage_trellis::PackedLinear;
use treillage_trellis::lanes::{Lanes, Ring};

use super::BLOCK_TILES;

/// The words of some columns of a packed linear, tile by tile.
pub(super) struct Tiles<'a> {
    words: &'a [u16],
    /// Words from one tile to the one below it.
    row: usize,
    /// Hadamard blocks along the input axis.
    pub(super) blocks: usize,
    /// Tiles along the output axis.
    pub(super) columns: Range<usize>,
}

/// The tiles of one column of one block.
pub(super) struct Column<'a> {
    words: &'a [u16],
    row: usize,
    rings: &'a [Ring; BLOCK_TILES],
    /// The tiles that are wanted once all columns of this block are done.
    next: *const u16,
}

impl<'a> Tiles<'a> {
    pub(super) fn new(linear: &'a PackedLinear, columns: Range<usize>) -> Self {
        let [rows, tiles_out, words_per_tile] = linear.shape();
        let (words, row) = (linear.words(), tiles_out * words_per_tile);
        Self {
            words,
            row,
            blocks: rows / BLOCK_TILES,
            columns,
        }
    }

    /// Column `i` of those of block `block`, ready to be gathered from.
    #[inline(always)]
    pub(super) fn column<'b, L: Lanes, const K: usize>(
        &'b self,
        lanes: L,
        block: usize,
        i: usize,
        rings: &'b mut [Ring; BLOCK_TILES],
    ) -> Column<'b> {
        let start = BLOCK_TILES * block * self.row + 16 * K * (self.columns.start + i);
        let words = &self.words[start..];
        for (tile, ring) in rings.iter_mut().enumerate() {
            lanes.stage::<K>(&words[tile * self.row..][..16 * K], ring);
        }
        // After the last block, whoever has done these columns is likely to do those beside them.
        let next = if block + 1 < self.blocks {
            start + BLOCK_TILES * self.row
        } else {
            16 * K * (self.columns.end + i)
        };
        Column {
            words,
            row: self.row,
            rings,
            next: self.words.as_ptr().wrapping_add(next),
        }
    }
}

impl Column<'_> {
    /// The bits of a group of one of the tiles.
    #[inline(always)]
    pub(super) fn group<L: Lanes, const K: usize>(
        &self,
        lanes: L,
        tile: usize,
        group: usize,
    ) -> L::Group {
        let words = &self.words[tile * self.row..][..16 * K];
        lanes.group::<K>(words, &self.rings[tile], group)
    }

    /// Asks for the words of one of the tiles that will be wanted next.
    #[inline(always)]
    pub(super) fn prefetch<const K: usize>(&self, tile: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let next = self.next.wrapping_add(tile * self.row);
            // Tiles of a row follow one another, so that the rest of a tile's last line comes with the tile beside it.
            for line in 0..(32 * K).div_ceil(64) {
                // SAFETY: a prefetch reads nothing, wherever it points; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(32 * line).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (tile, self.next);
    }
}
