//! The running second moment of a layer's inputs.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};
use half::bf16;
use nalgebra::DMatrix;
use rayon::prelude::*;

use crate::{Error, gram::Panels};

/// Rows that are gathered and then multiplied out together: one product over many rows costs far less than many over a few.
const GATHERED_ROWS: usize = 256;

/// Rows multiplied out together where so many come at once: each product goes through all sums in memory.
const ROWS_AT_ONCE: usize = 512;

/// What sums are kept in. Sums of n² products are the memory of a [`Hessian`], so f64 doubles it, and doubles the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision, enough for calibration of some million tokens.
    #[default]
    F32,
    /// Double precision.
    F64,
}

/// `Σ w_t x_t x_tᵀ` over the rows `x_t` seen so far, half the Hessian of a linear layer's squared error in its weights.
///
/// Only the lower triangle is computed. Rows arrive in batches of any size, small ones are gathered first. A row with a NaN or
/// an infinity says nothing about the layer and is left out, see [`Hessian::dropped`].
#[derive(Debug, Clone)]
pub struct Hessian {
    features: usize,
    sum: Sum,
    /// Rows already counted but not yet part of `sum`, scaled by the roots of their weights; fewer than [`GATHERED_ROWS`].
    gathered: Vec<f32>,
    count: f64,
    rows: u64,
    dropped: u64,
}

impl Hessian {
    /// An empty Hessian over `features` inputs, in single precision.
    pub fn new(features: usize) -> Self {
        Self::with_precision(features, Precision::F32)
    }

    /// An empty Hessian over `features` inputs.
    pub fn with_precision(features: usize, precision: Precision) -> Self {
        let sum = match precision {
            Precision::F32 => Sum::F32(DMatrix::zeros(features, features)),
            Precision::F64 => Sum::F64(DMatrix::zeros(features, features)),
        };
        Self {
            features,
            sum,
            gathered: Vec::new(),
            count: 0.0,
            rows: 0,
            dropped: 0,
        }
    }

    /// The Hessian whose [`mean`](Self::mean) over `count` tokens is `mean`, of which only the lower triangle is read.
    ///
    /// # Errors
    /// [`Error::NotSquare`], and [`Error::Count`] if `count` is no number of tokens.
    pub fn from_mean(mean: DMatrix<f32>, count: f64) -> Result<Self, Error> {
        Self::from_sum(mean * count as f32, count, 0, 0)
    }

    /// The Hessian whose sum `Σ w_t x_t x_tᵀ` over `rows` rows of weight `count` was taken elsewhere, with `dropped` rows left out. Of
    /// `sum` only the lower triangle is read.
    ///
    /// # Errors
    /// [`Error::NotSquare`], and [`Error::Count`] if `count` is no number of tokens.
    pub fn from_sum(sum: DMatrix<f32>, count: f64, rows: u64, dropped: u64) -> Result<Self, Error> {
        let (height, width) = sum.shape();
        if height != width {
            return Err(Error::NotSquare {
                rows: height,
                columns: width,
            });
        }
        check_count(count)?;
        Ok(Self {
            features: width,
            sum: Sum::F32(sum),
            gathered: Vec::new(),
            count,
            rows,
            dropped,
        })
    }

    /// Adds rows of activations, row-major `[tokens, features]`, each with weight one.
    ///
    /// # Errors
    /// [`Error::RowLength`] if they are not whole rows; then nothing was added.
    pub fn update(&mut self, rows: &[f32]) -> Result<(), Error> {
        self.tokens(rows.len())?;
        let mut panels = Panels::default();
        for chunk in rows.chunks(ROWS_AT_ONCE * self.features.max(1)) {
            // Many rows need no gathering.
            let tokens = chunk.len() / self.features;
            if tokens >= GATHERED_ROWS && self.sum.add_rows_if_finite(chunk, &mut panels) {
                self.count += tokens as f64;
                self.rows += tokens as u64;
            } else {
                for row in chunk.chunks_exact(self.features) {
                    self.gather(row, 1.0);
                }
            }
        }
        Ok(())
    }

    /// [`Hessian::update`] with activations in bf16, whose products are exact in f32: about twice as fast where AVX512-BF16 is, and
    /// in batches of 256 tokens and more.
    ///
    /// # Errors
    /// As [`Hessian::update`].
    pub fn update_bf16(&mut self, rows: &[bf16]) -> Result<(), Error> {
        self.tokens(rows.len())?;
        let mut panels = Panels::default();
        for chunk in rows.chunks(GATHERED_ROWS * self.features.max(1)) {
            let is_full = chunk.len() == GATHERED_ROWS * self.features;
            if let (true, Sum::F32(sum)) = (is_full, &mut self.sum)
                && panels.fill_bf16(chunk, self.features) == Some(true)
            {
                panels.add_gram_bf16(sum.as_mut_slice());
                self.count += GATHERED_ROWS as f64;
                self.rows += GATHERED_ROWS as u64;
            } else {
                let wide: Vec<f32> = chunk.iter().map(|value| value.to_f32()).collect();
                self.update(&wide)?;
            }
        }
        Ok(())
    }

    /// Adds `Σ w_t x_t x_tᵀ` for rows of activations, row-major `[tokens, features]`, and weights `[tokens]`, such as router scores.
    ///
    /// # Errors
    /// [`Error::RowLength`], [`Error::WeightCount`], and [`Error::Weight`] for one that is negative or not finite; then nothing
    /// was added.
    pub fn update_weighted(&mut self, rows: &[f32], weights: &[f32]) -> Result<(), Error> {
        let tokens = self.tokens(rows.len())?;
        if weights.len() != tokens {
            return Err(Error::WeightCount {
                rows: tokens,
                weights: weights.len(),
            });
        }
        let valid = |weight: f32| weight >= 0.0 && weight.is_finite();
        if let Some(row) = weights.iter().position(|&weight| !valid(weight)) {
            return Err(Error::Weight {
                row,
                weight: weights[row],
            });
        }
        for (row, &weight) in rows.chunks_exact(self.features).zip(weights) {
            self.gather(row, weight);
        }
        Ok(())
    }

    /// Adds everything `other` has seen.
    ///
    /// # Errors
    /// [`Error::Features`] if it is about other inputs.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.check_features(other)?;
        self.sum.add_scaled(&other.sum, 1.0);
        for row in other.gathered.chunks_exact(other.features) {
            self.append(row, 1.0);
        }
        self.count += other.count;
        self.rows += other.rows;
        self.dropped += other.dropped;
        Ok(())
    }

    /// Draws the estimate toward `layer`, as if that had been seen over `tau` more tokens: the mean becomes
    /// `(T·H + tau·H_layer) / (T + tau)`, with `T` this one's count.
    ///
    /// For experts that saw fewer tokens than they have inputs, whose own estimate is singular. A `layer` without tokens has
    /// nothing to add and leaves the estimate as it is.
    ///
    /// # Errors
    /// [`Error::Features`] if `layer` is about other inputs, [`Error::Count`] if `tau` is no number of tokens.
    pub fn shrink_toward(&self, layer: &Self, tau: f64) -> Result<Self, Error> {
        self.check_features(layer)?;
        check_count(tau)?;
        let mut shrunk = self.clone();
        if layer.count > 0.0 {
            let share = tau / layer.count;
            shrunk.sum.add_scaled(&layer.sum, share);
            for row in layer.gathered.chunks_exact(layer.features) {
                shrunk.append(row, share);
            }
            shrunk.count += tau;
        }
        Ok(shrunk)
    }

    /// The mean `Σ w_t x_t x_tᵀ / Σ w_t`, a full symmetric matrix; zero if nothing was seen.
    pub fn mean(&self) -> DMatrix<f32> {
        let scale = if self.count > 0.0 {
            1.0 / self.count
        } else {
            0.0
        };
        if self.gathered.is_empty() {
            self.sum.scaled(scale)
        } else {
            let mut flushed = self.clone();
            flushed.flush();
            flushed.sum.scaled(scale)
        }
    }

    /// Multiplies out the rows still gathered, so that [`mean`](Self::mean) needs no copy of the sums to do so.
    pub fn flush(&mut self) {
        if !self.gathered.is_empty() {
            self.sum.add_rows(&self.gathered);
            self.gathered.clear();
        }
    }

    /// Sum of the weights of the rows seen, which without weights is the number of tokens.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// Rows seen, each counted once whatever its weight, without those left out. What [`from_mean`](Self::from_mean) and
    /// [`shrink_toward`](Self::shrink_toward) add are none.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows left out because of a value that is not finite.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Number of inputs it is about.
    pub fn features(&self) -> usize {
        self.features
    }

    /// How many rows so many values are.
    fn tokens(&self, len: usize) -> Result<usize, Error> {
        match len.checked_rem(self.features) {
            Some(0) => Ok(len / self.features),
            _ => Err(Error::RowLength {
                len,
                features: self.features,
            }),
        }
    }

    fn check_features(&self, other: &Self) -> Result<(), Error> {
        if self.features != other.features {
            return Err(Error::Features {
                left: self.features,
                right: other.features,
            });
        }
        Ok(())
    }

    fn gather(&mut self, row: &[f32], weight: f32) {
        if is_finite(row) {
            self.append(row, f64::from(weight));
            self.count += f64::from(weight);
            self.rows += 1;
        } else {
            self.dropped += 1;
        }
    }

    fn append(&mut self, row: &[f32], weight: f64) {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED_ROWS * self.features);
        }
        let root = weight.sqrt() as f32;
        self.gathered.extend(row.iter().map(|x| x * root));
        if self.gathered.len() == GATHERED_ROWS * self.features {
            self.flush();
        }
    }
}

fn check_count(count: f64) -> Result<(), Error> {
    if count >= 0.0 && count.is_finite() {
        Ok(())
    } else {
        Err(Error::Count { count })
    }
}

/// No NaN and no infinity among the values; written so that it vectorises.
fn is_finite(values: &[f32]) -> bool {
    let largest = values
        .iter()
        .fold(0, |largest, value| value.abs().to_bits().max(largest));
    largest < f32::INFINITY.to_bits()
}

/// The lower triangle of a sum of outer products; what lies above the diagonal means nothing.
#[derive(Debug, Clone)]
enum Sum {
    F32(DMatrix<f32>),
    F64(DMatrix<f64>),
}

impl Sum {
    /// Adds `Σ x xᵀ` over the rows `x`.
    fn add_rows(&mut self, rows: &[f32]) {
        match self {
            Self::F32(sum) => {
                let mut panels = Panels::default();
                panels.fill(rows, sum.nrows());
                panels.add_gram(sum.as_mut_slice());
            }
            Self::F64(sum) => add_gram_wide(sum, rows),
        }
    }

    /// The same, unless one is not finite; `panels` is memory to use again.
    fn add_rows_if_finite(&mut self, rows: &[f32], panels: &mut Panels) -> bool {
        match self {
            Self::F32(sum) => {
                let finite = panels.fill(rows, sum.nrows());
                if finite {
                    panels.add_gram(sum.as_mut_slice());
                }
                finite
            }
            Self::F64(sum) => {
                let finite = is_finite(rows);
                if finite {
                    add_gram_wide(sum, rows);
                }
                finite
            }
        }
    }

    fn add_scaled(&mut self, other: &Self, factor: f64) {
        match (self, other) {
            (Self::F32(sum), Self::F32(other)) => {
                sum.zip_apply(other, |a, b| {
                    *a = (f64::from(*a) + factor * f64::from(b)) as f32
                });
            }
            (Self::F32(sum), Self::F64(other)) => {
                sum.zip_apply(other, |a, b| *a = (f64::from(*a) + factor * b) as f32);
            }
            (Self::F64(sum), Self::F32(other)) => {
                sum.zip_apply(other, |a, b| *a += factor * f64::from(b))
            }
            (Self::F64(sum), Self::F64(other)) => sum.zip_apply(other, |a, b| *a += factor * b),
        }
    }

    /// The full symmetric matrix, multiplied by `factor`.
    fn scaled(&self, factor: f64) -> DMatrix<f32> {
        match self {
            Self::F32(sum) => mirrored(sum, |x| (f64::from(x) * factor) as f32),
            Self::F64(sum) => mirrored(sum, |x| (x * factor) as f32),
        }
    }
}

/// Adds the lower triangle of `XᵀX`, where `rows` is `X` row-major.
fn add_gram_wide(sum: &mut DMatrix<f64>, rows: &[f32]) {
    let n = sum.nrows();
    let columns = transposed(rows, n);
    let x = MatRef::from_column_major_slice(&columns, rows.len() / n, n);
    matmul(
        MatMut::from_column_major_slice_mut(sum.as_mut_slice(), n, n),
        BlockStructure::TriangularLower,
        Accum::Add,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
}

/// The row-major `rows` of `n` values, column after column: the product takes half the time where what it sums over is
/// contiguous.
fn transposed(rows: &[f32], n: usize) -> Vec<f64> {
    const SIDE: usize = 16;
    let height = rows.len() / n;
    let mut columns = vec![0.0; rows.len()];
    for top in (0..height).step_by(SIDE) {
        for left in (0..n).step_by(SIDE) {
            for column in left..n.min(left + SIDE) {
                for row in top..height.min(top + SIDE) {
                    columns[column * height + row] = f64::from(rows[row * n + column]);
                }
            }
        }
    }
    columns
}

/// The symmetric matrix whose lower triangle is that of `lower`, converted entry by entry.
pub(crate) fn mirrored<T: Copy + Sync>(
    lower: &DMatrix<T>,
    convert: impl Fn(T) -> f32 + Sync,
) -> DMatrix<f32> {
    /// Side of the squares that are read along columns and written along rows: both stay in cache.
    const SIDE: usize = 32;
    let n = lower.nrows();
    let mut full = DMatrix::zeros(n, n);
    let from = lower.as_slice();
    let fill = |(strip, columns): (usize, &mut [f32])| {
        let left = strip * SIDE;
        for (column, to) in columns.chunks_exact_mut(n).enumerate() {
            let below = (left + column) * (n + 1)..(left + column + 1) * n;
            for (to, &value) in to[left + column..].iter_mut().zip(&from[below]) {
                *to = convert(value);
            }
        }
        // Columns lie a power of two apart, where a cache holds few of them: squares are turned over in a place of their own.
        let mut square = [[0.0; SIDE]; SIDE];
        for top in (0..left + SIDE).step_by(SIDE) {
            let height = SIDE.min(n - top);
            for (row, values) in square[..height].iter_mut().enumerate() {
                let values_from = &from[(top + row) * n..][..n][left..];
                for (value, &from) in values.iter_mut().zip(values_from) {
                    *value = convert(from);
                }
            }
            for (column, to) in columns.chunks_exact_mut(n).enumerate() {
                let above = top..(left + column).min(top + height).max(top);
                for (to, row) in to[above].iter_mut().zip(&square) {
                    *to = row[column];
                }
            }
        }
    };
    full.as_mut_slice()
        .par_chunks_mut(SIDE * n.max(1))
        .enumerate()
        .for_each(fill);
    full
}
