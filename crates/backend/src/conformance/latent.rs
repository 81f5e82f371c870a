//! Latent attention: in whatever form a backend computes it, and whatever the expansion is stored as.

use std::ops::Range;

use treillage_gptq::{Format, IntBits};
use treillage_trellis::Codebook;

use super::grouped::Make;
use super::layer::{Layer, Storage};
use super::noise::Noise;
use super::reference::{self, Matrix};
use super::{Failure, compare, ensure};
use crate::{Error, Inference, LatentInputs, LatentSpec, MixerSpec, Rope, RopePairing};

const EPSILON: f32 = 1e-6;

/// A sequence: projections of its tokens, the norm of latents, and the expansion.
pub(super) struct Latents {
    pub(super) spec: LatentSpec,
    q: Vec<f32>,
    latent: Vec<f32>,
    norm: Vec<f32>,
    expansion: Layer,
}

impl Latents {
    pub(super) fn new(tokens: usize, storage: Storage) -> Result<Self, Error> {
        let spec = LatentSpec {
            heads: 3,
            nope_dim: 24,
            value_dim: 40,
            rank: 48,
            rope: Rope {
                theta: 10_000.0,
                dims: 16,
                pairing: RopePairing::Interleaved,
            },
            scale: 1.0 / 40f32.sqrt(),
        };
        let mut noise = Noise::new(21);
        let mut values = |count: usize| -> Vec<f32> {
            // Large enough that the softmax has something to choose.
            noise.values(count).iter().map(|x| 2.0 * x).collect()
        };
        Ok(Self {
            q: values(tokens * spec.heads * spec.query_dim()),
            latent: values(tokens * spec.cached_width()),
            norm: noise.scales(spec.rank),
            expansion: Layer::new(&mut noise, storage, spec.expansion(), false)?,
            spec,
        })
    }

    pub(super) fn load<B: Inference>(&self, backend: &B) -> Result<B::Expansion, Error> {
        backend.load_expansion(self.expansion.weights.clone(), &self.spec)
    }

    /// The output, and the normed latents.
    pub(super) fn expected(&self) -> (Matrix, Matrix) {
        reference::latent_attention(
            &Matrix::new(&self.q, self.spec.heads * self.spec.query_dim()),
            &Matrix::new(&self.latent, self.spec.cached_width()),
            (&self.norm, EPSILON),
            |latent| self.expansion.apply(latent),
            &self.spec,
        )
    }

    /// Runs tokens `range` of the sequence.
    pub(super) fn attend<B: Inference>(
        &self,
        backend: &B,
        expansion: &B::Expansion,
        range: Range<usize>,
        cache: &mut B::Cache,
    ) -> Result<Vec<f32>, Error> {
        let part = |x: &[f32], width: usize| {
            backend.upload(&x[range.start * width..range.end * width], width)
        };
        let inputs = LatentInputs {
            q: &part(&self.q, self.spec.heads * self.spec.query_dim())?,
            latent: &part(&self.latent, self.spec.cached_width())?,
            norm: &backend.load_norm(self.norm.clone(), EPSILON)?,
        };
        backend.read(&backend.latent_attention(inputs, expansion, &self.spec, cache)?)
    }

    /// Runs the sequence in pieces and compares what they give.
    fn check<B: Inference>(
        &self,
        backend: &B,
        tolerance: f64,
        pieces: &[Range<usize>],
    ) -> Result<(), Failure> {
        let expansion = self.load(backend)?;
        let tokens = pieces.last().map_or(0, |piece| piece.end);
        let mut cache = backend.new_cache(&MixerSpec::Latent(self.spec), tokens)?;
        let mut found = Vec::new();
        for piece in pieces {
            found.extend(self.attend(backend, &expansion, piece.clone(), &mut cache)?);
        }
        ensure(backend.cache_len(&cache) == tokens, || {
            "the cache does not count the tokens it was given".to_owned()
        })?;
        let what = format!("latent attention of {pieces:?}");
        compare(what, &self.expected().0.values, &found, tolerance)
    }
}

/// One token, a few and many.
pub fn latent_attention_of_the_whole<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    for tokens in [1, 9, 150] {
        Latents::new(tokens, Storage::F32)?.check(
            backend,
            tolerance,
            std::slice::from_ref(&(0..tokens)),
        )?;
    }
    Ok(())
}

/// A sequence in pieces, short ones late among them, attends as it does at once.
pub fn latent_attention_in_chunks_is_that_of_the_whole<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let pieces = [0..1, 1..70, 70..71, 71..72, 72..139, 139..141, 141..150];
    Latents::new(150, Storage::F32)?.check(backend, tolerance, &pieces)
}

/// A truncated cache is as if the forgotten tokens had never been; one too many is refused and changes nothing.
pub fn latent_attention_after_truncation<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let sequence = Latents::new(30, Storage::Bf16)?;
    let expansion = sequence.load(backend)?;
    let mut cache = backend.new_cache(&MixerSpec::Latent(sequence.spec), 20)?;
    sequence.attend(backend, &expansion, 0..12, &mut cache)?;
    sequence.attend(backend, &expansion, 20..25, &mut cache)?;
    let refused = sequence.attend(backend, &expansion, 0..4, &mut cache);
    let refused = matches!(
        refused,
        Err(Error::CacheFull {
            capacity: 20,
            needed: 21
        })
    );
    ensure(refused, || {
        "21 tokens in a cache of 20 were not refused as such".to_owned()
    })?;
    let kept = backend.truncate_cache(&mut cache, 12);
    ensure((kept, backend.cache_len(&cache)) == (12, 12), || {
        "a truncated cache keeps another number of tokens".to_owned()
    })?;
    let found = sequence.attend(backend, &expansion, 12..20, &mut cache)?;
    let width = sequence.spec.heads * sequence.spec.value_dim;
    let expected = &sequence.expected().0.values[12 * width..20 * width];
    compare(
        "latent attention after truncation",
        expected,
        &found,
        tolerance,
    )
}

/// Expansions in 16 bits, in trellis codes and in groups, which a backend may keep in 16 bits.
pub fn latent_attention_of_stored_expansions<B: Inference>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let int4 = Storage::Grouped(Make::new(Format::Int(IntBits::Four)));
    let trellis = Storage::Trellis(4, Codebook::Mul1);
    for storage in [Storage::F16, Storage::Bf16, trellis, int4] {
        let sequence = Latents::new(70, storage)?;
        sequence.check(backend, tolerance.max(1e-3), &[0..69, 69..70])?;
    }
    Ok(())
}
