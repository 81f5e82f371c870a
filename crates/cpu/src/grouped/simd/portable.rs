use super::{BYTES, LANE_BYTES, LANES, Simd};

/// Plain Rust, for the compiler to vectorise with what the target has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type Bytes = [u8; BYTES];
    type Ints = [i32; LANES];
    type Floats = [f32; LANES];
    type Table = [i8; 16];
    type Codes = [[i8; BYTES]; 2];

    const ROWS: usize = 1;
    const OUTPUTS: usize = 1;

    #[inline(always)]
    fn table(self, values: &[i8; 16]) -> Self::Table {
        *values
    }

    #[inline(always)]
    fn codes<const H: usize>(self, bytes: &[u8; BYTES], table: Self::Table) -> Self::Codes {
        if H == 2 {
            let value = |nibble: u8| table[usize::from(nibble)];
            [bytes.map(|b| value(b & 15)), bytes.map(|b| value(b >> 4))]
        } else {
            [bytes.map(|b| (b ^ 0x80) as i8); 2]
        }
    }

    #[inline(always)]
    fn values<const H: usize>(
        self,
        codes: Self::Codes,
        _: Self::Table,
        h: usize,
        n: usize,
    ) -> Self::Floats {
        std::array::from_fn(|lane| f32::from(codes[h][LANE_BYTES * lane + n]))
    }

    #[inline(always)]
    fn unsigned_table(self, values: &[u8; 16]) -> Self::Bytes {
        std::array::from_fn(|i| values[i % 16])
    }

    #[inline(always)]
    fn unsigned<const H: usize>(self, bytes: &[u8; BYTES], table: Self::Bytes) -> [Self::Bytes; H] {
        let mut codes = [*bytes; H];
        if H == 2 {
            codes[0] = bytes.map(|b| table[usize::from(b & 15)]);
            codes[1] = bytes.map(|b| table[usize::from(b >> 4)]);
        }
        codes
    }

    #[inline(always)]
    fn load_bytes(self, from: &[i8; BYTES]) -> Self::Bytes {
        from.map(|b| b as u8)
    }

    #[inline(always)]
    fn dot<const H: usize>(
        self,
        start: Self::Ints,
        weights: Self::Bytes,
        x: Self::Bytes,
    ) -> Self::Ints {
        std::array::from_fn(|lane| {
            let product = |n: usize| {
                let at = LANE_BYTES * lane + n;
                i32::from(weights[at]) * i32::from(x[at] as i8)
            };
            start[lane] + ((product(0) + product(1)) + (product(2) + product(3)))
        })
    }

    #[inline(always)]
    fn load_ints(self, from: &[i32; LANES]) -> Self::Ints {
        *from
    }

    #[inline(always)]
    fn convert(self, a: Self::Ints) -> Self::Floats {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    fn store(self, a: Self::Floats, to: &mut [f32; LANES]) {
        *to = a;
    }

    #[inline(always)]
    fn spread(self, from: &[f32; LANES], shift: u32) -> Self::Floats {
        std::array::from_fn(|lane| from[lane << shift >> LANES.ilog2()])
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|l| a[l] * b[l])
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|l| a[l] * b[l] + c[l])
    }

    #[inline(always)]
    fn sum(self, a: Self::Floats) -> f32 {
        let quarter: [f32; 4] = std::array::from_fn(|l| (a[l] + a[l + 4]) + (a[l + 8] + a[l + 12]));
        (quarter[0] + quarter[1]) + (quarter[2] + quarter[3])
    }
}
