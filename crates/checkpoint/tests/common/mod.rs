//! A second, plain writer of safetensors and folders to read from: the tests do not trust the crate's own.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;
use treillage_checkpoint::{Checkpoint, Error, StoredLinear};
use treillage_trellis::PackedLinear;

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/micro-qwen3_moe")
}

/// The folder of shared data, or `None`, said aloud, where there is none.
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("TREILLAGE_SHARED").map_or(default, PathBuf::from);
    let path = path.join(part);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// The fixture's `config.json`.
pub(crate) fn config() -> Value {
    serde_json::from_slice(&fs::read(fixture().join("config.json")).unwrap()).unwrap()
}

/// `length header data` with whatever the test wants to lie about.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

/// Tensors to be put into a file.
#[derive(Clone, Default)]
pub(crate) struct Tensors {
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Tensors {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add(mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        let begin = self.data.len();
        self.data.extend_from_slice(bytes);
        self.header.insert(
            name.into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, self.data.len()]}),
        );
        self
    }

    pub(crate) fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.add(name, "F32", shape, bytemuck::cast_slice(values))
    }

    pub(crate) fn f16(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let values: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        self.add(name, "F16", shape, bytemuck::cast_slice(&values))
    }

    pub(crate) fn bf16(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let values: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
        self.add(name, "BF16", shape, bytemuck::cast_slice(&values))
    }

    pub(crate) fn i16(self, name: &str, shape: &[usize], values: &[u16]) -> Self {
        self.add(name, "I16", shape, bytemuck::cast_slice(values))
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.add(name, "I32", &[], &[1, 2, 3, 4])
    }

    /// A trellis of `[in, out]` with arbitrary words.
    pub(crate) fn trellis(self, prefix: &str, shape: [usize; 2], bits: usize) -> Self {
        let tiles = shape.map(|n| n / 16);
        let words: Vec<u16> = (0..tiles[0] * tiles[1] * 16 * bits)
            .map(|e| (e * 40503 + 12345) as u16)
            .collect();
        let shape = [tiles[0], tiles[1], 16 * bits];
        self.i16(&format!("{prefix}.trellis"), &shape, &words)
    }

    /// `suh` and `svh` of such a trellis.
    pub(crate) fn scales(self, prefix: &str, shape: [usize; 2]) -> Self {
        self.f16(&format!("{prefix}.suh"), &[shape[0]], &ramp(shape[0]))
            .f16(&format!("{prefix}.svh"), &[shape[1]], &ramp(shape[1]))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        raw(&Value::Object(self.header.clone()).to_string(), &self.data)
    }
}

/// `n` small numbers, all different and exact in 16 bits for the first few hundred.
pub(crate) fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 - 7.0) / 8.0).collect()
}

/// A folder with the fixture's config and the given files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        fixture().join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// A checkpoint of one file, with its folder.
pub(crate) fn checkpoint(tensors: &Tensors) -> (TempDir, Checkpoint) {
    let dir = folder(&[("model.safetensors", &tensors.bytes())]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// The error's message, which is one line and names something of `dir`; given back without that path.
pub(crate) fn message<T>(result: Result<T, Error>, dir: &Path) -> String {
    let message = match result {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    assert!(!message.contains('\n'), "several lines: {message}");
    let dir = dir.display().to_string();
    assert!(message.contains(&dir), "names no file: {message}");
    message.replace(&format!("{dir}/"), "").replace(&dir, "DIR")
}

pub(crate) fn trellis(checkpoint: &Checkpoint, prefix: &str, shape: [usize; 2]) -> PackedLinear {
    match checkpoint.linear(prefix, shape[0], shape[1]).unwrap() {
        StoredLinear::Trellis(packed) => packed,
        _ => panic!("{prefix} is no trellis"),
    }
}
