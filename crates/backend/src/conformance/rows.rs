//! Bringing activations in and out.

use super::layer::{Storage, store};
use super::noise::Noise;
use super::{Failure, compare, ensure};
use crate::{DenseWeights, Error, Inference};

/// What is uploaded is read back, bit by bit.
pub fn uploads_come_back<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    for (rows, width) in [(1, 1), (3, 130), (1, 2048)] {
        let values = Noise::new(1).values(rows * width);
        let back = backend.read(&backend.upload(&values, width)?)?;
        ensure(values == back, || {
            format!("uploaded {rows} × {width} values came back changed")
        })?;
    }
    ensure(backend.upload(&[0.0; 7], 2).is_err(), || {
        "an upload of three and a half rows was accepted".to_owned()
    })
}

/// Rows come in the order asked for, repeated where asked for.
pub fn rows_are_selected<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let values = Noise::new(2).values(5 * 33);
    let x = backend.upload(&values, 33)?;
    let rows = [4, 0, 0, 3];
    let expected: Vec<f32> = rows
        .iter()
        .flat_map(|row| values[row * 33..][..33].iter().copied())
        .collect();
    let found = backend.read(&backend.select_rows(&x, &rows)?)?;
    ensure(found == expected, || {
        "selected rows are not those of the input".to_owned()
    })?;
    ensure(backend.select_rows(&x, &[5]).is_err(), || {
        "a row beyond the last was selected".to_owned()
    })
}

/// Embeddings in each stored type are rows of their table, exactly.
pub fn embeddings_are_looked_up<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let (vocabulary, width) = (11, 50);
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        let (data, kept) = store(Noise::new(3).values(vocabulary * width), storage);
        let table = backend.load_embedding(DenseWeights::new(vocabulary, width, data)?)?;
        let ids = [10, 0, 7, 7];
        let expected: Vec<f64> = ids
            .iter()
            .flat_map(|&id| kept[id as usize * width..][..width].iter().copied())
            .map(f64::from)
            .collect();
        let found = backend.read(&backend.embed(&table, &ids)?)?;
        compare(format!("embedding in {storage:?}"), &expected, &found, 0.0)?;
    }
    Ok(())
}

/// A token outside the vocabulary is named.
pub fn unknown_tokens_are_refused<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let (data, _) = store(Noise::new(4).values(5 * 8), Storage::Bf16);
    let table = backend.load_embedding(DenseWeights::new(5, 8, data)?)?;
    let refused = matches!(
        backend.embed(&table, &[1, 5, 2]),
        Err(Error::Token {
            id: 5,
            vocabulary: 5
        })
    );
    ensure(refused, || {
        "token 5 of a vocabulary of 5 was not refused as such".to_owned()
    })
}
