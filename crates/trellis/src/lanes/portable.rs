use super::ring::{Ring, thread_start, upper_offset, window_shift};
use super::{LANES, Lanes, Vectors};

/// Plain Rust, for the compiler to vectorise with what the target has.
#[derive(Clone, Copy, Debug)]
pub struct Portable(());

impl Portable {
    /// Always there.
    pub(super) fn new() -> Self {
        Self(())
    }
}

impl Lanes for Portable {
    /// The 64 bits of each thread that hold elements 0, 1, 4 and 5, then those that hold the others.
    type Group = [[u64; 8]; 2];

    #[inline(always)]
    fn stage<const K: usize>(self, words: &[u16], ring: &mut Ring) {
        ring.fill::<K>(words);
    }

    #[inline(always)]
    fn group<const K: usize>(self, _: &[u16], ring: &Ring, group: usize) -> Self::Group {
        [upper_offset(K), 0].map(|offset| {
            std::array::from_fn(|i| {
                let start = thread_start(K, 8 * group + i) + offset;
                u64::from_le_bytes(*ring.run(start))
            })
        })
    }

    #[inline(always)]
    fn products<const K: usize>(
        self,
        group: Self::Group,
        vector: usize,
        multiplier: u32,
    ) -> Self::Ints {
        let bits = group[vector / 2];
        std::array::from_fn(|lane| {
            let element = vector + 4 * (lane % 2);
            let state = (bits[lane / 2] >> window_shift(K, element)) as u16;
            u32::from(state).wrapping_mul(multiplier)
        })
    }
}

impl Vectors for Portable {
    type Ints = [u32; LANES];
    type Floats = [f32; LANES];

    const ROWS: usize = 1;
    const FUSES: bool = false;

    #[inline(always)]
    fn splat(self, value: u32) -> Self::Ints {
        [value; LANES]
    }

    #[inline(always)]
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        std::array::from_fn(|l| a[l].wrapping_add(b[l]))
    }

    #[inline(always)]
    fn mask(self, a: Self::Ints, mask: Self::Ints) -> Self::Ints {
        std::array::from_fn(|l| a[l] & mask[l])
    }

    #[inline(always)]
    fn mask_flip(self, a: Self::Ints, mask: Self::Ints, flip: Self::Ints) -> Self::Ints {
        std::array::from_fn(|l| a[l] & mask[l] ^ flip[l])
    }

    #[inline(always)]
    fn shift_up(self, a: Self::Ints) -> Self::Ints {
        a.map(|a| a << 16)
    }

    #[inline(always)]
    fn shift_down(self, a: Self::Ints) -> Self::Ints {
        a.map(|a| (a as i32 >> 3) as u32)
    }

    #[inline(always)]
    fn byte_sums(self, start: Self::Ints, a: Self::Ints) -> Self::Ints {
        std::array::from_fn(|l| {
            let pairs = (a[l] & 0x00FF_00FF) + (a[l] >> 8 & 0x00FF_00FF);
            start[l].wrapping_add((pairs & 0xFFFF) + (pairs >> 16))
        })
    }

    #[inline(always)]
    fn convert(self, a: Self::Ints) -> Self::Floats {
        a.map(|a| a as i32 as f32)
    }

    #[inline(always)]
    fn floats_of_bits(self, a: Self::Ints) -> Self::Floats {
        a.map(f32::from_bits)
    }

    #[inline(always)]
    fn bits_of_floats(self, a: Self::Floats) -> Self::Ints {
        a.map(f32::to_bits)
    }

    #[inline(always)]
    fn splat_float(self, value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn add_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|l| a[l] + b[l])
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|l| a[l] * b[l] + c[l])
    }

    #[inline(always)]
    fn store_floats(self, a: Self::Floats, to: &mut [f32; LANES]) {
        *to = a;
    }

    #[inline(always)]
    fn load(self, from: &[u32; LANES]) -> Self::Ints {
        *from
    }

    #[inline(always)]
    fn load_twice(self, from: &[u32; LANES / 2]) -> Self::Ints {
        std::array::from_fn(|l| from[l % 8])
    }

    #[inline(always)]
    fn store(self, a: Self::Ints, to: &mut [u32; LANES]) {
        *to = a;
    }

    #[inline(always)]
    fn byte_factor(factor: i8) -> u32 {
        i32::from(factor) as u32
    }

    #[inline(always)]
    fn dot_bytes(self, start: Self::Ints, a: Self::Ints, factors: Self::Ints) -> Self::Ints {
        let sums = self.byte_sums([0; LANES], a);
        std::array::from_fn(|l| start[l].wrapping_add(sums[l].wrapping_mul(factors[l])))
    }

    #[inline(always)]
    fn dot_halves(self, start: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        let product = |a: u32, b: u32| (i32::from(a as i16) * i32::from(b as i16)) as u32;
        std::array::from_fn(|l| {
            let sum = product(a[l], b[l]).wrapping_add(product(a[l] >> 16, b[l] >> 16));
            start[l].wrapping_add(sum)
        })
    }

    #[inline(always)]
    fn load_floats(self, from: &[f32; LANES]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    fn load_floats_twice(self, from: &[f32; LANES / 2]) -> Self::Floats {
        std::array::from_fn(|l| from[l % 8])
    }

    #[inline(always)]
    fn mul_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|l| a[l] * b[l])
    }
}
