use super::few::{Place, Rows};
use super::input::Exact;
use super::layout::Meaning;
use super::simd::{BYTES, LANE_BYTES, Simd};

impl<const H: usize> Rows<H> for Exact {
    type Table<S: Simd> = S::Table;

    #[inline(always)]
    fn table<S: Simd>(simd: S, meaning: &Meaning) -> S::Table {
        simd.table(&meaning.values)
    }

    #[inline(always)]
    fn add<S: Simd, const R: usize, const O: usize>(
        &self,
        simd: S,
        table: S::Table,
        place: Place<'_, O>,
        row: usize,
        codes: [&[u8; BYTES]; O],
        sums: &mut [[S::Floats; O]; R],
    ) {
        let Place { layout, chunk, .. } = place;
        let mut loaded = [simd.codes::<H>(codes[0], table); O];
        for o in 1..O {
            loaded[o] = simd.codes::<H>(codes[o], table);
        }
        let (values, _) = self.values.as_chunks::<LANE_BYTES>();
        let (values, _) = values.as_chunks::<H>();
        let mut x = [&values[row * layout.chunks + chunk]; R];
        for r in 1..R {
            x[r] = &values[(row + r) * layout.chunks + chunk];
        }
        let mut products = [[simd.splat(0.0); O]; R];
        for h in 0..H {
            for n in 0..LANE_BYTES {
                let mut weights = [simd.splat(0.0); O];
                for o in 0..O {
                    weights[o] = simd.values::<H>(loaded[o], table, h, n);
                }
                for r in 0..R {
                    let x = simd.load(&x[r][h][n].0);
                    for o in 0..O {
                        products[r][o] = simd.mul_add(weights[o], x, products[r][o]);
                    }
                }
            }
        }
        for o in 0..O {
            if let Some(zeros) = place.zeros(simd, o) {
                for r in 0..R {
                    let x = simd.load(&self.sums[(row + r) * layout.chunks + chunk].0);
                    products[r][o] = simd.mul_add(zeros, x, products[r][o]);
                }
            }
            let scales = place.scales(simd, o);
            for r in 0..R {
                sums[r][o] = simd.mul_add(products[r][o], scales, sums[r][o]);
            }
        }
    }
}
