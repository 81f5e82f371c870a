//! The tensors of a checkpoint folder: one safetensors file, or several with or without an index.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de};

use crate::{
    Error, Result, TensorView,
    error::quoted,
    json,
    mmap::MappedFile,
    safetensors::{Safetensors, TensorInfo},
};

/// The index that Hugging Face writes beside several shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The file of weights where there is just one.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Largest index accepted, in bytes: a million tensors have a third of this.
const LARGEST_INDEX: u64 = 256 << 20;

/// Why shards do not make one checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A folder without weights.
    #[error("no .safetensors file")]
    NoWeights,
    /// Not JSON, or without a `weight_map` of strings.
    #[error("not a valid index: {0}")]
    Json(serde_json::Error),
    /// A shard outside the folder.
    #[error("shard {0} is not a file name")]
    ShardName(String),
    /// A shard that the index names and the folder lacks.
    #[error("shard `{0}` is missing")]
    MissingShard(String),
    /// A tensor that the index names and its shard lacks.
    #[error("tensor {name} is not in shard `{shard}` where the index says it is")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The shard.
        shard: String,
    },
    /// A tensor in more than one place.
    #[error("tensor {0} is listed twice")]
    Duplicate(String),
}

/// All tensors of a checkpoint, by name.
pub(crate) struct Shards {
    files: Vec<Arc<MappedFile>>,
    /// Sorted by name; the number is the file's.
    tensors: Vec<(usize, TensorInfo)>,
}

impl Shards {
    /// Opens what the index of `dir` names or, if there is none, the files that are there.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let index = dir.join(INDEX);
        if index.exists() {
            Self::open_indexed(dir, &index)
        } else {
            Self::open_all(dir)
        }
    }

    fn open_all(dir: &Path) -> Result<Self> {
        let index_error = |reason| Error::Index {
            file: dir.to_owned(),
            reason,
        };
        let (mut files, mut tensors) = (Vec::new(), Vec::new());
        for path in safetensors_files(dir)? {
            let (file, stored) = Safetensors::open(&path)?.into_parts();
            tensors.extend(stored.into_iter().map(|tensor| (files.len(), tensor)));
            files.push(file);
        }
        if files.is_empty() {
            return Err(index_error(IndexError::NoWeights));
        }
        let shards = Self::new(files, tensors);
        let same = |pair: &&[(usize, TensorInfo)]| pair[0].1.name == pair[1].1.name;
        match shards.tensors.windows(2).find(same) {
            Some(pair) => Err(index_error(IndexError::Duplicate(quoted(&pair[0].1.name)))),
            None => Ok(shards),
        }
    }

    fn open_indexed(dir: &Path, path: &Path) -> Result<Self> {
        let index_error = |reason| Error::Index {
            file: path.to_owned(),
            reason,
        };
        let bytes = json::read_bytes(path, LARGEST_INDEX)?;
        let WeightMap(mut listed) = WeightMap::parse(&bytes).map_err(index_error)?;
        // By shard, then by name: each shard is opened once, its tensors taken in the order it has them.
        listed.sort_unstable_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));

        let (mut files, mut tensors) = (Vec::new(), Vec::new());
        for of_one_shard in listed.chunk_by(|a, b| a.1 == b.1) {
            let shard = &of_one_shard[0].1;
            let path = dir.join(shard);
            if !path.exists() {
                return Err(index_error(IndexError::MissingShard(shard.clone())));
            }
            let (file, stored) = Safetensors::open(&path)?.into_parts();
            let mut stored = stored.into_iter();
            for (name, _) in of_one_shard {
                let Some(tensor) = stored.find(|tensor| &*tensor.name == name) else {
                    return Err(index_error(IndexError::MissingTensor {
                        name: quoted(name),
                        shard: shard.clone(),
                    }));
                };
                tensors.push((files.len(), tensor));
            }
            files.push(file);
        }
        if files.is_empty() {
            return Err(index_error(IndexError::NoWeights));
        }
        Ok(Self::new(files, tensors))
    }

    /// The tensors of one safetensors file.
    pub(crate) fn open_file(path: &Path) -> Result<Self> {
        let (file, stored) = Safetensors::open(path)?.into_parts();
        let tensors = stored.into_iter().map(|tensor| (0, tensor)).collect();
        Ok(Self::new(vec![file], tensors))
    }

    fn new(files: Vec<Arc<MappedFile>>, mut tensors: Vec<(usize, TensorInfo)>) -> Self {
        tensors.sort_unstable_by(|a, b| a.1.name.cmp(&b.1.name));
        Self { files, tensors }
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let index = self
            .tensors
            .binary_search_by(|(_, tensor)| (*tensor.name).cmp(name))
            .ok()?;
        Some(self.view(&self.tensors[index]))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|entry| self.view(entry))
    }

    /// The tensors whose names begin with `prefix`.
    pub(crate) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = TensorView<'_>> {
        let first = self.tensors.partition_point(|(_, t)| &*t.name < prefix);
        self.tensors[first..]
            .iter()
            .take_while(move |(_, t)| t.name.starts_with(prefix))
            .map(|entry| self.view(entry))
    }

    fn view<'a>(&'a self, (file, tensor): &'a (usize, TensorInfo)) -> TensorView<'a> {
        TensorView::new(&self.files[*file], tensor)
    }
}

/// `model.safetensors` of `dir` or, if there is none, all its safetensors files in the order of their names.
fn safetensors_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let read_error = |cause| Error::io("read", dir, cause);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Tensor names and their shards, each name once.
struct WeightMap(Vec<(String, String)>);

impl WeightMap {
    fn parse(index: &[u8]) -> Result<Self, IndexError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: WeightMap,
        }
        let Index {
            weight_map: WeightMap(mut listed),
        } = serde_json::from_slice(index).map_err(IndexError::Json)?;
        listed.sort_unstable();
        if let Some(pair) = listed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(IndexError::Duplicate(quoted(&pair[0].0)));
        }
        // A file beside the index and nowhere else: an index must not reach outside its folder.
        let is_file_name = |shard: &str| {
            Path::new(shard).file_name().is_some_and(|n| n == shard)
                && !shard.contains(['/', '\\', ':'])
                && !shard.chars().any(char::is_control)
        };
        match listed.iter().find(|(_, shard)| !is_file_name(shard)) {
            Some((_, shard)) => Err(IndexError::ShardName(quoted(shard))),
            None => Ok(Self(listed)),
        }
    }
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to shards")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut listed = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    listed.push(entry);
                }
                Ok(WeightMap(listed))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Checks an index for well-formedness; the part of opening shards that needs no other file.
///
/// # Errors
/// [`IndexError::Json`], [`IndexError::Duplicate`] or [`IndexError::ShardName`].
pub fn check_index(index: &[u8]) -> Result<(), IndexError> {
    WeightMap::parse(index).map(|_| ())
}
