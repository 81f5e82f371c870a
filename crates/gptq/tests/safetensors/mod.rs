//! Just enough of the safetensors format to read golden vectors.

#![allow(dead_code, reason = "each test reads what it needs")]

use std::{fs, path::Path};

use serde_json::Value;

pub(crate) struct Golden {
    header: Value,
    data: Vec<u8>,
}

impl Golden {
    /// The file that `make_golden.py` made.
    pub(crate) fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden.safetensors");
        let mut header = fs::read(path).unwrap();
        let len = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
        let data = header.split_off(8 + len);
        Self {
            header: serde_json::from_slice(&header[8..]).unwrap(),
            data,
        }
    }

    fn entry(&self, name: &str) -> &Value {
        let entry = self.header.get(name);
        entry.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn tensor<T>(&self, name: &str, kinds: &[&str], from: impl Fn(&[u8]) -> T) -> Vec<T> {
        let entry = self.entry(name);
        let kind = entry["dtype"].as_str().unwrap();
        assert!(kinds.contains(&kind), "{name} is {kind}");
        let span = numbers(&entry["data_offsets"]);
        let width = (span[1] - span[0]) / numbers(&entry["shape"]).iter().product::<usize>();
        self.data[span[0]..span[1]]
            .chunks_exact(width)
            .map(from)
            .collect()
    }

    pub(crate) fn shape(&self, name: &str) -> [usize; 2] {
        numbers(&self.entry(name)["shape"]).try_into().unwrap()
    }

    pub(crate) fn u8(&self, name: &str) -> Vec<u8> {
        self.tensor(name, &["U8"], |bytes| bytes[0])
    }

    /// Halves, by their bits.
    pub(crate) fn u16(&self, name: &str) -> Vec<u16> {
        self.tensor(name, &["U16", "F16"], |b| {
            u16::from_le_bytes(b.try_into().unwrap())
        })
    }

    pub(crate) fn u32(&self, name: &str) -> Vec<u32> {
        self.tensor(name, &["U32", "I32"], |b| {
            u32::from_le_bytes(b.try_into().unwrap())
        })
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.tensor(name, &["F32"], |b| {
            f32::from_le_bytes(b.try_into().unwrap())
        })
    }
}

fn numbers(array: &Value) -> Vec<usize> {
    let array = array.as_array().unwrap();
    array.iter().map(|n| n.as_u64().unwrap() as usize).collect()
}
