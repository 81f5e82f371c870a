//! Watching for values that are not finite.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use treillage_backend::Error;
use treillage_telemetry::{PlainPath, Telemetry, TriggeringInput};

use crate::tensor::Tensor;

/// Values that a task looks at: fewer are not worth a thread.
const MIN_VALUES: usize = 1 << 16;

/// Which block is being computed and how, and what is counted of it.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    block: AtomicUsize,
    pub(crate) path: PlainPath,
    pub(crate) telemetry: Telemetry,
}

impl Guard {
    /// Ops from here on are those of block `index`.
    pub(crate) fn enter(&self, index: usize) {
        self.block.store(index, Ordering::Relaxed);
    }

    /// Fails if a value of `x` is not finite.
    pub(crate) fn check(&self, x: &Tensor) -> Result<(), Error> {
        if x.values().par_chunks(MIN_VALUES).all(is_finite) {
            return Ok(());
        }
        let bad = (0..x.rows()).find(|&row| !is_finite(x.row(row)));
        let row = bad.unwrap_or_default();
        let (finite, others): (Vec<f32>, Vec<f32>) = x.row(row).iter().partition(|v| v.is_finite());
        Err(self.fail(TriggeringInput {
            layer: Some(self.block.load(Ordering::Relaxed)),
            row,
            not_finite: others.len() as u64,
            largest_finite: finite.iter().fold(0.0, |largest, v| v.abs().max(largest)),
        }))
    }

    /// `error` as it is, or, if it says that a row of a router's logits is not finite, with the layer named.
    pub(crate) fn routed(&self, error: Error) -> Error {
        match error {
            Error::Routing(treillage_moe::Error::NotFinite { token }) => {
                self.fail(TriggeringInput {
                    layer: Some(self.block.load(Ordering::Relaxed)),
                    row: token,
                    not_finite: 0,
                    largest_finite: 0.0,
                })
            }
            error => error,
        }
    }

    /// What fails where no logit can be chosen.
    pub(crate) fn no_choice(&self) -> Error {
        self.fail(TriggeringInput {
            layer: None,
            row: 0,
            not_finite: 0,
            largest_finite: 0.0,
        })
    }

    fn fail(&self, input: TriggeringInput) -> Error {
        self.path.fail(&self.telemetry, input);
        Error::NotFinite(input.to_string())
    }
}

/// Whether all of `values` are: their exponents are below that of infinity.
fn is_finite(values: &[f32]) -> bool {
    let largest = values
        .iter()
        .fold(0, |largest, v| v.abs().to_bits().max(largest));
    largest < f32::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_row_is_told() {
        let guard = Guard::default();
        guard.enter(7);
        for nonsense in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut values = vec![f32::MAX; 40_000 * 3];
            guard
                .check(&Tensor::new(values.clone(), 3).unwrap())
                .unwrap();
            values[3 * 31_000..][..3].copy_from_slice(&[-2.5, nonsense, 1.0]);
            values[3 * 39_999] = nonsense;
            let error = guard.check(&Tensor::new(values, 3).unwrap()).unwrap_err();
            let place = "layer 7 (row 31000: 1 values, the others up to 2.5e0)";
            assert!(error.to_string().contains(place), "{error}");
        }
        let counts = guard.telemetry.counts();
        assert_eq!(counts.trellis_nan_guard.total_failures, 4);
        assert_eq!(counts.trellis_nan_guard.most_affected_layer, Some(7));
        assert_eq!(counts.trellis_moe_metrics.nan_detected, 4);
    }

    #[test]
    fn what_fails_again_is_counted_once() {
        let guard = Guard::default();
        let bad = Tensor::new(vec![f32::NAN], 1).unwrap();
        guard.check(&bad).unwrap_err();
        let Guard {
            path, telemetry, ..
        } = &guard;
        path.recover(telemetry, || guard.check(&bad)).unwrap_err();
        let counts = || telemetry.counts().trellis_nan_guard;
        assert_eq!((counts().total_failures, counts().total_recoveries), (1, 0));
        path.recover(telemetry, || Ok::<_, Error>(())).unwrap();
        assert_eq!((counts().total_failures, counts().total_recoveries), (1, 1));
        assert!(!path.is_taken());
    }
}
