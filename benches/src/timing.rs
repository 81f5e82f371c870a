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
        seconds.sort_by(f64::total_cmp);
        Ok(Self(seconds))
    }

    /// The middle run: what to expect.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// The fastest run: what the machine can do when nothing disturbs it.
    pub fn best(&self) -> f64 {
        self.0[0]
    }
}
