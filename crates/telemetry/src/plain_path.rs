use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Telemetry, TriggeringInput};

/// Whether a backend takes its plain path: because it was asked to, or while it repeats there what was not finite.
///
/// ```
/// use treillage_telemetry::{PlainPath, Telemetry};
///
/// let (path, telemetry) = (PlainPath::default(), Telemetry::default());
/// let again = path.recover(&telemetry, || Ok::<_, ()>(path.is_taken()));
/// assert_eq!((again, path.is_taken()), (Ok(true), false));
/// assert_eq!(telemetry.counts().trellis_nan_guard.total_recoveries, 1);
/// ```
#[derive(Debug, Default)]
pub struct PlainPath {
    asked: AtomicBool,
    again: AtomicBool,
}

impl PlainPath {
    /// Asks for it, or no longer.
    pub fn ask(&self, on: bool) {
        self.asked.store(on, Ordering::Relaxed);
    }

    /// Whether it is taken.
    pub fn is_taken(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.is_again()
    }

    fn is_again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Notes in `telemetry` what is not finite. What fails again was noted when it failed first.
    pub fn fail(&self, telemetry: &Telemetry, input: TriggeringInput) {
        if !self.is_again() {
            telemetry.moe_metrics.nan_detected.add(1);
            telemetry.nan_guard.fail(input);
        }
    }

    /// Runs `again` on the plain path, and notes a recovery in `telemetry` if it succeeds.
    ///
    /// # Errors
    /// Those of `again`.
    pub fn recover<T, E>(
        &self,
        telemetry: &Telemetry,
        again: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.again.store(true, Ordering::Relaxed);
        let result = again();
        self.again.store(false, Ordering::Relaxed);
        if result.is_ok() {
            telemetry.nan_guard.recover();
        }
        result
    }
}
