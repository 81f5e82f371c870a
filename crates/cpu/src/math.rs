//! Functions that vectorise inside a kernel: without branches and calls, and without an order of additions that the
//! compiler would have to keep.

use treillage_trellis::lanes::LANES;

/// `eˣ` to within two units in the last place; 0 from −87.3 down, ∞ from 88.8 up, NaN for NaN.
///
/// Cody–Waite range reduction and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// `x + ROUND − ROUND` rounds to the nearest integer; the sum's low bits hold it.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, not `max` and `min`: those would swallow a NaN.
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = p * power;
    let y = if x < -87.0 { 0.0 } else { y };
    if x > 88.0 { f32::INFINITY } else { y }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x · sigmoid(x)` (arXiv 1702.03118).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The sum of `f` of all values, added up in sixteen lanes.
#[inline(always)]
pub(crate) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    let rest: f32 = rest.iter().map(|&value| f(value)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The largest value, −∞ if there is none; NaNs are passed over.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(value, *lane);
        }
    }
    let rest = rest.iter().fold(f32::NEG_INFINITY, |a, &b| larger(b, a));
    lanes.iter().fold(rest, |a, &b| larger(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "{x}: {error}");
        }
    }

    #[test]
    fn sums_and_largest_are_those_of_plain_loops() {
        for count in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..count)
                .map(|i| ((i * 37) % 101) as f32 - 150.0)
                .collect();
            assert_eq!(
                sum(&values, |x| 2.0 * x),
                values.iter().map(|x| 2.0 * x).sum()
            );
            let expected = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(largest(&values), expected);
        }
        assert_eq!(largest(&[f32::NAN, 1.0, f32::NAN]), 1.0);
        assert!(sum(&[f32::NAN, 1.0], |x| x).is_nan());
    }

    #[test]
    fn exp_keeps_its_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_keeps_its_limits() {
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(100.0), 100.0);
        assert_eq!(silu(-100.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-7);
        assert!(silu(f32::NAN).is_nan());
    }
}
