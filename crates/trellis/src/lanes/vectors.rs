use super::LANES;

/// Vectors of sixteen 32-bit lanes, in the registers of one instruction set.
pub trait Vectors: Copy + Send + Sync + 'static {
    /// Sixteen integers; arithmetic wraps.
    type Ints: Copy;
    /// Sixteen f32.
    type Floats: Copy;

    /// Rows of four accumulators each that fit the registers, along with four weights.
    const ROWS: usize;
    /// Whether [`Vectors::mul_add`] rounds once.
    const FUSES: bool;

    /// `value` in every lane.
    fn splat(self, value: u32) -> Self::Ints;
    /// Lanes in order.
    fn load(self, from: &[u32; LANES]) -> Self::Ints;
    /// Eight lanes, twice.
    fn load_twice(self, from: &[u32; LANES / 2]) -> Self::Ints;
    /// Writes the lanes in order.
    fn store(self, a: Self::Ints, to: &mut [u32; LANES]);
    /// `a + b`.
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `a & mask`.
    fn mask(self, a: Self::Ints, mask: Self::Ints) -> Self::Ints;
    /// `a & mask ^ flip`.
    fn mask_flip(self, a: Self::Ints, mask: Self::Ints, flip: Self::Ints) -> Self::Ints;
    /// `a << 16`.
    fn shift_up(self, a: Self::Ints) -> Self::Ints;
    /// `a >> 3`, the sign repeated.
    fn shift_down(self, a: Self::Ints) -> Self::Ints;
    /// `start` plus the four bytes of `a`, which are unsigned.
    fn byte_sums(self, start: Self::Ints, a: Self::Ints) -> Self::Ints;
    /// How [`Vectors::dot_bytes`] wants a factor in each of its lanes.
    fn byte_factor(factor: i8) -> u32;
    /// `start` plus the four bytes of `a`, which are unsigned, each times the lane's factor.
    fn dot_bytes(self, start: Self::Ints, a: Self::Ints, factors: Self::Ints) -> Self::Ints;
    /// `start` plus the two 16-bit halves of `a` times those of `b`, all signed.
    fn dot_halves(self, start: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// The signed integers as floats, rounded to nearest even.
    fn convert(self, a: Self::Ints) -> Self::Floats;
    /// Integers as the bits of floats.
    fn floats_of_bits(self, a: Self::Ints) -> Self::Floats;
    /// Floats as bits.
    fn bits_of_floats(self, a: Self::Floats) -> Self::Ints;
    /// `value` in every lane.
    fn splat_float(self, value: f32) -> Self::Floats;
    /// Lanes in order.
    fn load_floats(self, from: &[f32; LANES]) -> Self::Floats;
    /// Eight lanes, twice.
    fn load_floats_twice(self, from: &[f32; LANES / 2]) -> Self::Floats;
    /// Writes the lanes in order.
    fn store_floats(self, a: Self::Floats, to: &mut [f32; LANES]);
    /// `a + b`.
    fn add_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b`.
    fn mul_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b + c`, rounded once if [`Vectors::FUSES`], else twice.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Adds up what the lanes of a tile's four groups hold for each of its sixteen columns, in the order of the columns.
    #[inline(always)]
    fn fold(self, groups: [Self::Ints; 4]) -> Self::Ints {
        let mut lanes = [[0; LANES]; 4];
        for (group, lanes) in groups.into_iter().zip(&mut lanes) {
            self.store(group, lanes);
        }
        self.load(&by_column(&lanes, u32::wrapping_add))
    }

    /// [`Vectors::fold`] of floats.
    #[inline(always)]
    fn fold_floats(self, groups: [Self::Floats; 4]) -> Self::Floats {
        let mut lanes = [[0.0; LANES]; 4];
        for (group, lanes) in groups.into_iter().zip(&mut lanes) {
            self.store_floats(group, lanes);
        }
        self.load_floats(&by_column(&lanes, |a, b| a + b))
    }

    /// `a` rounded to half precision, to nearest even, kept as f32; for magnitudes in the normal range of a half, and
    /// for multiples of its smallest subnormal below.
    #[inline(always)]
    fn round_to_half(self, a: Self::Floats) -> Self::Floats {
        // 1.5 · 2¹³ times the power of two below |a| puts the last bit of a half's significand at the last bit of f32's.
        let infinity = self.splat(f32::INFINITY.to_bits());
        let power = self.floats_of_bits(self.mask(self.bits_of_floats(a), infinity));
        let shifted = self.mul_add(power, self.splat_float(12288.0), a);
        self.mul_add(power, self.splat_float(-12288.0), shifted)
    }
}

/// The four lanes of each column of a tile, added up.
#[inline(always)]
fn by_column<T: Copy>(groups: &[[T; LANES]; 4], add: impl Fn(T, T) -> T) -> [T; LANES] {
    std::array::from_fn(|column| {
        let (column, h) = (column % 8, column / 8);
        let lane = |i: usize| groups[column / 2][8 * (column % 2) + 2 * i + h];
        add(add(lane(0), lane(1)), add(lane(2), lane(3)))
    })
}
