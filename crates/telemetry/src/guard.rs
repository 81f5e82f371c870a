use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Inputs that are kept: enough to see what they have in common.
const SAMPLES: usize = 8;

/// Values that are not finite, by the layer that met them first.
#[derive(Debug, Default)]
pub struct NanGuard(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    failures: u64,
    recoveries: u64,
    by_layer: BTreeMap<usize, u64>,
    last: Option<u64>,
    samples: Vec<TriggeringInput>,
}

/// What a layer was given when it met something that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriggeringInput {
    /// The layer, counted from 0; `None` after the last one.
    pub layer: Option<usize>,
    /// The row, counted from 0 among those that were computed together.
    pub row: usize,
    /// How many of its values are not finite; 0 where nobody counted.
    pub not_finite: u64,
    /// The largest magnitude of its other values.
    pub largest_finite: f32,
}

/// The place in words, to go before "is not finite".
impl fmt::Display for TriggeringInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "a value in layer {layer}")?,
            None => f.write_str("a logit")?,
        }
        match self.not_finite {
            0 => Ok(()),
            count => write!(
                f,
                " (row {}: {count} values, the others up to {:e})",
                self.row, self.largest_finite
            ),
        }
    }
}

/// What [`NanGuard`] saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NanGuardCounts {
    /// Results with a value that is not finite.
    pub total_failures: u64,
    /// Of these, results that were computed again on a reference path and then were finite.
    pub total_recoveries: u64,
    /// Layers that were the first to meet such a value, each once.
    pub layers_affected: u64,
    /// Of these, the one that was it most often, the first of equals.
    pub most_affected_layer: Option<usize>,
    /// When the last one was seen, in seconds since 1970.
    pub last_nan_timestamp: Option<u64>,
    /// The first of what layers were given.
    pub sample_triggering_inputs: Vec<TriggeringInput>,
}

impl NanGuard {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a result that is not finite, and what the layer was given that met it first.
    pub fn fail(&self, input: TriggeringInput) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut seen = self.seen();
        seen.failures += 1;
        // A clock before 1970 tells nothing.
        seen.last = now.ok().map(|since| since.as_secs());
        if let Some(layer) = input.layer {
            *seen.by_layer.entry(layer).or_default() += 1;
        }
        if seen.samples.len() < SAMPLES {
            seen.samples.push(input);
        }
    }

    /// Notes that the result of the last failure was computed again, and was finite.
    pub fn recover(&self) {
        self.seen().recoveries += 1;
    }

    /// The numbers of now.
    pub fn counts(&self) -> NanGuardCounts {
        let seen = self.seen();
        let most = seen.by_layer.values().max();
        let first = |count| seen.by_layer.iter().find(|&(_, found)| found == count);
        NanGuardCounts {
            total_failures: seen.failures,
            total_recoveries: seen.recoveries,
            layers_affected: seen.by_layer.len() as u64,
            most_affected_layer: most.and_then(first).map(|(&layer, _)| layer),
            last_nan_timestamp: seen.last,
            sample_triggering_inputs: seen.samples.clone(),
        }
    }

    /// Starts over.
    pub fn reset(&self) {
        *self.seen() = Seen::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_layer() {
        let guard = NanGuard::default();
        assert_eq!(guard.counts(), NanGuardCounts::default());
        let input = |layer| TriggeringInput {
            layer,
            row: 1,
            not_finite: 2,
            largest_finite: 3.5,
        };
        for layer in [Some(7), Some(2), Some(7), Some(2), None] {
            guard.fail(input(layer));
        }
        guard.recover();
        for _ in 0..SAMPLES {
            guard.fail(input(None));
        }
        let counts = guard.counts();
        assert_eq!(counts.total_failures, 5 + SAMPLES as u64);
        assert_eq!(counts.total_recoveries, 1);
        assert_eq!(counts.layers_affected, 2);
        assert_eq!(counts.most_affected_layer, Some(2));
        assert!(counts.last_nan_timestamp.is_some());
        let samples = &counts.sample_triggering_inputs;
        assert_eq!((samples.len(), samples[0]), (SAMPLES, input(Some(7))));
        guard.reset();
        assert_eq!(guard.counts(), NanGuardCounts::default());
    }
}
