use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Times of the stages of a run. Nothing is timed until somebody says that he will read them: until then a stage costs one look at a
/// flag.
///
/// ```
/// use treillage_telemetry::Stages;
///
/// let stages = Stages::default();
/// drop(stages.start("load"));
/// assert!(stages.times().is_empty());
///
/// stages.enable();
/// let load = stages.start("load");
/// // …
/// drop(load);
/// assert_eq!(stages.times()[0].count, 1);
/// ```
#[derive(Debug, Default)]
pub struct Stages {
    enabled: AtomicBool,
    times: Mutex<Vec<StageTime>>,
}

/// What [`Stages`] know of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// Its name.
    pub stage: String,
    /// How often it came.
    pub count: u64,
    /// Seconds of all times.
    pub total_seconds: f64,
    /// Seconds of the longest.
    pub longest_seconds: f64,
}

impl Stages {
    /// From now on, stages are timed.
    pub fn enable(&self) {
        self.enabled.store(true, Ordering::Relaxed);
    }

    /// Whether stages are timed.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// A stage begins; it ends when what this gives is dropped, with an error or without.
    pub fn start(&self, stage: &'static str) -> Stage<'_> {
        Stage {
            stages: self,
            stage,
            start: self.is_enabled().then(Instant::now),
        }
    }

    /// Notes a stage that somebody else has timed.
    pub fn record(&self, stage: &str, time: Duration) {
        if !self.is_enabled() {
            return;
        }
        let seconds = time.as_secs_f64();
        let mut times = self.locked();
        let known = times.iter_mut().find(|known| known.stage == stage);
        if let Some(known) = known {
            known.count += 1;
            known.total_seconds += seconds;
            known.longest_seconds = known.longest_seconds.max(seconds);
        } else {
            times.push(StageTime {
                stage: stage.to_owned(),
                count: 1,
                total_seconds: seconds,
                longest_seconds: seconds,
            });
        }
    }

    /// The times of now, in the order in which stages first ended.
    pub fn times(&self) -> Vec<StageTime> {
        self.locked().clone()
    }

    /// Starts over.
    pub fn reset(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, Vec<StageTime>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stage that goes on until this is dropped.
#[derive(Debug)]
#[must_use = "a stage ends when this is dropped"]
pub struct Stage<'a> {
    stages: &'a Stages,
    stage: &'static str,
    /// `None` if nobody reads times.
    start: Option<Instant>,
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            self.stages.record(self.stage, start.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up() {
        let stages = Stages::default();
        stages.enable();
        for (stage, millis) in [("encode", 30), ("write", 5), ("encode", 10)] {
            stages.record(stage, Duration::from_millis(millis));
        }
        let times = stages.times();
        assert_eq!(times.len(), 2);
        assert_eq!((&*times[0].stage, times[0].count), ("encode", 2));
        assert!((times[0].total_seconds - 0.04).abs() < 1e-9);
        assert!((times[0].longest_seconds - 0.03).abs() < 1e-9);
        assert_eq!((&*times[1].stage, times[1].count), ("write", 1));
        let json = serde_json::to_string(&times).expect("numbers");
        let back: Vec<StageTime> = serde_json::from_str(&json).expect("the same");
        assert_eq!(back, times);
        stages.reset();
        assert!(stages.times().is_empty());
    }

    #[test]
    fn a_stage_ends_with_its_guard() {
        let stages = Stages::default();
        let before = stages.start("unread");
        assert!(before.start.is_none(), "the clock was read for nobody");
        stages.enable();
        drop(before);
        let stage = stages.start("read");
        assert!(stages.times().is_empty());
        drop(stage);
        let times = stages.times();
        assert_eq!(times.len(), 1);
        assert_eq!((&*times[0].stage, times[0].count), ("read", 1));
    }
}
