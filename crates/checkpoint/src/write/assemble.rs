//! From the parts of a job to the shards of a checkpoint.

use std::{cmp::Reverse, collections::HashSet, io::Write};

use serde::{Serialize, Serializer};

use super::{atomic, companions, job::Job};
use crate::{
    Checkpoint, Result, Safetensors, TensorView, WriteError,
    safetensors::{Entry, write_header},
    shards::{INDEX, SINGLE},
};

/// The tensors of one leaf module, which stay together in one shard.
pub(super) struct StoredModule<'a> {
    /// The tensors' names without their last component.
    pub(super) name: &'a str,
    pub(super) tensors: Vec<TensorView<'a>>,
}

impl<'a> StoredModule<'a> {
    fn len(&self) -> u64 {
        let bytes = self.tensors.iter().map(|tensor| tensor.bytes().len());
        bytes.sum::<usize>() as u64
    }

    /// Its tensor whose name ends with `leaf`.
    pub(super) fn tensor(&self, leaf: &str) -> Option<&TensorView<'a>> {
        let leaf_of = |view: &&TensorView<'_>| split(view.name()).1 == leaf;
        self.tensors.iter().find(leaf_of)
    }
}

/// A tensor's module and what it is to it.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Writes the shards of a checkpoint made of `parts`, at most `limit` bytes each, and what belongs to the model
/// `source` beside its weights; gives the modules, for the description.
///
/// # Errors
/// [`WriteError::Duplicate`], [`crate::Error::Io`].
pub(super) fn write_weights<'a>(
    job: &Job,
    parts: &'a [Safetensors],
    source: &Checkpoint,
    limit: u64,
) -> Result<Vec<StoredModule<'a>>> {
    let modules = modules(parts).map_err(|reason| reason.at(job.dir()))?;
    write_shards(job, &modules, limit)?;
    companions::copy(source.dir(), job)?;
    Ok(modules)
}

/// The modules of `parts` in the order they were written.
///
/// # Errors
/// [`WriteError::Duplicate`].
fn modules(parts: &[Safetensors]) -> Result<Vec<StoredModule<'_>>, WriteError> {
    let mut seen = HashSet::new();
    let mut modules: Vec<StoredModule<'_>> = Vec::new();
    for tensor in parts.iter().flat_map(Safetensors::in_storage_order) {
        if !seen.insert(tensor.name()) {
            return Err(WriteError::Duplicate(tensor.name().to_owned()));
        }
        let name = split(tensor.name()).0;
        match modules.last_mut() {
            Some(last) if last.name == name => last.tensors.push(tensor),
            _ => modules.push(StoredModule {
                name,
                tensors: vec![tensor],
            }),
        }
    }
    Ok(modules)
}

/// Writes `modules` as `model.safetensors`, or as several shards of at most `limit` bytes of tensors each (more
/// only if a single module has more) with an index.
fn write_shards(job: &Job, modules: &[StoredModule<'_>], limit: u64) -> Result<()> {
    let shards = split_at(modules, limit);
    let name = |index: usize| match shards.len() {
        1 => SINGLE.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let mut index = Index {
        metadata: Metadata { total_size: 0 },
        weight_map: WeightMap(Vec::new()),
    };
    for (number, shard) in shards.iter().enumerate() {
        let mut tensors: Vec<_> = shard.iter().flat_map(|module| &module.tensors).collect();
        // Widest first, so that each tensor is aligned for its type.
        tensors.sort_by_key(|tensor| Reverse(tensor.dtype().bits()));
        let entries: Vec<_> = tensors
            .iter()
            .map(|tensor| Entry {
                name: tensor.name(),
                dtype: tensor.dtype(),
                shape: tensor.shape(),
                len: tensor.bytes().len(),
            })
            .collect();
        job.write_file(&name(number), |out| {
            write_header(out, &entries)?;
            tensors
                .iter()
                .try_for_each(|tensor| out.write_all(tensor.bytes()))
        })?;
        index.metadata.total_size += shard.iter().map(StoredModule::len).sum::<u64>();
        let placed = tensors.iter().map(|tensor| (tensor.name(), name(number)));
        index.weight_map.0.extend(placed);
    }
    if shards.len() > 1 {
        job.write_file(INDEX, atomic::json(&index))?;
    }
    Ok(())
}

/// Cuts `modules` so that each piece has at most `limit` bytes or a single module.
fn split_at<'m, 'a>(modules: &'m [StoredModule<'a>], limit: u64) -> Vec<&'m [StoredModule<'a>]> {
    let mut shards = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (number, module) in modules.iter().enumerate() {
        if number > first && bytes + module.len() > limit {
            shards.push(&modules[first..number]);
            (first, bytes) = (number, 0);
        }
        bytes += module.len();
    }
    shards.push(&modules[first..]);
    shards
}

#[derive(Serialize)]
struct Index<'a> {
    metadata: Metadata,
    weight_map: WeightMap<'a>,
}

#[derive(Serialize)]
struct Metadata {
    /// Bytes of all tensors.
    total_size: u64,
}

/// Tensors and the shards they are in.
struct WeightMap<'a>(Vec<(&'a str, String)>);

impl Serialize for WeightMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, shard)| (name, shard)))
    }
}
