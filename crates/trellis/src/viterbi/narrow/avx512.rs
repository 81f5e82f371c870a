//! The kernel in AVX-512BW: one block is one vector.

use std::arch::x86_64::*;

use super::{LANES, check, portable};
use crate::STATES;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn renormalize(costs: &mut [u16]) {
    portable::renormalize(costs);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn step<const K: usize>(
    codebook: &[i16],
    before: &[u16],
    after: &mut [u16],
    target: i16,
) {
    check(K, codebook, before, after);
    let branches = 1 << K;
    let target = _mm512_set1_epi16(target);
    let (weights, _) = bytemuck::cast_slice::<i16, u16>(codebook).as_chunks::<LANES>();
    let (before, _) = before.as_chunks::<LANES>();
    let (after, _) = after.as_chunks_mut::<LANES>();
    for (block, after) in after.chunks_exact_mut(branches).enumerate() {
        let weights = &weights[block << (2 * K)..][..1 << (2 * K)];
        let mut costs = [_mm512_setzero_si512(); 16];
        for q in 0..branches {
            costs[q] = load(&before[q * (STATES >> (2 * K)) / LANES + block]);
        }
        let mut best = [_mm512_set1_epi16(-1); 16];
        for (best, weights) in best.iter_mut().zip(weights.chunks_exact(branches)) {
            for (weights, &cost) in weights.iter().zip(&costs) {
                let d = _mm512_sub_epi16(target, load(weights));
                let cost = _mm512_adds_epu16(cost, _mm512_mulhrs_epi16(d, d));
                *best = _mm512_min_epu16(*best, cost);
            }
        }
        transpose::<K>(&best, after);
    }
}

/// Writes vector `b`, lane `r` to `r << K | b`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn transpose<const K: usize>(v: &[__m512i; 16], out: &mut [[u16; LANES]]) {
    // First within each quarter of a vector, 128 bits or 8 lanes of r: afterwards it holds successive registers.
    // Then quarters are gathered, four vectors at a time.
    match K {
        1 => {
            let low = _mm512_unpacklo_epi16(v[0], v[1]);
            let high = _mm512_unpackhi_epi16(v[0], v[1]);
            let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            store(&mut out[0], _mm512_permutex2var_epi64(low, first, high));
            store(&mut out[1], _mm512_permutex2var_epi64(low, second, high));
        }
        2 => {
            let quarters = gather_quarters(pairs_of_four([v[0], v[1], v[2], v[3]]));
            for (out, quarter) in out.iter_mut().zip(quarters) {
                store(out, quarter);
            }
        }
        3 => {
            let [a, b, c, d, e, f, g, h] = eights([v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]]);
            let (low, high) = (gather_quarters([a, b, c, d]), gather_quarters([e, f, g, h]));
            for quarter in 0..4 {
                store(&mut out[2 * quarter], low[quarter]);
                store(&mut out[2 * quarter + 1], high[quarter]);
            }
        }
        _ => {
            let low = eights([v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]]);
            let high = eights([v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15]]);
            for pair in 0..4 {
                let (i, j) = (2 * pair, 2 * pair + 1);
                let quarters = gather_quarters([low[i], high[i], low[j], high[j]]);
                for quarter in 0..4 {
                    store(&mut out[4 * quarter + pair], quarters[quarter]);
                }
            }
        }
    }
}

/// From one vector per `b < 4`: vector `i` holds in each quarter all four of lane `2i`, then all four of lane `2i + 1`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn pairs_of_four(v: [__m512i; 4]) -> [__m512i; 4] {
    let [low0, high0] = [
        _mm512_unpacklo_epi16(v[0], v[1]),
        _mm512_unpackhi_epi16(v[0], v[1]),
    ];
    let [low1, high1] = [
        _mm512_unpacklo_epi16(v[2], v[3]),
        _mm512_unpackhi_epi16(v[2], v[3]),
    ];
    [
        _mm512_unpacklo_epi32(low0, low1),
        _mm512_unpackhi_epi32(low0, low1),
        _mm512_unpacklo_epi32(high0, high1),
        _mm512_unpackhi_epi32(high0, high1),
    ]
}

/// From one vector per `b < 8`: vector `i` holds in each quarter all eight of lane `i`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn eights(v: [__m512i; 8]) -> [__m512i; 8] {
    let low = pairs_of_four([v[0], v[1], v[2], v[3]]);
    let high = pairs_of_four([v[4], v[5], v[6], v[7]]);
    let mut out = v;
    for i in 0..4 {
        out[2 * i] = _mm512_unpacklo_epi64(low[i], high[i]);
        out[2 * i + 1] = _mm512_unpackhi_epi64(low[i], high[i]);
    }
    out
}

/// Vector `i` becomes quarter `i` of each of the four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn gather_quarters(v: [__m512i; 4]) -> [__m512i; 4] {
    let first = _mm512_shuffle_i64x2::<0b01_00_01_00>(v[0], v[1]);
    let second = _mm512_shuffle_i64x2::<0b01_00_01_00>(v[2], v[3]);
    let third = _mm512_shuffle_i64x2::<0b11_10_11_10>(v[0], v[1]);
    let fourth = _mm512_shuffle_i64x2::<0b11_10_11_10>(v[2], v[3]);
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(first, second),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(first, second),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(third, fourth),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(third, fourth),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn load(lanes: &[u16; LANES]) -> __m512i {
    // SAFETY: these are as many bits, and every bit pattern is a vector.
    unsafe { std::mem::transmute::<[u16; LANES], __m512i>(*lanes) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn store(lanes: &mut [u16; LANES], v: __m512i) {
    // SAFETY: these are as many bits, and every bit pattern is an array of integers.
    *lanes = unsafe { std::mem::transmute::<__m512i, [u16; LANES]>(v) };
}
