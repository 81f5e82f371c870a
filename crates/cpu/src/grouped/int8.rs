use super::few::{Place, Rows};
use super::input::Int8;
use super::layout::Meaning;
use super::simd::{BYTES, Simd};

impl<const H: usize> Rows<H> for Int8<H> {
    type Table<S: Simd> = S::Bytes;

    #[inline(always)]
    fn table<S: Simd>(simd: S, meaning: &Meaning) -> S::Bytes {
        simd.unsigned_table(&meaning.unsigned())
    }

    #[inline(always)]
    fn add<S: Simd, const R: usize, const O: usize>(
        &self,
        simd: S,
        table: S::Bytes,
        place: Place<'_, O>,
        row: usize,
        codes: [&[u8; BYTES]; O],
        sums: &mut [[S::Floats; O]; R],
    ) {
        let Place { layout, chunk, .. } = place;
        for o in 0..O {
            let weights = simd.unsigned::<H>(codes[o], table);
            let (scales, zeros) = (place.scales(simd, o), place.zeros(simd, o));
            for r in 0..R {
                let x = &self.0[(row + r) * layout.chunks + chunk];
                let mut products = simd.load_ints(&x.start);
                for h in 0..H {
                    let x = simd.load_bytes(&x.values[h]);
                    products = simd.dot::<H>(products, weights[h], x);
                }
                let mut products = simd.convert(products);
                if let Some(zeros) = zeros {
                    products = simd.mul_add(zeros, simd.load(&x.sums), products);
                }
                let scales = simd.mul(scales, simd.load(&x.steps));
                sums[r][o] = simd.mul_add(products, scales, sums[r][o]);
            }
        }
    }
}
