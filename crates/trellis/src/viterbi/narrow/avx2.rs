//! The kernel in AVX2: one block is two vectors, taken one after the other.

use std::arch::x86_64::*;

use super::{LANES, check, portable};
use crate::STATES;

/// Lanes of a vector.
const HALF: usize = LANES / 2;

#[target_feature(enable = "avx2")]
pub(super) fn renormalize(costs: &mut [u16]) {
    portable::renormalize(costs);
}

#[target_feature(enable = "avx2")]
pub(super) fn step<const K: usize>(
    codebook: &[i16],
    before: &[u16],
    after: &mut [u16],
    target: i16,
) {
    check(K, codebook, before, after);
    let branches = 1 << K;
    let target = _mm256_set1_epi16(target);
    let (weights, _) = bytemuck::cast_slice::<i16, u16>(codebook).as_chunks::<HALF>();
    let (before, _) = before.as_chunks::<HALF>();
    let (after, _) = after.as_chunks_mut::<HALF>();
    for (half, after) in after.chunks_exact_mut(branches).enumerate() {
        let weights = &weights[(half / 2) << (2 * K + 1)..][..2 << (2 * K)];
        let mut costs = [_mm256_setzero_si256(); 16];
        for q in 0..branches {
            costs[q] = load(&before[q * (STATES >> (2 * K)) / HALF + half]);
        }
        let mut best = [_mm256_set1_epi16(-1); 16];
        for (best, weights) in best.iter_mut().zip(weights.chunks_exact(2 * branches)) {
            for (weights, &cost) in weights.chunks_exact(2).zip(&costs) {
                let d = _mm256_sub_epi16(target, load(&weights[half % 2]));
                let cost = _mm256_adds_epu16(cost, _mm256_mulhrs_epi16(d, d));
                *best = _mm256_min_epu16(*best, cost);
            }
        }
        transpose::<K>(&best, after);
    }
}

/// Writes vector `b`, lane `r` to `r << K | b`.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose<const K: usize>(v: &[__m256i; 16], out: &mut [[u16; HALF]]) {
    // First within each 128 bits, or 8 lanes of r: afterwards they hold successive registers. Then pairs of vectors with
    // neighbouring registers exchange halves, the lower halves going first.
    match K {
        1 => {
            let low = _mm256_unpacklo_epi16(v[0], v[1]);
            let high = _mm256_unpackhi_epi16(v[0], v[1]);
            exchange(out, 0, 1, low, high);
        }
        2 => {
            let v = pairs_of_four([v[0], v[1], v[2], v[3]]);
            exchange(out, 0, 2, v[0], v[1]);
            exchange(out, 1, 3, v[2], v[3]);
        }
        3 => {
            let v = eights([v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]]);
            for i in 0..4 {
                exchange(out, i, i + 4, v[2 * i], v[2 * i + 1]);
            }
        }
        _ => {
            let low = eights([v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]]);
            let high = eights([v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15]]);
            for i in 0..8 {
                exchange(out, i, i + 8, low[i], high[i]);
            }
        }
    }
}

/// Writes the lower halves of `a` and `b` to `out[first]`, the upper halves to `out[second]`.
#[target_feature(enable = "avx2")]
#[inline]
fn exchange(out: &mut [[u16; HALF]], first: usize, second: usize, a: __m256i, b: __m256i) {
    store(&mut out[first], _mm256_permute2x128_si256::<0x20>(a, b));
    store(&mut out[second], _mm256_permute2x128_si256::<0x31>(a, b));
}

/// From one vector per `b < 4`: vector `i` holds in each half all four of lane `2i`, then all four of lane `2i + 1`.
#[target_feature(enable = "avx2")]
#[inline]
fn pairs_of_four(v: [__m256i; 4]) -> [__m256i; 4] {
    let [low0, high0] = [
        _mm256_unpacklo_epi16(v[0], v[1]),
        _mm256_unpackhi_epi16(v[0], v[1]),
    ];
    let [low1, high1] = [
        _mm256_unpacklo_epi16(v[2], v[3]),
        _mm256_unpackhi_epi16(v[2], v[3]),
    ];
    [
        _mm256_unpacklo_epi32(low0, low1),
        _mm256_unpackhi_epi32(low0, low1),
        _mm256_unpacklo_epi32(high0, high1),
        _mm256_unpackhi_epi32(high0, high1),
    ]
}

/// From one vector per `b < 8`: vector `i` holds in each half all eight of lane `i`.
#[target_feature(enable = "avx2")]
#[inline]
fn eights(v: [__m256i; 8]) -> [__m256i; 8] {
    let low = pairs_of_four([v[0], v[1], v[2], v[3]]);
    let high = pairs_of_four([v[4], v[5], v[6], v[7]]);
    let mut out = v;
    for i in 0..4 {
        out[2 * i] = _mm256_unpacklo_epi64(low[i], high[i]);
        out[2 * i + 1] = _mm256_unpackhi_epi64(low[i], high[i]);
    }
    out
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(lanes: &[u16; HALF]) -> __m256i {
    // SAFETY: these are as many bits, and every bit pattern is a vector.
    unsafe { std::mem::transmute::<[u16; HALF], __m256i>(*lanes) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(lanes: &mut [u16; HALF], v: __m256i) {
    // SAFETY: these are as many bits, and every bit pattern is an array of integers.
    *lanes = unsafe { std::mem::transmute::<__m256i, [u16; HALF]>(v) };
}
