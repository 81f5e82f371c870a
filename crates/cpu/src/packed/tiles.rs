use treillage_trellis::PackedLinear;
use treillage_trellis::lanes::{Lanes, Ring};

use super::BLOCK_TILES;

/// The words of a packed linear, tile by tile.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    words: &'a [u16],
    /// Words from one tile to the one below it.
    row: usize,
}

/// The tiles of one column of one block.
pub(super) struct Column<'a> {
    words: &'a [u16],
    row: usize,
    rings: &'a [Ring; BLOCK_TILES],
}

impl<'a> Tiles<'a> {
    pub(super) fn new(linear: &'a PackedLinear) -> Self {
        let [_, columns, words_per_tile] = linear.shape();
        Self {
            words: linear.words(),
            row: columns * words_per_tile,
        }
    }

    /// The tiles of column `column` of block `block`, ready to be gathered from.
    #[inline(always)]
    pub(super) fn column<'b, L: Lanes, const K: usize>(
        self,
        lanes: L,
        block: usize,
        column: usize,
        rings: &'b mut [Ring; BLOCK_TILES],
    ) -> Column<'b>
    where
        'a: 'b,
    {
        let words = &self.words[BLOCK_TILES * block * self.row + 16 * K * column..];
        for (tile, ring) in rings.iter_mut().enumerate() {
            lanes.stage::<K>(&words[tile * self.row..][..16 * K], ring);
        }
        Column {
            words,
            row: self.row,
            rings,
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

    /// Asks for the words of tile `tile` of the block below.
    #[inline(always)]
    pub(super) fn prefetch_below<const K: usize>(&self, tile: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let below = self
                .words
                .as_ptr()
                .wrapping_add((BLOCK_TILES + tile) * self.row);
            // Words of a row follow one another, so that the rest of a tile's last line comes with the next tile.
            for line in 0..(32 * K).div_ceil(64) {
                // SAFETY: a prefetch reads nothing, wherever it points; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(below.wrapping_add(32 * line).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = tile;
    }
}
