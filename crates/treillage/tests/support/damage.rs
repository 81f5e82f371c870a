//! Checkpoints with something wrong in them.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value};

use crate::support::fixture;

/// A copy of the fixture model that a test may damage.
pub(crate) struct Model(PathBuf);

impl Model {
    pub(crate) fn copy_to(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        for entry in fs::read_dir(fixture("micro-qwen3_moe")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        Self(dir)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Changes `config.json`.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.file("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(config.as_object_mut().unwrap());
        fs::write(path, config.to_string()).unwrap();
    }

    /// Changes the bytes of the weights, header included.
    pub(crate) fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.file("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    /// Changes the header of the weights.
    pub(crate) fn relabel(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        self.damage(|bytes| {
            let (mut header, data) = parse(bytes);
            change(&mut header);
            let header = Value::Object(header).to_string();
            let mut file = (header.len() as u64).to_le_bytes().to_vec();
            file.extend(header.bytes());
            file.extend(data);
            *bytes = file;
        });
    }

    /// Overwrites the first value of a bf16 tensor.
    pub(crate) fn poison(&self, tensor: &str, value: [u8; 2]) {
        self.damage(|bytes| {
            let (header, data) = parse(bytes);
            let offset = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
            let start = bytes.len() - data.len() + offset;
            bytes[start..start + 2].copy_from_slice(&value);
        });
    }
}

/// Header and data of a safetensors file.
fn parse(bytes: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header, bytes[8 + length..].to_vec())
}
