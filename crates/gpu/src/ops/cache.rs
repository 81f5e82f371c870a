//! What one layer keeps of one sequence.

use treillage_backend::{Error, MixerSpec, Room};

use super::attention::KvCache;
use super::delta::DeltaCache;
use super::latent::LatentCache;
use super::rope::RopeTables;
use crate::Context;

/// What one layer keeps of one sequence, on the device: keys and values, latents, or a recurrent state.
#[derive(Debug)]
pub struct Cache(Kind);

#[derive(Debug)]
enum Kind {
    Attention(KvCache),
    Latent(LatentCache),
    Delta(DeltaCache),
}

impl Cache {
    pub(crate) fn new(
        context: &Context,
        tables: &RopeTables,
        spec: &MixerSpec,
        capacity: usize,
    ) -> Result<Self, Error> {
        spec.check()?;
        Ok(Self(match spec {
            MixerSpec::Attention(spec) => {
                Kind::Attention(KvCache::new(context, tables, spec, capacity)?)
            }
            MixerSpec::Latent(spec) => {
                Kind::Latent(LatentCache::new(context, tables, spec, capacity)?)
            }
            MixerSpec::Delta(spec) => Kind::Delta(DeltaCache::new(context, spec, capacity)?),
        }))
    }

    fn room(&self) -> &Room {
        match &self.0 {
            Kind::Attention(cache) => &cache.room,
            Kind::Latent(cache) => &cache.room,
            Kind::Delta(cache) => &cache.room,
        }
    }

    /// Tokens in it.
    pub(crate) fn len(&self) -> usize {
        self.room().len
    }

    /// Makes the tokens there are now a point that can be gone back to.
    pub(crate) fn mark(&mut self, context: &Context) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Attention(_) | Kind::Latent(_) => Ok(()),
            Kind::Delta(cache) => cache.mark(context),
        }
    }

    /// Forgets all but the first `len` tokens, or more where it has to.
    pub(crate) fn truncate(&mut self, context: &Context, len: usize) -> usize {
        match &mut self.0 {
            Kind::Attention(cache) => cache.room.truncate(len),
            Kind::Latent(cache) => cache.room.truncate(len),
            Kind::Delta(cache) => cache.truncate(context, len),
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
