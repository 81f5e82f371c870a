//! Constants by which AVX-512 VBMI takes windows straight from the words as they are stored.

use super::ring;

/// How the 64-bit runs of a group's eight threads are gathered from the words as they are stored.
pub(super) struct Gather<const K: usize>;

impl<const K: usize> Gather<K> {
    const TILE_BYTES: usize = 32 * K;

    /// Bytes of a 64-bit run that windows reach.
    const RUN_BYTES: usize = {
        let (upper, lower) = (ring::window_shift(K, 0), ring::window_shift(K, 2));
        (if upper > lower { upper } else { lower } + 16).div_ceil(8)
    };

    /// Byte of the tile where the 64 bytes that a group is gathered from start.
    pub(super) const START: [usize; 4] = {
        let mut start = [0; 4];
        let mut group = 1;
        while group < 4 {
            // A group reaches two bytes back beyond its own; eight keep 32-bit words whole.
            let wanted = (8 * K * group).saturating_sub(if ring::is_wide(K) { 0 } else { 8 });
            let last = Self::TILE_BYTES.saturating_sub(64);
            start[group] = if wanted < last { wanted } else { last };
            group += 1;
        }
        start
    };

    /// Byte of the tile where a second 64 bytes start, for what lies before the first.
    pub(super) const BEFORE: [usize; 4] = {
        let mut before = [Self::TILE_BYTES.saturating_sub(64); 4];
        let mut group = 1;
        while group < 4 {
            before[group] = Self::START[group].saturating_sub(64);
            group += 1;
        }
        before
    };

    /// For each group, for the upper run and for the one from the thread's start: where each byte of the eight runs lies
    /// in those 64 bytes, or, with 64 added, in the ones before.
    pub(super) const INDICES: [[[u8; 64]; 2]; 4] = {
        let mut indices = [[[0; 64]; 2]; 4];
        let mut at = 0;
        while at < 512 {
            let (group, run, byte) = (at / 128, at / 64 % 2, at % 64);
            let offset = if run == 0 { ring::upper_offset(K) } else { 0 };
            let from_end = ring::thread_start(K, 8 * group + byte / 8) + offset + byte % 8;
            // Bytes run backwards within 32-bit words.
            let stored = ((2 * Self::TILE_BYTES - 1 - from_end) % Self::TILE_BYTES) ^ 3;
            let (start, before) = (Self::START[group], Self::BEFORE[group]);
            let in_no_window = byte % 8 >= Self::RUN_BYTES;
            indices[group][run][byte] = if in_no_window {
                0
            } else if stored >= start && stored < start + 64 {
                (stored - start) as u8
            } else {
                assert!(stored >= before && stored < before + 64);
                (64 + stored - before) as u8
            };
            at += 1;
        }
        indices
    };

    /// Whether a group has indices of 64 and above.
    pub(super) const GOES_BACK: [bool; 4] = {
        let mut goes_back = [false; 4];
        let mut at = 0;
        while at < 512 {
            goes_back[at / 128] |= Self::INDICES[at / 128][at / 64 % 2][at % 64] >= 64;
            at += 1;
        }
        goes_back
    };

    /// For each vector: the bit where each byte of a thread's two products starts. Each state comes twice, in both
    /// halves of its lane.
    pub(super) const WINDOWS: [[u8; 8]; 4] = {
        let mut windows = [[0; 8]; 4];
        let mut at = 0;
        while at < 32 {
            let (vector, byte) = (at / 8, at % 8);
            let shift = ring::window_shift(K, vector + byte / 4 * 4) + byte % 2 * 8;
            windows[vector][byte] = shift as u8;
            at += 1;
        }
        windows
    };
}
