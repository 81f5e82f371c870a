//! Transforms in plain Rust, laid out so that the compiler can vectorise them for any target.

use super::scale;

/// Transforms each run of `block` values in place.
pub(super) fn fwht(row: &mut [f32], block: usize) {
    match block {
        16 => row.as_chunks_mut::<16>().0.iter_mut().for_each(transform),
        32 => row.as_chunks_mut::<32>().0.iter_mut().for_each(transform),
        64 => row.as_chunks_mut::<64>().0.iter_mut().for_each(transform),
        _ => row.as_chunks_mut::<128>().0.iter_mut().for_each(transform),
    }
}

/// Transforms one block.
///
/// Every stage adds and subtracts neighbours and rotates the bits of the index by one place: the same code each time, with no
/// stride shorter than a vector. After one stage for each bit the order is natural again.
fn transform<const B: usize>(block: &mut [f32; B]) {
    let scale = scale(B);
    block.iter_mut().for_each(|x| *x *= scale);
    let mut other = [0.0; B];
    for _ in 0..B.ilog2() / 2 {
        stage(block, &mut other);
        stage(&other, block);
    }
    if B.ilog2() % 2 == 1 {
        stage(block, &mut other);
        *block = other;
    }
}

#[inline(always)]
fn stage<const B: usize>(from: &[f32; B], to: &mut [f32; B]) {
    let (sums, differences) = to.split_at_mut(B / 2);
    for ((pair, sum), difference) in from.as_chunks::<2>().0.iter().zip(sums).zip(differences) {
        *sum = pair[0] + pair[1];
        *difference = pair[0] - pair[1];
    }
}

/// Rows that [`mix_columns`] works on at a time: the strip of a block of 128 columns is then 32 KiB.
const STRIP: usize = 64;

/// Transforms across `block` columns of `rows` values each.
///
/// Works on a copy of a few rows at a time: columns a power of two apart would evict each other from the cache.
pub(super) fn mix_columns(columns: &mut [f32], rows: usize, block: usize) {
    let scale = scale(block);
    let mut strip = vec![[0.0; STRIP]; block];
    for first in (0..rows).step_by(STRIP) {
        let part = first..rows.min(first + STRIP);
        for (column, copy) in columns.chunks_exact(rows).zip(&mut strip) {
            for (y, x) in copy.iter_mut().zip(&column[part.clone()]) {
                *y = x * scale;
            }
        }
        let mut half = 1;
        while half < block {
            for pair in strip.chunks_exact_mut(2 * half) {
                let (left, right) = pair.split_at_mut(half);
                for (a, b) in left
                    .as_flattened_mut()
                    .iter_mut()
                    .zip(right.as_flattened_mut())
                {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for (column, copy) in columns.chunks_exact_mut(rows).zip(&strip) {
            column[part.clone()].copy_from_slice(&copy[..part.len()]);
        }
    }
}
