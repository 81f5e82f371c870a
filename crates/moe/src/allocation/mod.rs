//! Which rate each group of linears takes when all that is asked for is an average.

mod loss;
mod position;

pub use loss::{LossGroup, least_loss};
pub use position::{Part, RateGroup, allocate};

/// The rates that there are: whole bits per weight.
const RATES: std::ops::RangeInclusive<u8> = 1..=8;

/// Rates for the groups that [`allocate`] or [`least_loss`] was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// Bits per weight of each group, in their order.
    pub bits: Vec<u8>,
    /// The average over all weights; at most what was asked for.
    pub average: f64,
}

impl Allocation {
    /// `bits` for groups of so many weights each; where there are none the average is that of the groups.
    fn new(bits: Vec<u8>, weights: impl Iterator<Item = u64> + Clone) -> Self {
        let total: u64 = weights.clone().sum();
        let spent: u64 = weights.zip(&bits).map(|(w, &b)| w * u64::from(b)).sum();
        let average = match total {
            0 => bits.iter().map(|&b| f64::from(b)).sum::<f64>() / bits.len().max(1) as f64,
            _ => spent as f64 / total as f64,
        };
        Self { bits, average }
    }
}

/// What cannot be allocated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocationError {
    /// An average that no allocation can reach.
    #[error("{0} bits per weight: the average must lie between 1 and 8")]
    Average(f64),
    /// A loss that nothing can be compared with.
    #[error("the loss of group {group} at {bits} bits is {loss}: it must be a number")]
    Loss {
        /// Index of the group.
        group: usize,
        /// The rate.
        bits: u8,
        /// What was given.
        loss: f64,
    },
}

/// The bits that `average` bits for each of `weights` weights come to.
fn budget(average: f64, weights: u64) -> Result<u64, AllocationError> {
    let range = f64::from(*RATES.start())..=f64::from(*RATES.end());
    match range.contains(&average) {
        true => Ok((average * weights as f64).floor() as u64),
        false => Err(AllocationError::Average(average)),
    }
}
