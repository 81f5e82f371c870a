//! `C ← C + XᵀX` for a few hundred rows `X`, one triangle, in f32.
//!
//! The rows are copied into *panels* of 32 columns, in which what is multiplied lies in the order in which it is needed; then
//! each task computes the columns of `C` that belong to a panel, tile by tile, with the sums of a tile in registers. Each entry
//! is one sum in the order of the rows, whoever computes it.

#[cfg(target_arch = "x86_64")]
mod pairs;

use half::bf16;
use rayon::prelude::*;

use crate::lanes::{Isa, Kernel, LANES, Lanes};

/// Columns of a panel.
const PANEL: usize = 2 * LANES;

/// What a panel has of a row, or of two rows of bf16: the bits of each word are then those of both, the first in the lower half.
type Part = [[f32; LANES]; 2];

/// Columns of a tile, at most.
const WIDTH: usize = 8;

/// Rows in panels, and memory for more.
#[derive(Default)]
pub(crate) struct Panels {
    /// Panel after panel, a part for each row; columns beyond the last are zero.
    parts: Vec<Part>,
    rows: usize,
    columns: usize,
}

impl Panels {
    /// Takes in `rows`, row-major with `columns` values each; false if one is NaN or infinite.
    pub(crate) fn fill(&mut self, rows: &[f32], columns: usize) -> bool {
        let height = rows.len() / columns.max(1);
        if (height, columns) != (self.rows, self.columns) {
            (self.rows, self.columns) = (height, columns);
            // Memory that is zero without being written to: the threads that copy are the first to touch it.
            self.parts = vec![[[0.0; LANES]; 2]; columns.div_ceil(PANEL) * height];
        }
        let isa = Isa::best();
        // All of them are copied: to end early would need a signal between threads.
        (self.parts.par_chunks_mut(self.rows.max(1)))
            .enumerate()
            .map(|(panel, parts)| {
                isa.run(Fill {
                    rows,
                    columns,
                    left: panel * PANEL,
                    parts,
                })
            })
            .reduce(|| true, |a, b| a & b)
    }

    /// The same for rows of bf16, an even number, if this machine multiplies such; `None` if it does not.
    pub(crate) fn fill_bf16(&mut self, rows: &[bf16], columns: usize) -> Option<bool> {
        #[cfg(target_arch = "x86_64")]
        if pairs::Pairs::detect().is_some() && (rows.len() / columns.max(1)).is_multiple_of(2) {
            return Some(self.fill_pairs(rows, columns));
        }
        let _ = (rows, columns);
        None
    }

    #[cfg(target_arch = "x86_64")]
    fn fill_pairs(&mut self, rows: &[bf16], columns: usize) -> bool {
        self.columns = columns;
        self.rows = rows.len() / columns.max(1) / 2;
        let isa = Isa::best();
        self.parts.clear();
        self.parts
            .resize(columns.div_ceil(PANEL) * self.rows, [[0.0; LANES]; 2]);
        (self.parts.par_chunks_mut(self.rows.max(1)))
            .enumerate()
            .map(|(panel, parts)| {
                isa.run(pairs::FillPairs {
                    rows,
                    columns,
                    left: panel * PANEL,
                    parts,
                })
            })
            .reduce(|| true, |a, b| a & b)
    }

    /// [`Panels::add_gram`] after [`Panels::fill_bf16`] has said that it was filled.
    pub(crate) fn add_gram_bf16(&self, sum: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let (Some(pairs), 1..) = (pairs::Pairs::detect(), self.rows) {
            sum.par_chunks_mut(PANEL * self.columns)
                .enumerate()
                .for_each(|(panel, columns)| {
                    pairs.add(Columns {
                        panels: self,
                        panel,
                        columns,
                    });
                });
        }
        let _ = sum;
    }

    /// Adds `XᵀX` to the lower triangle of `sum`, square and column-major; what is above means nothing afterwards.
    pub(crate) fn add_gram(&self, sum: &mut [f32]) {
        self.add_gram_on(Isa::best(), sum);
    }

    fn add_gram_on(&self, isa: Isa, sum: &mut [f32]) {
        if self.rows == 0 {
            return;
        }
        sum.par_chunks_mut(PANEL * self.columns)
            .enumerate()
            .for_each(|(panel, columns)| {
                isa.run(Columns {
                    panels: self,
                    panel,
                    columns,
                });
            });
    }

    #[inline(always)]
    fn panel(&self, panel: usize) -> &[Part] {
        &self.parts[panel * self.rows..][..self.rows]
    }
}

/// Copies the columns from `left` on into a panel; false if a value is NaN or infinite.
struct Fill<'a> {
    rows: &'a [f32],
    columns: usize,
    left: usize,
    parts: &'a mut [Part],
}

impl Kernel for Fill<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> bool {
        let width = PANEL.min(self.columns - self.left);
        let mut largest = [0u32; PANEL];
        for (row, part) in self.rows.chunks_exact(self.columns).zip(self.parts) {
            let part = part.as_flattened_mut();
            match row[self.left..].first_chunk::<PANEL>() {
                Some(whole) => part.copy_from_slice(whole),
                None => part[..width].copy_from_slice(&row[self.left..]),
            }
            // Magnitudes order like their bits, NaN above infinity.
            for (largest, value) in largest.iter_mut().zip(&*part) {
                *largest = value.abs().to_bits().max(*largest);
            }
        }
        let mut finite = true;
        for largest in largest {
            finite &= largest < f32::INFINITY.to_bits();
        }
        finite
    }
}

/// How the words of two panels are multiplied and added to sums.
trait Product<L: Lanes>: Copy {
    fn add(self, lanes: L, a: L::Floats, b: L::Floats, sum: L::Floats) -> L::Floats;
}

/// A word is a float.
#[derive(Clone, Copy)]
struct Single;

impl<L: Lanes> Product<L> for Single {
    #[inline(always)]
    fn add(self, lanes: L, a: L::Floats, b: L::Floats, sum: L::Floats) -> L::Floats {
        lanes.mul_add(a, b, sum)
    }
}

/// The columns of the product that belong to a panel.
struct Columns<'a> {
    panels: &'a Panels,
    panel: usize,
    columns: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.add(lanes, Single);
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn add<L: Lanes, P: Product<L>>(self, lanes: L, product: P) {
        let height = self.panels.columns;
        let width = self.columns.len() / height;
        let right = self.panels.panel(self.panel);
        for below in self.panel..height.div_ceil(PANEL) {
            let left = self.panels.panel(below);
            for first in (0..width).step_by(WIDTH) {
                let columns = &mut self.columns[first * height..];
                let top = below * PANEL;
                // In the panel's own rows, what lies above the diagonal is not needed.
                let skipped = usize::from(below == self.panel && first >= LANES);
                if L::WIDE && skipped == 0 {
                    add_pair(
                        lanes,
                        product,
                        left,
                        right,
                        first / WIDTH,
                        columns,
                        height,
                        top,
                    );
                    continue;
                }
                for vector in skipped..2 {
                    let top = top + vector * LANES;
                    if L::WIDE {
                        add_one::<L, P, WIDTH>(
                            lanes,
                            product,
                            left,
                            vector,
                            right,
                            first / WIDTH,
                            columns,
                            height,
                            top,
                        );
                    } else {
                        // Half as many sums.
                        const HALF: usize = WIDTH / 2;
                        let tile = first / HALF;
                        add_one::<L, P, HALF>(
                            lanes, product, left, vector, right, tile, columns, height, top,
                        );
                        let Some(columns) = columns.get_mut(HALF * height..) else {
                            continue;
                        };
                        let tile = tile + 1;
                        add_one::<L, P, HALF>(
                            lanes, product, left, vector, right, tile, columns, height, top,
                        );
                    }
                }
            }
        }
    }
}

/// A row's values in the columns of tile `tile`, `C` wide.
#[inline(always)]
fn factors<const C: usize>(part: &Part, tile: usize) -> &[f32; C] {
    let tiles = part.as_flattened().as_chunks::<C>().0;
    &tiles[tile % (PANEL / C)]
}

/// Adds the products of a panel `left`, whose first row in the product is `top`, with the columns of a tile of `right`.
#[inline(always)]
fn add_pair<L: Lanes, P: Product<L>>(
    lanes: L,
    product: P,
    left: &[Part],
    right: &[Part],
    tile: usize,
    columns: &mut [f32],
    height: usize,
    top: usize,
) {
    // Entries of a tile come from far away, each column from another page: better called for early.
    for column in columns.chunks_exact(height).take(WIDTH) {
        for vector in column[top..].as_chunks().0.iter().take(2) {
            lanes.prefetch(vector);
        }
    }
    let zero = lanes.splat(0.0);
    let mut sums = [[zero; 2]; WIDTH];
    for (left, right) in left.iter().zip(right) {
        let (a, b) = (lanes.load(&left[0]), lanes.load(&left[1]));
        let right: &[f32; WIDTH] = factors(right, tile);
        for c in 0..WIDTH {
            let factor = lanes.splat(right[c]);
            sums[c] = [
                product.add(lanes, factor, a, sums[c][0]),
                product.add(lanes, factor, b, sums[c][1]),
            ];
        }
    }
    for (column, sums) in columns.chunks_exact_mut(height).zip(sums) {
        add_to(lanes, &mut column[top..], sums[0]);
        if let Some(rest) = column.get_mut(top + LANES..) {
            add_to(lanes, rest, sums[1]);
        }
    }
}

/// The same for half a panel and `C` columns.
#[inline(always)]
fn add_one<L: Lanes, P: Product<L>, const C: usize>(
    lanes: L,
    product: P,
    left: &[Part],
    vector: usize,
    right: &[Part],
    tile: usize,
    columns: &mut [f32],
    height: usize,
    top: usize,
) {
    let mut sums = [lanes.splat(0.0); C];
    for (left, right) in left.iter().zip(right) {
        let a = lanes.load(&left[vector % 2]);
        let right: &[f32; C] = factors(right, tile);
        for c in 0..C {
            sums[c] = product.add(lanes, lanes.splat(right[c]), a, sums[c]);
        }
    }
    for (column, sums) in columns.chunks_exact_mut(height).zip(sums) {
        if let Some(rest) = column.get_mut(top..) {
            add_to(lanes, rest, sums);
        }
    }
}

/// Adds to the first entries of a column, or to as many as there are.
#[inline(always)]
fn add_to<L: Lanes>(lanes: L, entries: &mut [f32], sums: L::Floats) {
    if let Some(entries) = entries.first_chunk_mut::<LANES>() {
        lanes.store(lanes.add(lanes.load(entries), sums), entries);
    } else {
        let mut last = [0.0; LANES];
        lanes.store(sums, &mut last);
        for (entry, sum) in entries.iter_mut().zip(last) {
            *entry += sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose products and sums are exact in any order.
    fn whole_numbers(count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as f32 - 16.0)
            .collect()
    }

    #[test]
    fn every_instruction_set_gives_the_definition() {
        for (tokens, n) in [(1, 1), (3, 15), (40, 16), (7, 33), (256, 70), (5, 129)] {
            let rows = whole_numbers(tokens * n);
            let mut panels = Panels::default();
            // Filled twice: nothing is left of what was there before.
            assert!(panels.fill(&whole_numbers(9 * (n + 40)), n + 40));
            assert!(panels.fill(&rows, n));
            for isa in Isa::available() {
                let mut sum = vec![1.0; n * n];
                panels.add_gram_on(isa, &mut sum);
                for column in 0..n {
                    for row in column..n {
                        let products = rows.chunks_exact(n).map(|x| x[row] * x[column]);
                        let expected = 1.0 + products.sum::<f32>();
                        let found = sum[column * n + row];
                        assert_eq!(found, expected, "({row}, {column}) of {n}, {}", isa.name());
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn pairs_of_bf16_give_the_definition() {
        for (tokens, n) in [(2, 1), (40, 16), (8, 33), (256, 70), (6, 129)] {
            let rows: Vec<bf16> = whole_numbers(tokens * n)
                .into_iter()
                .map(bf16::from_f32)
                .collect();
            let mut panels = Panels::default();
            let Some(finite) = panels.fill_bf16(&rows, n) else {
                println!("skipped: this processor does not multiply bf16");
                return;
            };
            assert!(finite);
            let mut sum = vec![1.0; n * n];
            panels.add_gram_bf16(&mut sum);
            for column in 0..n {
                for row in column..n {
                    let products = rows
                        .chunks_exact(n)
                        .map(|x| x[row].to_f32() * x[column].to_f32());
                    assert_eq!(sum[column * n + row], 1.0 + products.sum::<f32>());
                }
            }
            for bad in [bf16::NAN, bf16::NEG_INFINITY] {
                for place in [0, rows.len() / 2, rows.len() - 1] {
                    let mut spoilt = rows.clone();
                    spoilt[place] = bad;
                    assert_eq!(panels.fill_bf16(&spoilt, n), Some(false));
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        let rows = whole_numbers(20 * 67);
        let mut panels = Panels::default();
        for place in (0..rows.len()).step_by(13).chain([rows.len() - 1]) {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut spoilt = rows.clone();
                spoilt[place] = bad;
                assert!(!panels.fill(&spoilt, 67));
            }
        }
        assert!(panels.fill(&rows, 67));
    }
}
