//! Is the new program slower, from pairs of times that were measured next to each other?
//!
//! A machine that others use is slow for seconds or minutes, so times of one revision vary more than those of two
//! revisions differ. What slows a pair slows both halves, so its ratio stays; what slows one half alone makes an outlier,
//! so the median of the ratios decides. How far that median can be trusted is bootstrapped over pairs, not over samples
//! within a visit: those share their weather.

/// A change below this is not worth a verdict, however certain.
pub(crate) const THRESHOLD: f64 = 0.03;

/// A run gives some dozens of verdicts; one of them wrong in a hundred runs is the aim.
pub(crate) const CONFIDENCE: f64 = 0.999;

const RESAMPLES: usize = 20_000;

/// What is said about one bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Slower,
    Faster,
    /// The same, or too noisy to tell.
    None,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verdict::Slower => "slower",
            Verdict::Faster => "faster",
            Verdict::None => "no verdict",
        }
    }
}

/// New time over old time, with the interval that holds it at [`CONFIDENCE`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Of the resampled medians, the share on this one's side of 1.
    pub(crate) confidence: f64,
}

impl Ratio {
    /// Of `[old, new]` times; `None` without any.
    pub(crate) fn of(pairs: &[[f64; 2]]) -> Option<Self> {
        let ratios: Vec<f64> = pairs.iter().map(|[old, new]| new / old).collect();
        if ratios.is_empty() {
            return None;
        }
        let median_ratio = median(&mut ratios.clone());
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut resample = vec![0.0; ratios.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                resample.fill_with(|| ratios[random.below(ratios.len())]);
                median(&mut resample)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[(share * (RESAMPLES - 1) as f64).round() as usize];
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let agrees = |m: &&f64| (**m > 1.0) == (median_ratio > 1.0) && **m != 1.0;
        Some(Self {
            median: median_ratio,
            low: at(tail),
            high: at(1.0 - tail),
            confidence: medians.iter().filter(agrees).count() as f64 / RESAMPLES as f64,
        })
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.low > 1.0 && self.median >= 1.0 + THRESHOLD {
            Verdict::Slower
        } else if self.high < 1.0 && self.median <= 1.0 / (1.0 + THRESHOLD) {
            Verdict::Faster
        } else {
            Verdict::None
        }
    }
}

/// Sorts `values`, of which there is at least one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// SplitMix64: the same draws in every run, so the same times give the same verdict.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISITS: usize = 12;

    /// Pairs of a bench of 1 ms whose visits scatter by ±`scatter`, each on its own.
    fn pairs(seed: u64, scatter: f64, change: f64) -> Vec<[f64; 2]> {
        let mut random = Random(seed);
        let mut time = || 1.0 + scatter * (random.below(20_001) as f64 / 10_000.0 - 1.0);
        (0..VISITS).map(|_| [time(), change * time()]).collect()
    }

    fn verdict(pairs: &[[f64; 2]]) -> Verdict {
        Ratio::of(pairs)
            .map(|ratio| ratio.verdict())
            .expect("some pairs")
    }

    #[test]
    fn identical_programs_get_no_verdict() {
        for seed in 0..200 {
            assert_eq!(verdict(&pairs(seed, 0.05, 1.0)), Verdict::None, "{seed}");
        }
    }

    #[test]
    fn a_tenth_more_is_slower_and_less_is_faster() {
        for seed in 0..200 {
            assert_eq!(verdict(&pairs(seed, 0.03, 1.1)), Verdict::Slower, "{seed}");
            assert_eq!(verdict(&pairs(seed, 0.03, 0.9)), Verdict::Faster, "{seed}");
        }
    }

    #[test]
    fn what_is_certain_but_small_gets_no_verdict() {
        let same: Vec<_> = (0..VISITS).map(|_| [1.0, 1.02]).collect();
        assert_eq!(verdict(&same), Verdict::None);
        let ratio = Ratio::of(&same).expect("some pairs");
        assert!(ratio.low > 1.0 && ratio.confidence == 1.0, "{ratio:?}");
    }

    #[test]
    fn bursts_that_hit_both_halves_get_no_verdict() {
        for seed in 0..50 {
            let mut pairs = pairs(seed, 0.02, 1.0);
            for pair in &mut pairs[VISITS / 2..] {
                *pair = pair.map(|time| 3.0 * time);
            }
            assert_eq!(verdict(&pairs), Verdict::None, "{seed}");
        }
    }

    #[test]
    fn bursts_that_hit_one_half_hide_nothing_and_fake_nothing() {
        for (change, expected) in [(1.0, Verdict::None), (1.1, Verdict::Slower)] {
            let mut pairs = pairs(7, 0.02, change);
            pairs[3][0] *= 2.0;
            pairs[8][1] *= 2.0;
            assert_eq!(verdict(&pairs), expected);
        }
    }

    #[test]
    fn without_pairs_there_is_no_ratio() {
        assert!(Ratio::of(&[]).is_none());
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
