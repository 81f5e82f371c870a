use std::path::Path;

use treillage_model::text::Tokenizer;

use crate::{Error, hash};

/// Token sequences that a model is calibrated with: rows of one length, each a sequence of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationTokens {
    ids: Vec<u32>,
    cols: usize,
    requested_rows: usize,
}

impl CalibrationTokens {
    /// Rows asked for where nothing else is said.
    pub const ROWS: usize = 240;
    /// Tokens of a row where nothing else is said.
    pub const COLS: usize = 512;

    /// Cuts `rows` rows of `cols` tokens out of `ids`, evenly spread over it and without overlap; as many as there
    /// are, if there are fewer.
    ///
    /// # Errors
    /// [`Error::EmptyCalibration`] if either number is 0, [`Error::CalibrationTooShort`] if `ids` is not even one row.
    pub fn spread(ids: &[u32], rows: usize, cols: usize) -> Result<Self, Error> {
        if rows == 0 || cols == 0 {
            return Err(Error::EmptyCalibration { rows, cols });
        }
        let available = ids.len() / cols;
        if available == 0 {
            return Err(Error::CalibrationTooShort {
                tokens: ids.len(),
                cols,
            });
        }
        let taken = rows.min(available);
        let spread = (0..taken)
            .flat_map(|row| {
                let start = row * ids.len() / taken;
                &ids[start..start + cols]
            })
            .copied()
            .collect();
        Ok(Self {
            ids: spread,
            cols,
            requested_rows: rows,
        })
    }

    /// Reads text files, one after the other, and [spreads](Self::spread) rows over their tokens.
    ///
    /// # Errors
    /// Those of [`Self::spread`], [`Error::Read`] for a file that cannot be read as UTF-8, and the tokenizer's.
    pub fn read(
        tokenizer: &Tokenizer,
        files: &[impl AsRef<Path>],
        rows: usize,
        cols: usize,
    ) -> Result<Self, Error> {
        let mut ids = Vec::new();
        for path in files {
            let path = path.as_ref();
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })?;
            ids.extend(tokenizer.encode(&text)?);
        }
        Self::spread(&ids, rows, cols)
    }

    /// The rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.ids.chunks_exact(self.cols)
    }

    /// So many of the rows at most, evenly spread.
    pub(crate) fn sample(&self, rows: usize) -> Self {
        self.excerpt(rows, self.cols)
    }

    /// So many of the rows at most, evenly spread, and so many of the first tokens of each.
    pub(crate) fn excerpt(&self, rows: usize, cols: usize) -> Self {
        let cols = cols.min(self.cols);
        let all = self.rows().len();
        let taken = rows.min(all);
        let ids = (0..taken).flat_map(|row| {
            let start = row * all / taken * self.cols;
            &self.ids[start..start + cols]
        });
        Self {
            ids: ids.copied().collect(),
            cols,
            requested_rows: taken,
        }
    }

    /// Tokens of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows that were asked for; the text may have had fewer.
    pub fn requested_rows(&self) -> usize {
        self.requested_rows
    }

    /// A number that tells these tokens from others.
    pub(crate) fn fingerprint(&self) -> u64 {
        let bytes: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        hash::fnv1a(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_are_spread_over_the_whole_text() {
        let ids: Vec<u32> = (0..100).collect();
        let tokens = CalibrationTokens::spread(&ids, 4, 10).unwrap();
        let starts: Vec<u32> = tokens.rows().map(|row| row[0]).collect();
        assert_eq!(starts, [0, 25, 50, 75]);
    }

    #[test]
    fn too_little_text_is_an_error_and_fewer_rows_are_not() {
        let ids: Vec<u32> = (0..25).collect();
        assert!(matches!(
            CalibrationTokens::spread(&ids, 4, 26),
            Err(Error::CalibrationTooShort {
                tokens: 25,
                cols: 26
            })
        ));
        assert!(matches!(
            CalibrationTokens::spread(&ids, 0, 5),
            Err(Error::EmptyCalibration { .. })
        ));
        let tokens = CalibrationTokens::spread(&ids, 4, 10).unwrap();
        assert_eq!((tokens.rows().len(), tokens.requested_rows()), (2, 4));
    }

    #[test]
    fn samples_are_spread_over_the_rows() {
        let ids: Vec<u32> = (0..100).collect();
        let tokens = CalibrationTokens::spread(&ids, 10, 10).unwrap();
        let starts = |n| -> Vec<u32> { tokens.sample(n).rows().map(|row| row[0]).collect() };
        assert_eq!(starts(3), [0, 30, 60]);
        assert_eq!(starts(100).len(), 10);
    }

    proptest! {
        #[test]
        fn rows_never_overlap(len in 1usize..2000, rows in 1usize..40, cols in 1usize..60) {
            let ids: Vec<u32> = (0..len as u32).collect();
            if let Ok(tokens) = CalibrationTokens::spread(&ids, rows, cols) {
                prop_assert_eq!(tokens.rows().len(), rows.min(len / cols));
                let all: Vec<u32> = tokens.rows().flatten().copied().collect();
                prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
            } else {
                prop_assert!(len < cols);
            }
        }
    }
}
