//! Transforms in plain Rust, laid out so that the compiler vectorises them for any target.

use super::scale;

/// Transforms each run of `B` values in place.
pub(super) fn fwht<const B: usize>(row: &mut [f32]) {
    for block in row.as_chunks_mut::<B>().0 {
        transform(block);
    }
}

/// Transforms one block.
///
/// Every stage adds and subtracts neighbours and rotates the bits of the index by one place: the same code each time, with no
/// stride shorter than a vector. After one stage for each bit the order is natural again.
#[inline(always)]
fn transform<const B: usize>(block: &mut [f32; B]) {
    let mut other = [0.0; B];
    for _ in 0..B.ilog2() / 2 {
        stage(block, &mut other);
        stage(&other, block);
    }
    if B.ilog2() % 2 == 1 {
        stage(block, &mut other);
        *block = other;
    }
    block.iter_mut().for_each(|x| *x *= scale(B));
}

#[inline(always)]
fn stage<const B: usize>(from: &[f32; B], to: &mut [f32; B]) {
    let (sums, differences) = to.split_at_mut(B / 2);
    for ((pair, sum), difference) in from.as_chunks::<2>().0.iter().zip(sums).zip(differences) {
        *sum = pair[0] + pair[1];
        *difference = pair[0] - pair[1];
    }
}

/// Rows that [`mix_columns`] works on at a time: the strip of a block of 128 columns fills half of a 32 KiB cache.
const STRIP: usize = 32;

/// Transforms across `block` columns of `rows` values each.
///
/// Works on a copy of a few rows at a time: columns a power of two apart would evict each other from the cache.
pub(super) fn mix_columns(columns: &mut [f32], rows: usize, block: usize) {
    let mut strip = vec![0.0; block * STRIP];
    for first in (0..rows).step_by(STRIP) {
        let height = STRIP.min(rows - first);
        let strip = &mut strip[..block * height];
        for (column, copy) in columns
            .chunks_exact(rows)
            .zip(strip.chunks_exact_mut(height))
        {
            copy.copy_from_slice(&column[first..first + height]);
        }
        mix(strip, height);
        let scale = scale(block);
        for (column, copy) in columns
            .chunks_exact_mut(rows)
            .zip(strip.chunks_exact(height))
        {
            for (x, y) in column[first..first + height].iter_mut().zip(copy) {
                *x = y * scale;
            }
        }
    }
}

/// Sums and differences of columns of `height` values, then of pairs of columns, and so on.
fn mix(strip: &mut [f32], height: usize) {
    let mut half = height;
    while half < strip.len() {
        for pair in strip.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}
