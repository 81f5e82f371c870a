//! Codes as files hold them: nibbles two to a byte, and dense bit streams in 32-bit words.
//!
//! A stream is little-endian and has no gaps: the lowest index in the lowest bits, and codes of 3 bits straddle words.
//! Each row (or column) starts a word of its own; bits left over in its last one are zero. `codes` are one byte each.
//!
//! | tensor | shape | from `codes [out, in]` or `zeros [out, in / group]` |
//! |---|---|---|
//! | E2M1 anywhere | `[out, in / 2]` bytes | [`nibbles`] |
//! | compressed-tensors `weight_packed` | `[out, ⌈in · b / 32⌉]` | [`pack_rows`]`(codes, in)` |
//! | compressed-tensors `weight_zero_point` | `[⌈out · b / 32⌉, in / group]` | [`pack_columns`]`(zeros, in / group)` |
//! | GPTQ `qweight` | `[in · b / 32, out]` | [`pack_columns`]`(`[`transpose`]`(codes), out)` |
//! | GPTQ `qzeros` | `[in / group, out · b / 32]` | [`pack_rows`]`(`[`transpose`]`(zeros), out)` |

use crate::{Element, IntBits};

/// Two codes to a byte, the even one in the low nibble; after an odd number the last high nibble is 0.
pub fn nibbles(codes: &[u8]) -> Vec<u8> {
    let pair = |pair: &[u8]| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4);
    codes.chunks(2).map(pair).collect()
}

/// Codes, a byte each, from two to a byte.
pub fn widen(nibbles: &[u8]) -> Vec<u8> {
    let pair = |byte: &u8| [byte & 15, byte >> 4];
    nibbles.iter().flat_map(pair).collect()
}

/// Codes, a byte each, as a [`GroupedLinear`](crate::GroupedLinear) holds them: nibbles unless they have 8 bits.
pub fn to_stored(codes: Vec<u8>, element: Element) -> Vec<u8> {
    match element.code_bits() {
        8 => codes,
        _ => nibbles(&codes),
    }
}

/// Codes, a byte each, from what a [`GroupedLinear`](crate::GroupedLinear) holds.
pub fn from_stored(stored: &[u8], element: Element) -> Vec<u8> {
    match element.code_bits() {
        8 => stored.to_vec(),
        _ => widen(stored),
    }
}

/// Words that `codes` codes take.
pub fn words(codes: usize, bits: IntBits) -> usize {
    (codes * bits.get()).div_ceil(32)
}

/// Packs each row of `codes`, `[rows, columns]`, to words `[rows, ⌈columns · bits / 32⌉]`. Bits above a code's width
/// are ignored.
///
/// # Panics
/// If `codes` are not whole rows.
pub fn pack_rows(codes: &[u8], columns: usize, bits: IntBits) -> Vec<u32> {
    assert!(
        columns > 0 && codes.len().is_multiple_of(columns),
        "whole rows"
    );
    let width = words(columns, bits);
    let mut packed = vec![0; codes.len() / columns * width];
    for (codes, words) in codes
        .chunks_exact(columns)
        .zip(packed.chunks_exact_mut(width))
    {
        pack(codes, words, bits);
    }
    packed
}

/// Undoes [`pack_rows`].
///
/// # Panics
/// If `words` has another length than `rows` and `columns` ask for.
pub fn unpack_rows(words: &[u32], rows: usize, columns: usize, bits: IntBits) -> Vec<u8> {
    let width = self::words(columns, bits);
    assert_eq!(
        words.len(),
        rows * width,
        "words of {rows} rows of {columns}"
    );
    let mut codes = vec![0; rows * columns];
    if width > 0 {
        for (codes, words) in codes
            .chunks_exact_mut(columns)
            .zip(words.chunks_exact(width))
        {
            unpack(words, codes, bits);
        }
    }
    codes
}

/// Packs each column of `codes`, `[rows, columns]`, to words `[⌈rows · bits / 32⌉, columns]`.
///
/// # Panics
/// If `codes` are not whole rows.
pub fn pack_columns(codes: &[u8], columns: usize, bits: IntBits) -> Vec<u32> {
    assert!(
        columns > 0 && codes.len().is_multiple_of(columns),
        "whole rows"
    );
    let rows = codes.len() / columns;
    if rows == 0 {
        return Vec::new();
    }
    let packed = pack_rows(&transpose(codes, columns), rows, bits);
    transpose(&packed, words(rows, bits))
}

/// Undoes [`pack_columns`].
///
/// # Panics
/// If `words` has another length than `rows` and `columns` ask for.
pub fn unpack_columns(words: &[u32], rows: usize, columns: usize, bits: IntBits) -> Vec<u8> {
    let height = self::words(rows, bits);
    assert_eq!(
        words.len(),
        height * columns,
        "words of {columns} columns of {rows}"
    );
    let codes = unpack_rows(&transpose(words, columns), columns, rows, bits);
    transpose(&codes, rows)
}

/// `[rows, columns]` to `[columns, rows]`.
///
/// # Panics
/// If `values` are not whole rows.
pub fn transpose<T: Copy + Default>(values: &[T], columns: usize) -> Vec<T> {
    /// Side of the squares that are moved at once: both of its sides stay in the first-level cache.
    const TILE: usize = 32;
    if values.is_empty() {
        return Vec::new();
    }
    assert!(
        columns > 0 && values.len().is_multiple_of(columns),
        "whole rows"
    );
    let rows = values.len() / columns;
    let mut transposed = vec![T::default(); values.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    transposed[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    transposed
}

/// Fills the zeroed `words` with `codes`.
fn pack(codes: &[u8], words: &mut [u32], bits: IntBits) {
    let (width, mask) = (bits.get(), (bits.levels() - 1) as u8);
    for (i, code) in codes.iter().enumerate() {
        let (word, shift) = (i * width / 32, i * width % 32);
        let code = u64::from(code & mask) << shift;
        words[word] |= code as u32;
        // What is left of a code of 3 bits that straddles two words.
        if shift + width > 32 {
            words[word + 1] |= (code >> 32) as u32;
        }
    }
}

fn unpack(words: &[u32], codes: &mut [u8], bits: IntBits) {
    let (width, mask) = (bits.get(), (bits.levels() - 1) as u32);
    for (i, code) in codes.iter_mut().enumerate() {
        let (word, shift) = (i * width / 32, i * width % 32);
        let low = words[word] >> shift;
        let high = if shift + width > 32 {
            words[word + 1] << (32 - shift)
        } else {
            0
        };
        *code = ((low | high) & mask) as u8;
    }
}
