use super::Lanes;
use crate::codebook::{
    Codebook, MCG_MULTIPLIER, MUL1_MULTIPLIER, MUL1_OFFSET, MUL1_SCALE, THREE_INST_ADDEND,
    THREE_INST_MULTIPLIER,
};

/// A [`Codebook`] that a kernel is compiled for.
pub trait Code: Copy {
    /// Which one.
    const CODEBOOK: Codebook;

    /// The weights of vector `vector` of a group: [`Codebook::value`] of its states, exact.
    fn values<L: Lanes, const K: usize>(
        self,
        lanes: L,
        group: L::Group,
        vector: usize,
    ) -> L::Floats;
}

/// [`Codebook::ThreeInst`].
#[derive(Clone, Copy, Debug)]
pub struct ThreeInst;
/// [`Codebook::Mcg`].
#[derive(Clone, Copy, Debug)]
pub struct Mcg;
/// [`Codebook::Mul1`].
#[derive(Clone, Copy, Debug)]
pub struct Mul1;

impl Code for ThreeInst {
    const CODEBOOK: Codebook = Codebook::ThreeInst;

    #[inline(always)]
    fn values<L: Lanes, const K: usize>(
        self,
        lanes: L,
        group: L::Group,
        vector: usize,
    ) -> L::Floats {
        let products = lanes.products::<K>(group, vector, THREE_INST_MULTIPLIER);
        sums_of_halves(lanes, lanes.add(products, lanes.splat(THREE_INST_ADDEND)))
    }
}

impl Code for Mcg {
    const CODEBOOK: Codebook = Codebook::Mcg;

    #[inline(always)]
    fn values<L: Lanes, const K: usize>(
        self,
        lanes: L,
        group: L::Group,
        vector: usize,
    ) -> L::Floats {
        sums_of_halves(lanes, lanes.products::<K>(group, vector, MCG_MULTIPLIER))
    }
}

/// From here up, the last bit of an f32 is worth 1.
const BIG: f32 = 8_388_608.0;

impl Code for Mul1 {
    const CODEBOOK: Codebook = Codebook::Mul1;

    #[inline(always)]
    fn values<L: Lanes, const K: usize>(
        self,
        lanes: L,
        group: L::Group,
        vector: usize,
    ) -> L::Floats {
        let products = lanes.products::<K>(group, vector, MUL1_MULTIPLIER);
        let (sums, offset) = if L::FUSES {
            // Bytes added to the bits of 2²³ are added to its value.
            let sums = lanes.byte_sums(lanes.splat(BIG.to_bits()), products);
            let offset = MUL1_OFFSET + (1024.0 - BIG) * MUL1_SCALE;
            (lanes.floats_of_bits(sums), offset)
        } else {
            let sums = lanes.byte_sums(lanes.splat(1024), products);
            (lanes.convert(sums), MUL1_OFFSET)
        };
        // Exact in f32 either way, so that the weight is rounded once, to half precision.
        let scale = lanes.splat_float(MUL1_SCALE);
        lanes.round_to_half(lanes.mul_add(sums, scale, lanes.splat_float(offset)))
    }
}

/// The sum, in half precision, of the two halves that a product becomes when sign and 12 bits of each are kept.
#[inline(always)]
fn sums_of_halves<L: Lanes>(lanes: L, products: L::Ints) -> L::Floats {
    let (low, high) = (half(lanes, lanes.shift_up(products)), half(lanes, products));
    // Both lie between 2⁻³ and 2 in magnitude: the f32 sum is exact.
    lanes.round_to_half(lanes.add_floats(low, high))
}

/// What the upper half of a lane becomes.
#[inline(always)]
fn half<L: Lanes>(lanes: L, products: L::Ints) -> L::Floats {
    // Its sign and low 12 bits, three places further down, are those of the same f32. The rest of the exponent does not
    // depend on the product: it is that of the half 0x3B60 as f32, which also holds what is flipped.
    let (kept, flipped) = (lanes.splat(0x81FF_E000), lanes.splat(0x3F6C_0000));
    lanes.floats_of_bits(lanes.mask_flip(lanes.shift_down(products), kept, flipped))
}
