//! Products as they should be: of dequantized matrices, in f64.

use treillage_backend::{LinearShape, LinearWeights};

/// The matrix `[out, in]` and the bias.
fn matrix(weights: &LinearWeights, shape: LinearShape) -> (Vec<f64>, Vec<f64>) {
    let (inputs, outputs) = (shape.in_features, shape.out_features);
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let none = || vec![0.0; outputs];
    match weights {
        LinearWeights::Trellis(packed) => {
            let matrix = packed.dequantize();
            let values = (0..outputs)
                .flat_map(|o| (0..inputs).map(move |i| (i, o)))
                .map(|at| f64::from(matrix[at]));
            let bias = packed.bias().map(|bias| {
                let bias = bias[..outputs].iter();
                bias.map(|b| f64::from(b.to_f32())).collect()
            });
            (values.collect(), bias.unwrap_or_else(none))
        }
        LinearWeights::Dense { weight, bias } => {
            let values: Vec<f32> = (0..outputs).flat_map(|r| weight.row(r)).collect();
            (wide(&values), bias.as_deref().map_or_else(none, wide))
        }
        LinearWeights::Grouped(grouped) => {
            let bias = grouped.parts().bias.as_deref();
            (wide(&grouped.dequantize()), bias.map_or_else(none, wide))
        }
    }
}

pub(super) fn product(weights: &LinearWeights, shape: LinearShape, x: &[f32]) -> Vec<f64> {
    let (matrix, bias) = matrix(weights, shape);
    let mut y = Vec::new();
    for x in x.chunks_exact(shape.in_features) {
        for (row, bias) in matrix.chunks_exact(shape.in_features).zip(&bias) {
            let dot: f64 = row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
            y.push(dot + bias);
        }
    }
    y
}

#[track_caller]
pub(super) fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / got.len() as f64;
    let power = mean(&mut expected.iter().map(|e| e * e));
    let error = mean(
        &mut got
            .iter()
            .zip(expected)
            .map(|(g, e)| (f64::from(*g) - e).powi(2)),
    );
    let relative = (error / power).sqrt();
    assert!(relative < tolerance, "{what}: off by {relative:.2e}");
}
