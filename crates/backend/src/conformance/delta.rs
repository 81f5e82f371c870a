//! The gated delta rule: token by token, in chunks, and from where a state can be gone back to.

use std::ops::Range;

use super::noise::Noise;
use super::reference::{self, Matrix};
use super::{Failure, compare, ensure};
use crate::{DeltaInputs, DeltaSpec, DeltaWeights, Error, Inference, MixerSpec};

/// A sequence: projections of its tokens, and what the rule has of its own.
struct Sequence {
    spec: DeltaSpec,
    qkvz: Vec<f32>,
    ba: Vec<f32>,
    weights: DeltaWeights,
}

const SMALL: DeltaSpec = DeltaSpec {
    key_heads: 2,
    value_heads: 6,
    key_dim: 20,
    value_dim: 12,
    kernel: 4,
};
const WIDE: DeltaSpec = DeltaSpec {
    key_heads: 1,
    value_heads: 2,
    key_dim: 128,
    value_dim: 128,
    kernel: 3,
};

impl Sequence {
    fn new(spec: DeltaSpec, tokens: usize) -> Self {
        let mut noise = Noise::new(22);
        let mut scaled = |count: usize, scale: f32, shift: f32| -> Vec<f32> {
            noise
                .values(count)
                .iter()
                .map(|x| scale * x + shift)
                .collect()
        };
        Self {
            qkvz: scaled(tokens * spec.projected(), 2.0, 0.0),
            ba: scaled(tokens * 2 * spec.value_heads, 3.0, 0.0),
            weights: DeltaWeights {
                conv: scaled(spec.channels() * spec.kernel, 1.0, 0.0),
                // From states that hardly fade to some that are gone at once.
                log_rate: scaled(spec.value_heads, 4.0, -1.0),
                time_bias: scaled(spec.value_heads, 2.0, -2.0),
                norm: scaled(spec.value_dim, 0.5, 1.0),
                epsilon: 1e-6,
            },
            spec,
        }
    }

    fn expected(&self) -> Vec<f64> {
        reference::delta_rule(
            &Matrix::new(&self.qkvz, self.spec.projected()),
            &Matrix::new(&self.ba, 2 * self.spec.value_heads),
            &self.weights,
            &self.spec,
        )
        .values
    }

    fn load<B: Inference>(&self, backend: &B) -> Result<B::DeltaRule, Error> {
        backend.load_delta(self.weights.clone(), &self.spec)
    }

    fn cache<B: Inference>(&self, backend: &B, capacity: usize) -> Result<B::Cache, Error> {
        backend.new_cache(&MixerSpec::Delta(self.spec), capacity)
    }

    /// Runs tokens `range` of the sequence.
    fn run<B: Inference>(
        &self,
        backend: &B,
        rule: &B::DeltaRule,
        range: Range<usize>,
        cache: &mut B::Cache,
    ) -> Result<Vec<f32>, Error> {
        let part = |x: &[f32], width: usize| {
            backend.upload(&x[range.start * width..range.end * width], width)
        };
        let inputs = DeltaInputs {
            qkvz: &part(&self.qkvz, self.spec.projected())?,
            ba: &part(&self.ba, 2 * self.spec.value_heads)?,
        };
        backend.read(&backend.delta_rule(inputs, rule, &self.spec, cache)?)
    }

    /// Runs the sequence in pieces and compares what they give.
    fn check<B: Inference>(
        &self,
        backend: &B,
        tolerance: f64,
        pieces: &[Range<usize>],
    ) -> Result<(), Failure> {
        let rule = self.load(backend)?;
        let tokens = pieces.last().map_or(0, |piece| piece.end);
        let mut cache = self.cache(backend, tokens)?;
        let mut found = Vec::new();
        for piece in pieces {
            found.extend(self.run(backend, &rule, piece.clone(), &mut cache)?);
        }
        ensure(backend.cache_len(&cache) == tokens, || {
            "the cache does not count the tokens it was given".to_owned()
        })?;
        let what = format!("delta rule over {pieces:?}");
        compare(what, &self.expected(), &found, tolerance)
    }
}

/// One token, a few, and more than one chunk of whatever length.
pub fn delta_rules_over_the_whole<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    for spec in [SMALL, WIDE] {
        for tokens in [1, 5, 64, 150] {
            Sequence::new(spec, tokens).check(
                backend,
                tolerance,
                std::slice::from_ref(&(0..tokens)),
            )?;
        }
    }
    Ok(())
}

/// The state and the convolution's tail go on from piece to piece, also where pieces are shorter than the tail.
pub fn delta_rules_in_chunks_are_those_of_the_whole<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    for spec in [SMALL, WIDE] {
        let pieces = [
            0..1,
            1..3,
            3..70,
            70..71,
            71..72,
            72..140,
            140..142,
            142..150,
        ];
        Sequence::new(spec, 150).check(backend, tolerance, &pieces)?;
        let by_token: Vec<Range<usize>> = (0..40).map(|t| t..t + 1).collect();
        Sequence::new(spec, 40).check(backend, tolerance, &by_token)?;
    }
    Ok(())
}

/// A state goes back to its mark, as often as asked for; before the mark there is only the beginning.
pub fn delta_rules_go_back_to_marks<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Sequence::new(SMALL, 30);
    let (expected, width) = (sequence.expected(), SMALL.values());
    let rule = sequence.load(backend)?;
    let mut cache = sequence.cache(backend, 30)?;
    let kept = |kept: usize, expected: usize, cache: &B::Cache| {
        ensure(
            (kept, backend.cache_len(cache)) == (expected, expected),
            || format!("{expected} tokens should have remained, {kept} did"),
        )
    };
    sequence.run(backend, &rule, 0..7, &mut cache)?;
    backend.mark_cache(&mut cache)?;
    for len in [20, 7] {
        sequence.run(backend, &rule, 7..25, &mut cache)?;
        let remaining = backend.truncate_cache(&mut cache, 25);
        kept(remaining, 25, &cache)?;
        let remaining = backend.truncate_cache(&mut cache, len);
        kept(remaining, 7, &cache)?;
    }
    let found = sequence.run(backend, &rule, 7..30, &mut cache)?;
    compare(
        "delta rule from a mark on",
        &expected[7 * width..],
        &found,
        tolerance,
    )?;
    let remaining = backend.truncate_cache(&mut cache, 6);
    kept(remaining, 0, &cache)?;
    let found = sequence.run(backend, &rule, 0..30, &mut cache)?;
    compare(
        "delta rule in an emptied cache",
        &expected,
        &found,
        tolerance,
    )?;
    // The mark is forgotten with the tokens it stood for.
    let remaining = backend.truncate_cache(&mut cache, 20);
    kept(remaining, 0, &cache)
}

/// Tokens beyond the capacity are an error that leaves the state as it was.
pub fn delta_rules_beyond_the_capacity_are_refused<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Sequence::new(SMALL, 12);
    let rule = sequence.load(backend)?;
    let mut cache = sequence.cache(backend, 10)?;
    sequence.run(backend, &rule, 0..8, &mut cache)?;
    let refused = sequence.run(backend, &rule, 8..11, &mut cache);
    let refused = matches!(
        refused,
        Err(Error::CacheFull {
            capacity: 10,
            needed: 11
        })
    );
    ensure(refused, || {
        "eleven tokens in a cache of ten were not refused as such".to_owned()
    })?;
    let found = sequence.run(backend, &rule, 8..10, &mut cache)?;
    let expected = &sequence.expected()[8 * SMALL.values()..10 * SMALL.values()];
    compare("delta rule after a refusal", expected, &found, tolerance)
}
