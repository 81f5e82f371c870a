//! Attention: positions, grouping, norms, and what the cache promises.

use super::noise::Noise;
use super::reference::{self, Matrix};
use super::{Failure, compare, ensure};
use crate::{AttentionInputs, AttentionSpec, Error, Inference, MixerSpec, Rope, RopePairing};

const EPSILON: f32 = 1e-6;

fn spec(heads: usize, kv_heads: usize, head_dim: usize, rotated: usize) -> AttentionSpec {
    AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        rope: Rope {
            theta: 10_000.0,
            dims: rotated,
            pairing: RopePairing::HalfSplit,
        },
        output_gate: false,
    }
}

/// A sequence: projections of its tokens, and norms of heads.
struct Sequence {
    spec: AttentionSpec,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    norms: Option<[Vec<f32>; 2]>,
}

impl Sequence {
    fn new(spec: AttentionSpec, tokens: usize, normed: bool) -> Self {
        let mut noise = Noise::new(20);
        let [wide, narrow] =
            [spec.query_width(), spec.kv_heads * spec.head_dim].map(|width| tokens * width);
        let mut values = |count: usize| -> Vec<f32> {
            // Large enough that the softmax has something to choose.
            noise.values(count).iter().map(|x| 3.0 * x).collect()
        };
        let (q, k, v) = (values(wide), values(narrow), values(narrow));
        let norms = normed.then(|| [(); 2].map(|()| noise.scales(spec.head_dim)));
        Self {
            spec,
            q,
            k,
            v,
            norms,
        }
    }

    fn expected(&self) -> Vec<f64> {
        let (wide, narrow) = (
            self.spec.query_width(),
            self.spec.kv_heads * self.spec.head_dim,
        );
        let norms = self.norms.as_ref();
        reference::attention(
            &Matrix::new(&self.q, wide),
            &Matrix::new(&self.k, narrow),
            &Matrix::new(&self.v, narrow),
            norms.map(|[q, k]| (&q[..], &k[..], EPSILON)),
            &self.spec,
        )
        .values
    }

    /// Runs tokens `range` of the sequence.
    fn attend<B: Inference>(
        &self,
        backend: &B,
        range: std::ops::Range<usize>,
        cache: &mut B::Cache,
    ) -> Result<Vec<f32>, Error> {
        let part = |x: &[f32], width: usize| {
            backend.upload(&x[range.start * width..range.end * width], width)
        };
        let narrow = self.spec.kv_heads * self.spec.head_dim;
        let q = part(&self.q, self.spec.query_width())?;
        let k = part(&self.k, narrow)?;
        let v = part(&self.v, narrow)?;
        let mut norms = Vec::new();
        for weight in self.norms.iter().flatten() {
            norms.push(backend.load_norm(weight.clone(), EPSILON)?);
        }
        let inputs = AttentionInputs {
            q: &q,
            k: &k,
            v: &v,
            q_norm: norms.first(),
            k_norm: norms.get(1),
        };
        backend.read(&backend.attention(inputs, &self.spec, cache)?)
    }

    fn width(&self) -> usize {
        self.spec.heads * self.spec.head_dim
    }
}

fn whole<B: Inference>(
    backend: &B,
    tolerance: f64,
    spec: AttentionSpec,
    normed: bool,
) -> Result<(), Failure> {
    for tokens in [1, 9, 150] {
        let sequence = Sequence::new(spec, tokens, normed);
        let mut cache = backend.new_cache(&MixerSpec::Attention(spec), tokens)?;
        let found = sequence.attend(backend, 0..tokens, &mut cache)?;
        let what = format!("attention of {tokens} tokens, {spec:?}");
        compare(what, &sequence.expected(), &found, tolerance)?;
        ensure(backend.cache_len(&cache) == tokens, || {
            "the cache does not count the tokens it was given".to_owned()
        })?;
    }
    Ok(())
}

/// One head, without norms.
pub fn attention_of_one_head<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    whole(backend, tolerance, spec(1, 1, 64, 64), false)
}

/// Six query heads over two key heads, with norms.
pub fn attention_of_grouped_heads<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    whole(backend, tolerance, spec(6, 2, 32, 32), true)
}

/// Heads of an odd width of which a part is rotated.
pub fn attention_with_partial_rotation<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    whole(backend, tolerance, spec(4, 4, 40, 10), true)
}

/// Outputs that gates have a say in.
pub fn attention_with_output_gates<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let gated = AttentionSpec {
        output_gate: true,
        ..spec(6, 2, 32, 8)
    };
    whole(backend, tolerance, gated, true)
}

/// Neighbours that rotate together.
pub fn attention_with_interleaved_rotation<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let mut interleaved = spec(4, 2, 32, 24);
    interleaved.rope.pairing = RopePairing::Interleaved;
    whole(backend, tolerance, interleaved, false)
}

/// A sequence in pieces attends as it does at once.
pub fn attention_in_chunks_is_attention_of_the_whole<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Sequence::new(spec(8, 2, 32, 32), 140, true);
    let mut cache = backend.new_cache(&MixerSpec::Attention(sequence.spec), 200)?;
    let mut found = Vec::new();
    for range in [0..1, 1..70, 70..71, 71..72, 72..139, 139..140] {
        found.extend(sequence.attend(backend, range, &mut cache)?);
    }
    compare(
        "attention in chunks",
        &sequence.expected(),
        &found,
        tolerance,
    )
}

/// A truncated cache is as if the forgotten tokens had never been.
pub fn attention_after_truncation<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Sequence::new(spec(4, 2, 32, 32), 30, true);
    let mut other = Sequence::new(sequence.spec, 30, true);
    other.k.iter_mut().for_each(|x| *x = 1.0 - *x);
    let mut cache = backend.new_cache(&MixerSpec::Attention(sequence.spec), 30)?;
    sequence.attend(backend, 0..20, &mut cache)?;
    other.attend(backend, 20..30, &mut cache)?;
    let kept = backend.truncate_cache(&mut cache, 20);
    ensure((kept, backend.cache_len(&cache)) == (20, 20), || {
        "a truncated cache keeps another number of tokens".to_owned()
    })?;
    let found = sequence.attend(backend, 20..30, &mut cache)?;
    let expected = sequence.expected().split_off(20 * sequence.width());
    compare("attention after truncation", &expected, &found, tolerance)?;
    let kept = backend.truncate_cache(&mut cache, 50);
    ensure((kept, backend.cache_len(&cache)) == (30, 30), || {
        "truncation to more than there is changed the cache".to_owned()
    })?;
    backend.truncate_cache(&mut cache, 0);
    let found = sequence.attend(backend, 0..30, &mut cache)?;
    compare(
        "attention in an emptied cache",
        &sequence.expected(),
        &found,
        tolerance,
    )
}

/// Tokens beyond the capacity are an error that leaves the cache as it was.
pub fn attention_beyond_the_capacity_is_refused<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Sequence::new(spec(2, 1, 32, 32), 12, false);
    let mut cache = backend.new_cache(&MixerSpec::Attention(sequence.spec), 10)?;
    sequence.attend(backend, 0..8, &mut cache)?;
    let refused = matches!(
        sequence.attend(backend, 8..11, &mut cache),
        Err(Error::CacheFull {
            capacity: 10,
            needed: 11
        })
    );
    ensure(refused, || {
        "eleven tokens in a cache of ten were not refused as such".to_owned()
    })?;
    ensure(backend.cache_len(&cache) == 8, || {
        "refused tokens were cached".to_owned()
    })?;
    let found = sequence.attend(backend, 8..10, &mut cache)?;
    let expected = &sequence.expected()[8 * sequence.width()..10 * sequence.width()];
    compare("attention after a refusal", expected, &found, tolerance)
}
