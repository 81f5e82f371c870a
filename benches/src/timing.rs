//! Repeated timing.

use std::time::Instant;

/// Seconds of repeated runs, ascending.
pub struct Timings(Vec<f64>);

impl Timings {
    /// Runs once unmeasured, then until `repeats` runs are measured.
    ///
    /// # Errors
    /// The first error of `run`.
    pub fn of<E>(repeats: usize, mut run: impl FnMut() -> Result<(), E>) -> Result<Self, E> {
        run()?;
        let mut seconds = Vec::with_capacity(repeats.max(1));
        for _ in 0..repeats.max(1) {
            let start = Instant::now();
            run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(Self::sorted(seconds))
    }

    /// `seconds` that were measured elsewhere; at least one.
    ///
    /// # Panics
    /// If there are none.
    pub fn sorted(mut seconds: Vec<f64>) -> Self {
        assert!(!seconds.is_empty(), "nothing was measured");
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }

    /// The middle run: what to expect.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// What 95 of 100 runs do not exceed.
    pub fn p95(&self) -> f64 {
        self.0[(self.0.len() * 95).div_ceil(100) - 1]
    }

    /// The fastest run: what the machine can do when nothing disturbs it.
    pub fn best(&self) -> f64 {
        self.0[0]
    }
}
