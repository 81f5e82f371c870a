//! Artifacts that belong together, and what can be asked of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    artifact::{Artifact, Error},
    results::{DecodeResult, DecodeSettings, Device, GptqResult, Spread, Step},
};

/// Artifacts, each with its file's name, and the steps of the suite that wrote them, if it was one.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Without those of suites.
    pub(crate) artifacts: Vec<(String, Artifact)>,
    pub(crate) steps: Vec<Step>,
    /// Results that are not of the form that their measurement has, and why.
    pub(crate) unreadable: Vec<String>,
    pub(crate) decoded: Vec<Decoded>,
    pub(crate) gptq: Vec<GptqResult>,
    /// The suite's own artifact.
    pub(crate) suite: Option<Artifact>,
}

/// A result of `decode`, and what it is a result of.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    processor: Option<String>,
    pub(crate) device: Device,
    pub(crate) settings: DecodeSettings,
    pub(crate) result: DecodeResult,
}

impl Evidence {
    /// The artifacts in `paths`. A suite's stands for all that it names, which lie beside it.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn read(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut evidence = Self::default();
        for path in paths {
            let artifact = Artifact::read(path)?;
            if artifact.measurement != "suite" {
                evidence.add(path, artifact);
                continue;
            }
            for result in &artifact.results {
                let step: Step =
                    serde_json::from_value(result.clone()).map_err(|source| Error::Fields {
                        path: path.clone(),
                        source,
                    })?;
                if let Some(name) = &step.artifact {
                    let beside = path.with_file_name(name);
                    evidence.add(&beside, Artifact::read(&beside)?);
                }
                evidence.steps.push(step);
            }
            evidence.suite = Some(artifact);
        }
        Ok(evidence)
    }

    /// Every artifact in `folder`, oldest first, for a history. What cannot be read is named in the second list: old files of other
    /// versions are no reason to fail.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn read_folder(folder: &Path) -> Result<(Vec<Self>, Vec<String>), Error> {
        let mut artifacts = Vec::new();
        let mut unreadable = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            let is_json = path
                .extension()
                .is_some_and(|extension| extension == "json");
            if !is_json || path.file_name().is_some_and(|name| name == "summary.json") {
                continue;
            }
            match Artifact::read(&path) {
                Ok(artifact) if artifact.measurement == "suite" => {}
                Ok(artifact) => artifacts.push((artifact.unix_time, path, artifact)),
                Err(error) => unreadable.push(error.to_string()),
            }
        }
        artifacts.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        unreadable.sort();
        let alone = |(_, path, artifact): (u64, PathBuf, Artifact)| {
            let mut evidence = Self::default();
            evidence.add(&path, artifact);
            evidence
        };
        Ok((artifacts.into_iter().map(alone).collect(), unreadable))
    }

    fn add(&mut self, path: &Path, artifact: Artifact) {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy().into_owned();
        match &*artifact.measurement {
            "decode" => self.add_decoded(&name, &artifact),
            "gptq" => {
                for result in &artifact.results {
                    if let Some(result) = self.parse(&name, result) {
                        self.gptq.push(result);
                    }
                }
            }
            _ => {}
        }
        self.artifacts.push((name, artifact));
    }

    fn add_decoded(&mut self, name: &str, artifact: &Artifact) {
        let Some(settings) = self.parse::<DecodeSettings>(name, &artifact.settings) else {
            return;
        };
        for result in &artifact.results {
            let Some(result) = self.parse::<DecodeResult>(name, result) else {
                continue;
            };
            // As the CPU's backend describes itself.
            let device = match result.device.starts_with("CPU") {
                true => Device::Cpu,
                false => Device::Gpu,
            };
            self.decoded.push(Decoded {
                processor: artifact.machine.processor.clone(),
                device,
                settings: settings.clone(),
                result,
            });
        }
    }

    fn parse<T: DeserializeOwned>(&mut self, name: &str, value: &Value) -> Option<T> {
        match T::deserialize(value) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.unreadable.push(format!("{name}: {error}"));
                None
            }
        }
    }

    /// Why there is no result of this kind: what the suite says, or that nobody measured it. `None` stands for any.
    pub(crate) fn reason(
        &self,
        measurement: &str,
        device: Device,
        preset: Option<&str>,
        path: Option<crate::results::Path>,
        bits: Option<Spread>,
    ) -> String {
        fn agrees<T: PartialEq>(step: &Option<T>, asked: Option<T>) -> bool {
            step.is_none() || asked.is_none() || *step == asked
        }
        let said = self.steps.iter().find_map(|step| {
            let fits = step.measurement == measurement
                && agrees(&step.device, Some(device))
                && agrees(&step.preset.as_deref(), preset)
                && agrees(&step.path, path)
                && agrees(&step.bits, bits);
            step.unavailable.clone().filter(|_| fits)
        });
        said.unwrap_or_else(|| "not measured in this run".to_owned())
    }

    /// The newest artifact: the one that tells machine and commit.
    pub(crate) fn newest(&self) -> Option<&Artifact> {
        let all = self.artifacts.iter().map(|(_, artifact)| artifact);
        all.chain(&self.suite)
            .max_by_key(|artifact| artifact.unix_time)
    }
}

impl Decoded {
    /// Bits per weight, in words.
    pub(crate) fn bpw(&self) -> String {
        let bits = self.result.bpw.as_ref().unwrap_or(&self.settings.bits);
        let bits = match bits {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match (&*self.settings.format, self.settings.head_bits) {
            ("trellis", Some(head)) => format!("{bits} bpw, head {head}"),
            ("trellis", None) => format!("{bits} bpw"),
            (format, _) => format.to_owned(),
        }
    }

    /// `8 of 47 layers`, where not all of the model was measured.
    pub(crate) fn cut(&self) -> Option<String> {
        let settings = &self.settings;
        let part = |have: usize, all: Option<usize>, what: &str| match all {
            Some(all) if all == have => None,
            Some(all) => Some(format!("{have} of {all} {what}")),
            None => Some(format!("{have} {what}")),
        };
        let layers = part(settings.layers, settings.model_layers, "layers");
        let tokens = part(settings.vocabulary, settings.model_vocabulary, "tokens");
        let parts: Vec<String> = layers.into_iter().chain(tokens).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// All that two results must share, path and arithmetic aside, for their times to be of the same work.
    pub(crate) fn work(&self) -> String {
        let settings = &self.settings;
        format!(
            "{} {} {} {} {} {} {} {} {} {}",
            settings.preset,
            self.result.device,
            self.processor.as_deref().unwrap_or_default(),
            settings.codebook.as_deref().unwrap_or_default(),
            settings.layers,
            settings.vocabulary,
            self.result.bits.name(),
            self.bpw(),
            settings.prompt_tokens,
            settings.decoded_tokens
        )
    }
}
