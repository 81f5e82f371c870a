//! One face for the writers of all layouts.

use std::path::{Path, PathBuf};

use serde_json::Value;
use treillage_checkpoint::{
    Checkpoint, Exl3Settings, Exl3Writer, GroupedSettings, GroupedWriter, Module, Result,
};

use crate::{CalibrationTokens, Method, Options};

/// Writes a checkpoint group by group.
pub(crate) enum Writer {
    Exl3(Exl3Writer),
    Grouped(GroupedWriter),
}

impl Writer {
    /// Begins or goes on with the groups `names` of a run in `out`.
    pub(crate) fn open(
        out: &Path,
        tokens: &CalibrationTokens,
        options: &Options,
        fingerprint: Value,
        names: Vec<String>,
    ) -> Result<Self> {
        match &options.method {
            Method::Trellis(trellis) => {
                let settings = Exl3Settings {
                    codebook: trellis.codebook,
                    calibration_rows: tokens.rows().len(),
                    calibration_cols: tokens.cols(),
                    out_scales: trellis.out_scales,
                    uniform_experts: trellis.uniform_experts,
                    fingerprint,
                    ..Exl3Settings::default()
                };
                Ok(Self::Exl3(Exl3Writer::create_or_resume(
                    out, settings, names,
                )?))
            }
            Method::MrGptq(gptq) => {
                let settings = GroupedSettings {
                    group: Some(gptq.group),
                    act_order: gptq.act_order,
                    damping: options.recipe.damping,
                    fingerprint,
                    ..GroupedSettings::new(gptq.export, gptq.format)
                };
                Ok(Self::Grouped(GroupedWriter::create_or_resume(
                    out, settings, names,
                )?))
            }
        }
    }

    pub(crate) fn pending(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Writer::Exl3(writer) => Box::new(writer.pending()),
            Writer::Grouped(writer) => Box::new(writer.pending()),
        }
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        match self {
            Writer::Exl3(writer) => writer.state_dir(),
            Writer::Grouped(writer) => writer.state_dir(),
        }
    }

    pub(crate) fn written(&self, group: &str, source: &Checkpoint) -> Result<Checkpoint> {
        match self {
            Writer::Exl3(writer) => writer.written(group, source),
            Writer::Grouped(writer) => writer.written(group, source),
        }
    }

    pub(crate) fn write_group(&self, group: &str, modules: &[Module<'_>]) -> Result<()> {
        match self {
            Writer::Exl3(writer) => writer.write_group(group, modules),
            Writer::Grouped(writer) => writer.write_group(group, modules),
        }
    }

    pub(crate) fn set_rotation(&mut self, block: Option<usize>) {
        if let Writer::Grouped(writer) = self {
            writer.set_rotation(block);
        }
    }

    pub(crate) fn finish(self, source: &Checkpoint) -> Result<()> {
        match self {
            Writer::Exl3(writer) => writer.finish(source),
            Writer::Grouped(writer) => writer.finish(source),
        }
    }
}
