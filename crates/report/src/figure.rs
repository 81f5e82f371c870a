//! A number, or why there is none.

use serde::{Deserialize, Serialize};

/// A number that was measured or computed from such, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// It is there.
    Measured(f64),
    /// It is not.
    Unavailable {
        /// Why.
        unavailable: String,
    },
}

impl Figure {
    /// There is none, and why.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            unavailable: reason.into(),
        }
    }

    /// The number, if there is one.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Measured(value) => Some(*value),
            Self::Unavailable { .. } => None,
        }
    }

    /// What `compute` makes of it.
    pub fn map(&self, compute: impl FnOnce(f64) -> f64) -> Self {
        match self {
            Self::Measured(value) => Self::finite(compute(*value)),
            Self::Unavailable { .. } => self.clone(),
        }
    }

    /// What `compute` makes of both; unavailable for the reason of the first that is.
    pub fn with(&self, other: &Self, compute: impl FnOnce(f64, f64) -> f64) -> Self {
        match (self, other) {
            (Self::Measured(a), Self::Measured(b)) => Self::finite(compute(*a, *b)),
            (Self::Measured(_), unavailable) | (unavailable, _) => unavailable.clone(),
        }
    }

    /// A quotient by 0 is no number to print, and JSON has no word for it.
    fn finite(value: f64) -> Self {
        match value.is_finite() {
            true => Self::Measured(value),
            false => Self::unavailable("the measured values have no finite quotient"),
        }
    }
}

/// By how much of `before` is `after` more, in per cent.
pub(crate) fn per_cent(before: f64, after: f64) -> f64 {
    100.0 * (after / before - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_go_where_numbers_would() {
        let there = Figure::Measured(3.0);
        let absent = Figure::unavailable("no GPU");
        assert_eq!(there.with(&there, |a, b| a + b), Figure::Measured(6.0));
        assert_eq!(there.with(&absent, |a, b| a + b), absent);
        assert_eq!(absent.with(&there, |a, b| a + b), absent);
        assert_eq!(absent.map(|a| 2.0 * a), absent);
        assert_eq!(there.map(|a| a / 0.0).value(), None);
        let json = serde_json::to_string(&[there, absent]).expect("JSON");
        assert_eq!(json, r#"[3.0,{"unavailable":"no GPU"}]"#);
    }
}
