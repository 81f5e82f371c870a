use proptest::prelude::*;
use rand::Rng as _;

use super::*;

/// The whole ranking, filter by filter.
fn slow(logits: &[f32], options: &SamplingOptions, uniform: f64) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut tokens: Vec<(f64, u32)> = logits
        .iter()
        .zip(0..)
        .map(|(&logit, id)| {
            let scaled = f64::from(logit - largest) / f64::from(options.temperature);
            (scaled.exp(), id)
        })
        .collect();
    if options.top_k > 0 || options.top_p < 1.0 || options.min_p > 0.0 {
        tokens.sort_by(|a, b| {
            let logit = |id: u32| logits[id as usize];
            logit(b.1).total_cmp(&logit(a.1)).then(a.1.cmp(&b.1))
        });
    }
    if options.top_k > 0 {
        tokens.truncate(options.top_k);
    }
    let mass = |tokens: &[(f64, u32)]| tokens.iter().map(|t| t.0).sum::<f64>();
    let total = mass(&tokens);
    if options.top_p < 1.0 {
        let enough = (1..=tokens.len())
            .find(|&n| mass(&tokens[..n]) >= f64::from(options.top_p) * total)
            .unwrap_or(tokens.len());
        tokens.truncate(enough);
    }
    tokens.retain(|t| t.0 >= f64::from(options.min_p));
    let draw = uniform * mass(&tokens);
    let chosen = (1..=tokens.len()).find(|&n| draw < mass(&tokens[..n]));
    tokens[chosen.unwrap_or(tokens.len()) - 1].1
}

fn options() -> impl Strategy<Value = SamplingOptions> {
    (
        0.05f32..3.0,
        0usize..80,
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..0.5],
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, min_p, seed)| SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            ..SamplingOptions::default()
        })
}

/// Whole numbers, so that there are ties, over more tokens than the first sorted piece.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-12i8..4).prop_map(f32::from), 1..400)
}

proptest! {
    #[test]
    fn draws_what_the_whole_ranking_draws(logits in logits(), options in options()) {
        let mut sampler = Sampler::new(options).unwrap();
        let uniform = sampler.rng.clone().random::<f64>();
        prop_assert_eq!(sampler.sample(&logits).unwrap(), slow(&logits, &options, uniform));
    }

    #[test]
    fn keeping_one_token_is_greedy(logits in logits(), mut options in options()) {
        options.top_k = 1;
        let sampled = Sampler::new(options).unwrap().sample(&logits).unwrap();
        prop_assert_eq!(Some(sampled), Choice::GREEDY.choose(&logits));
    }
}

fn counts(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn frequencies_follow_the_tempered_softmax() {
    const DRAWS: usize = 40_000;
    let logits = [0.0f32, 1.0, 2.0, -1.0, 0.5, f32::NEG_INFINITY];
    for temperature in [0.5f32, 1.0, 2.0] {
        let options = SamplingOptions {
            temperature,
            seed: 7,
            ..SamplingOptions::default()
        };
        let weights = logits.map(|x| (x / temperature).exp());
        let total: f32 = weights.iter().sum();
        for (count, weight) in counts(options, &logits, DRAWS).iter().zip(weights) {
            let expected = f64::from(weight / total) * DRAWS as f64;
            // Five standard deviations of a binomial count.
            let tolerance = 5.0 * expected.sqrt();
            assert!(
                (*count as f64 - expected).abs() <= tolerance,
                "{count} for {expected}"
            );
        }
    }
}

#[test]
fn filters_leave_out_the_improbable() {
    // Probabilities 0.5, 0.25, 0.15, 0.1 in scrambled order.
    let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
    let base = SamplingOptions {
        temperature: 1.0,
        ..SamplingOptions::default()
    };
    let kept = |options| {
        let counts = counts(options, &logits, 2_000);
        (0..4).filter(|&id| counts[id] > 0).collect::<Vec<_>>()
    };
    assert_eq!(kept(base), [0, 1, 2, 3]);
    assert_eq!(kept(SamplingOptions { top_k: 2, ..base }), [1, 3]);
    assert_eq!(kept(SamplingOptions { top_p: 0.8, ..base }), [1, 2, 3]);
    assert_eq!(kept(SamplingOptions { min_p: 0.4, ..base }), [1, 3]);
    // Of the two that top-k leaves, the first alone holds two thirds.
    let both = SamplingOptions {
        top_k: 2,
        top_p: 0.6,
        ..base
    };
    assert_eq!(kept(both), [1]);
}

#[test]
fn the_seed_decides() {
    let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
    let draws = |seed| {
        let options = SamplingOptions {
            temperature: 1.0,
            seed,
            ..SamplingOptions::default()
        };
        let mut sampler = Sampler::new(options).unwrap();
        (0..50)
            .map(|_| sampler.sample(&logits).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(draws(3), draws(3));
    assert_ne!(draws(3), draws(4));
}

#[test]
fn penalty_lowers_what_was_seen() {
    let options = SamplingOptions {
        repetition_penalty: 2.0,
        ..SamplingOptions::default()
    };
    let mut sampler = Sampler::new(options).unwrap();
    assert_eq!(sampler.sample(&[3.0, 2.0, -1.0]).unwrap(), 0);
    // An id outside the logits, from a longer vocabulary, changes nothing.
    sampler.observe(&[0, 0, 99]);
    assert_eq!(sampler.sample(&[3.0, 2.0, -1.0]).unwrap(), 1);
    // Once per token however often seen: 3 / 2, not 3 / 4.
    assert_eq!(sampler.sample(&[3.0, 1.0, -1.0]).unwrap(), 0);
    // Negative logits grow more negative.
    assert_eq!(sampler.sample(&[-1.0, -1.5, -3.0]).unwrap(), 1);
}

#[test]
fn refuses_options_out_of_range() {
    let base = SamplingOptions::default();
    for (options, message) in [
        (
            SamplingOptions {
                temperature: -1.0,
                ..base
            },
            "temperature: -1 is not a finite number of at least 0",
        ),
        (
            SamplingOptions {
                temperature: f32::NAN,
                ..base
            },
            "temperature: NaN is not a finite number of at least 0",
        ),
        (
            SamplingOptions { top_p: 0.0, ..base },
            "top-p: 0 is not above 0 and at most 1",
        ),
        (
            SamplingOptions { min_p: 1.5, ..base },
            "min-p: 1.5 is not between 0 and 1",
        ),
        (
            SamplingOptions {
                repetition_penalty: 0.0,
                ..base
            },
            "repetition penalty: 0 is not a finite number above 0",
        ),
    ] {
        assert_eq!(Sampler::new(options).unwrap_err().to_string(), message);
    }
}

#[test]
fn refuses_logits_that_are_not_finite() {
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    for logits in [
        &[1.0, f32::NAN][..],
        &[1.0, f32::INFINITY],
        &[f32::NEG_INFINITY; 2],
        &[],
    ] {
        assert!(matches!(sampler.sample(logits), Err(Error::NotFinite)));
    }
}
