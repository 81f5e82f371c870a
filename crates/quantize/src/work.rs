use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use treillage_checkpoint::{Checkpoint, DenseTensor, Module, write_atomically};
use treillage_model::{
    Weights,
    plan::{BlockPlan, EMBEDDING, FINAL_NORM, LinearPlan, ModelPlan},
};

use crate::{
    CalibrationTokens, Error, Folded, LinearSummary, Options, encode::QuantizedLinear,
    writer::Writer,
};

/// A part of the model that is written at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Embedding,
    Block(usize),
    Head,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Embedding => f.write_str("embedding"),
            Group::Block(index) => write!(f, "block-{index}"),
            Group::Head => f.write_str("head"),
        }
    }
}

/// What a run has put on disk. Each group is there as a whole or not at all, so that they alone tell how far an
/// interrupted run came.
pub(crate) struct Work<'a> {
    writer: Writer,
    groups: Vec<Group>,
    source: &'a Checkpoint,
}

impl<'a> Work<'a> {
    /// Begins in an empty folder, or goes on in one where the same run was interrupted, on what encodes the same.
    pub(crate) fn open(
        out: &Path,
        source: &'a Checkpoint,
        plan: &ModelPlan,
        tokens: &CalibrationTokens,
        options: &Options,
        encodes_as: &str,
    ) -> Result<Self, Error> {
        let fingerprint = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "source": identity(source.dir())?,
            "tokens": format!("{:016x}", tokens.fingerprint()),
            "options": options,
            "device": encodes_as,
        });
        let blocks = plan.blocks.iter().map(|block| Group::Block(block.index));
        let groups: Vec<Group> = [Group::Embedding]
            .into_iter()
            .chain(blocks)
            .chain([Group::Head])
            .collect();
        let names = groups.iter().map(Group::to_string).collect();
        Ok(Self {
            writer: Writer::open(out, tokens, options, fingerprint, names)?,
            groups,
            source,
        })
    }

    /// Whether every group is on disk.
    pub(crate) fn is_complete(&self) -> bool {
        self.writer.pending().next().is_none()
    }

    /// Whether `group` is on disk.
    pub(crate) fn has(&self, group: Group) -> bool {
        let name = group.to_string();
        self.writer.pending().all(|pending| pending != name)
    }

    /// What an earlier run of this work chose under `name`, or what `choose` gives, from then on kept.
    pub(crate) fn chosen<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        choose: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.writer.state_dir().join(format!("{name}.json"));
        match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let chosen = choose()?;
                if self.is_complete() {
                    // An earlier process was assembling the checkpoint, and may have begun to clean up.
                    return Ok(chosen);
                }
                write_atomically(&path, |out| Ok(serde_json::to_writer(out, &chosen)?))?;
                Ok(chosen)
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// From now on linears say what their inputs are rotated with, if they are: so many at a time.
    pub(crate) fn set_online_rotation(&mut self, block: Option<usize>) {
        self.writer.set_rotation(block);
    }

    /// The model with the tensors of `group` as they were written, and no others.
    pub(crate) fn written(&self, group: Group) -> Result<Checkpoint, Error> {
        Ok(self.writer.written(&group.to_string(), self.source)?)
    }

    /// Writes the embedding of `source`.
    pub(crate) fn write_embedding(&self, source: &Folded<'_>) -> Result<(), Error> {
        let table = source.dense(EMBEDDING)?;
        let modules = [Module::Tensor(&table)];
        Ok(self
            .writer
            .write_group(&Group::Embedding.to_string(), &modules)?)
    }

    /// Writes a block: what is kept of `source`, and its quantized linears.
    pub(crate) fn write_block(
        &self,
        source: &Folded<'_>,
        plan: &BlockPlan,
        linears: &[QuantizedLinear],
    ) -> Result<(), Error> {
        let kept: Vec<DenseTensor> = plan
            .kept
            .iter()
            .map(|name| source.dense(name))
            .collect::<Result<_, _>>()?;
        let kept = kept.iter().map(|tensor| {
            // Of the matrices those of routers and gates are not quantized.
            match tensor.name().strip_suffix(".weight") {
                Some(name) if tensor.shape().len() == 2 => Module::Linear {
                    name,
                    weight: tensor,
                    bias: None,
                },
                _ => Module::Tensor(tensor),
            }
        });
        let modules = kept.chain(linears.iter().map(module)).collect::<Vec<_>>();
        self.write(Group::Block(plan.index), &modules, linears)
    }

    /// Writes the final norm and the quantized head.
    pub(crate) fn write_head(
        &self,
        source: &Folded<'_>,
        head: &[QuantizedLinear],
    ) -> Result<(), Error> {
        let norm = source.dense(FINAL_NORM)?;
        let modules: Vec<_> = [Module::Tensor(&norm)]
            .into_iter()
            .chain(head.iter().map(module))
            .collect();
        self.write(Group::Head, &modules, head)
    }

    /// Writes the final norm and the head as it is; none, if the source has none but its embedding.
    pub(crate) fn keep_head(&self, source: &Folded<'_>, plan: &LinearPlan) -> Result<(), Error> {
        let norm = source.dense(FINAL_NORM)?;
        let head = match source.has_linear(&plan.prefix) {
            true => Some(source.dense(&format!("{}.weight", plan.prefix))?),
            false => None,
        };
        let head = head.as_ref().map(|weight| Module::Linear {
            name: &plan.prefix,
            weight,
            bias: None,
        });
        let modules: Vec<_> = [Module::Tensor(&norm)].into_iter().chain(head).collect();
        self.write(Group::Head, &modules, &[])
    }

    /// Writes a group, and before it what there is to say of its linears, so that whoever finds it finds that too.
    fn write(
        &self,
        group: Group,
        modules: &[Module<'_>],
        linears: &[QuantizedLinear],
    ) -> Result<(), Error> {
        let summaries: Vec<_> = linears.iter().map(|linear| &linear.summary).collect();
        write_atomically(&self.summary_path(group), |out| {
            Ok(serde_json::to_writer(out, &summaries)?)
        })?;
        Ok(self.writer.write_group(&group.to_string(), modules)?)
    }

    /// What there is to say of all linears written, in their order.
    pub(crate) fn summaries(&self) -> Result<Vec<LinearSummary>, Error> {
        let mut all = Vec::new();
        for &group in &self.groups {
            let path = self.summary_path(group);
            match fs::read(&path) {
                Ok(bytes) => all.extend(parse::<Vec<LinearSummary>>(&path, &bytes)?),
                // The embedding has none, nor has any group once an earlier process assembled the checkpoint.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Read { path, source }),
            }
        }
        Ok(all)
    }

    fn summary_path(&self, group: Group) -> PathBuf {
        self.writer.state_dir().join(format!("{group}.json"))
    }

    /// Turns the groups into a checkpoint.
    pub(crate) fn finish(self) -> Result<(), Error> {
        Ok(self.writer.finish(self.source)?)
    }
}

fn module(linear: &QuantizedLinear) -> Module<'_> {
    linear.codes.module(&linear.summary.prefix)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Read {
        path: path.to_owned(),
        source: e.into(),
    })
}

/// What tells the files of a checkpoint from other files, without reading them all: their names, sizes and times.
fn identity(dir: &Path) -> Result<Value, Error> {
    let unreadable = |source| Error::Read {
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "config.json" || name.ends_with(".safetensors") {
            let metadata = fs::metadata(entry.path()).map_err(unreadable)?;
            let modified = metadata.modified().map_err(unreadable)?;
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            files.push(json!([name, metadata.len(), since.as_nanos().to_string()]));
        }
    }
    files.sort_by_key(Value::to_string);
    Ok(Value::Array(files))
}
