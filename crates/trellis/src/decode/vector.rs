use crate::{
    Bits, Codebook, TILE, TILE_WEIGHTS,
    lanes::{Code, GROUPS, Isa, Kernel, LANES, Lanes, Mcg, Mul1, Ring, ThreeInst},
};

/// Decodes one packed tile into row-major order (`16 row + column`, rows along the input axis). The values are those of
/// [`Codebook::value`], exact in f32.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn decode_tile(words: &[u16], bits: Bits, codebook: Codebook, out: &mut [f32; TILE_WEIGHTS]) {
    decode_tile_with(Isa::best(), words, bits, codebook, out);
}

/// [`decode_tile`] with chosen instructions. All give the same values.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn decode_tile_with(
    isa: Isa,
    words: &[u16],
    bits: Bits,
    codebook: Codebook,
    out: &mut [f32; TILE_WEIGHTS],
) {
    assert_eq!(
        words.len(),
        bits.words_per_tile(),
        "a tile of {bits} bits per weight"
    );
    match codebook {
        Codebook::ThreeInst => isa.run(DecodeTile {
            words,
            bits,
            code: ThreeInst,
            out,
        }),
        Codebook::Mcg => isa.run(DecodeTile {
            words,
            bits,
            code: Mcg,
            out,
        }),
        Codebook::Mul1 => isa.run(DecodeTile {
            words,
            bits,
            code: Mul1,
            out,
        }),
    }
}

struct DecodeTile<'a, C> {
    words: &'a [u16],
    bits: Bits,
    code: C,
    out: &'a mut [f32; TILE_WEIGHTS],
}

impl<C: Code> Kernel for DecodeTile<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match self.bits.get() {
            1 => self.decode::<L, 1>(lanes),
            2 => self.decode::<L, 2>(lanes),
            3 => self.decode::<L, 3>(lanes),
            4 => self.decode::<L, 4>(lanes),
            5 => self.decode::<L, 5>(lanes),
            6 => self.decode::<L, 6>(lanes),
            7 => self.decode::<L, 7>(lanes),
            _ => self.decode::<L, 8>(lanes),
        }
    }
}

impl<C: Code> DecodeTile<'_, C> {
    #[inline(always)]
    fn decode<L: Lanes, const K: usize>(self, lanes: L) {
        let mut ring = Ring::new();
        lanes.stage::<K>(self.words, &mut ring);
        for g in 0..GROUPS {
            let group = lanes.group::<K>(self.words, &ring, g);
            for vector in 0..GROUPS {
                let mut values = [0.0; LANES];
                lanes.store_floats(self.code.values::<L, K>(lanes, group, vector), &mut values);
                for (lane, value) in values.into_iter().enumerate() {
                    let (i, h) = (lane / 2, lane % 2);
                    let row = 2 * (i % 4) + vector % 2 + 8 * (vector / 2);
                    let column = 2 * g + i / 4 + 8 * h;
                    self.out[TILE * row + column] = value;
                }
            }
        }
    }
}
