//! What watched linears have read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use treillage_backend::Error;
use treillage_linalg::Hessian;

/// The running second moment of a linear's input. Cloning copies the handle.
///
/// Ops that add to the same moments run one after another: they lock them while they multiply on all threads.
#[derive(Clone, Debug)]
pub struct Moments(Arc<Mutex<Hessian>>);

impl Moments {
    pub(crate) fn new(width: usize) -> Self {
        Self(Arc::new(Mutex::new(Hessian::new(width))))
    }

    /// The Hessian, for this thread alone.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Hessian> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Width of the inputs.
    pub(crate) fn width(&self) -> usize {
        self.lock().features()
    }

    /// Takes what was gathered, leaving nothing.
    pub(crate) fn take(&self) -> Hessian {
        let mut hessian = self.lock();
        let empty = Hessian::new(hessian.features());
        std::mem::replace(&mut hessian, empty)
    }

    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Adds rows `x` to each of `moments`, once to those that occur twice.
pub(crate) fn observe<'a>(
    x: &[f32],
    moments: impl Iterator<Item = &'a Moments>,
) -> Result<(), Error> {
    let mut seen: Vec<&Moments> = Vec::new();
    for moments in moments {
        if !seen.iter().any(|other| other.is(moments)) {
            moments.lock().update(x)?;
            seen.push(moments);
        }
    }
    Ok(())
}
