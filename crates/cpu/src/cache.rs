//! What one layer keeps of one sequence.

use treillage_backend::{Error, MixerSpec};

use crate::attention::{KvCache, LatentCache};
use crate::delta::DeltaCache;

/// What one layer keeps of one sequence, in f32. It grows with the tokens it holds, a recurrent state apart.
#[derive(Debug)]
pub struct Cache(Kind);

#[derive(Debug)]
enum Kind {
    Attention(KvCache),
    Latent(LatentCache),
    Delta(DeltaCache),
}

impl Cache {
    pub(crate) fn new(spec: &MixerSpec, capacity: usize) -> Result<Self, Error> {
        spec.check()?;
        Ok(Self(match spec {
            MixerSpec::Attention(spec) => Kind::Attention(KvCache::new(spec, capacity)),
            MixerSpec::Latent(spec) => Kind::Latent(LatentCache::new(spec, capacity)),
            MixerSpec::Delta(spec) => Kind::Delta(DeltaCache::new(spec, capacity)),
        }))
    }

    /// Tokens in it.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Kind::Attention(cache) => cache.len(),
            Kind::Latent(cache) => cache.len(),
            Kind::Delta(cache) => cache.len(),
        }
    }

    /// Makes the tokens there are now a point that can be gone back to.
    pub(crate) fn mark(&mut self) {
        match &mut self.0 {
            Kind::Attention(_) | Kind::Latent(_) => {}
            Kind::Delta(cache) => cache.mark(),
        }
    }

    /// Forgets all but the first `len` tokens, or more where it has to.
    pub(crate) fn truncate(&mut self, len: usize) -> usize {
        match &mut self.0 {
            Kind::Attention(cache) => cache.truncate(len),
            Kind::Latent(cache) => cache.truncate(len),
            Kind::Delta(cache) => cache.truncate(len),
        }
        self.len()
    }

    pub(crate) fn keys_and_values(&mut self) -> Result<&mut KvCache, Error> {
        match &mut self.0 {
            Kind::Attention(cache) => Ok(cache),
            _ => Err(Error::WrongCache("attention")),
        }
    }

    pub(crate) fn latents(&mut self) -> Result<&mut LatentCache, Error> {
        match &mut self.0 {
            Kind::Latent(cache) => Ok(cache),
            _ => Err(Error::WrongCache("latent attention")),
        }
    }

    pub(crate) fn state(&mut self) -> Result<&mut DeltaCache, Error> {
        match &mut self.0 {
            Kind::Delta(cache) => Ok(cache),
            _ => Err(Error::WrongCache("the delta rule")),
        }
    }
}
