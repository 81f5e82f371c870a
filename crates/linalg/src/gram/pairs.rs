//! Products of pairs of bf16 values in AVX-512: exact, and two for the price of one.

use std::{arch::x86_64::*, mem::transmute};

use half::bf16;

use super::{Columns, Part, Product};
use crate::lanes::{Avx512, Kernel, Lanes};

/// Copies pairs of rows of bf16; false if a value is NaN or infinite.
pub(super) struct FillPairs<'a> {
    pub(super) rows: &'a [bf16],
    pub(super) columns: usize,
    pub(super) left: usize,
    pub(super) parts: &'a mut [Part],
}

impl Kernel for FillPairs<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> bool {
        let mut largest = 0u16;
        for (pair, part) in self.rows.chunks_exact(2 * self.columns).zip(self.parts) {
            let (first, second) = pair.split_at(self.columns);
            let words = part.as_flattened_mut().iter_mut();
            let values = first[self.left..].iter().zip(&second[self.left..]);
            for (word, (first, second)) in words.zip(values) {
                let [low, high] = [first.to_bits(), second.to_bits()];
                *word = f32::from_bits(u32::from(low) | u32::from(high) << 16);
                largest = largest.max(low & 0x7FFF).max(high & 0x7FFF);
            }
        }
        largest < bf16::INFINITY.to_bits()
    }
}

/// A word is two bf16 values, whose products are added one after the other.
#[derive(Clone, Copy)]
pub(super) struct Pairs(Avx512);

impl Pairs {
    /// The instruction, if this machine has it.
    pub(super) fn detect() -> Option<Self> {
        match is_x86_feature_detected!("avx512bf16") {
            true => Avx512::detect().map(Self),
            false => None,
        }
    }

    /// Adds the columns' products to them.
    pub(super) fn add(self, columns: Columns<'_>) {
        // SAFETY: `detect` found what this enables.
        unsafe { self.enabled(columns) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    fn enabled(self, columns: Columns<'_>) {
        columns.add(self.0, self);
    }
}

impl Product<Avx512> for Pairs {
    #[inline(always)]
    fn add(self, _: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: a value of this type exists only where the CPU has the instruction; registers of one size differ only in
        // what their bits are taken for.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                transmute::<__m512, __m512bh>(a),
                transmute::<__m512, __m512bh>(b),
            )
        }
    }
}
