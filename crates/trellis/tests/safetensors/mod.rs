//! Just enough of the safetensors format to read golden vectors.

use std::{fs, path::Path, sync::Arc};

use half::f16;
use serde_json::Value;
use treillage_trellis::{Codebook, PackedLinear, PackedParts, scales};

pub(crate) struct Golden {
    header: Value,
    data: Vec<u8>,
}

impl Golden {
    pub(crate) fn open(path: &Path) -> Self {
        let mut header = fs::read(path).unwrap();
        let len = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
        let data = header.split_off(8 + len);
        Self {
            header: serde_json::from_slice(&header[8..]).unwrap(),
            data,
        }
    }

    /// The prefixes (`codebook.kBITS`) of the linears in the file.
    pub(crate) fn linears(&self) -> Vec<&str> {
        let names = self.header.as_object().unwrap().keys();
        names
            .filter_map(|name| name.strip_suffix(".trellis"))
            .collect()
    }

    fn tensor<T>(&self, name: &str, from: impl Fn(&[u8]) -> T) -> Option<(Vec<usize>, Vec<T>)> {
        let entry = self.header.get(name)?;
        let numbers = |key: &str| -> Vec<usize> {
            let array = entry[key].as_array().unwrap();
            array.iter().map(|n| n.as_u64().unwrap() as usize).collect()
        };
        let (shape, span) = (numbers("shape"), numbers("data_offsets"));
        let width = (span[1] - span[0]) / shape.iter().product::<usize>();
        let values = self.data[span[0]..span[1]].chunks_exact(width).map(from);
        Some((shape, values.collect()))
    }

    pub(crate) fn u16(&self, name: &str) -> Option<(Vec<usize>, Vec<u16>)> {
        self.tensor(name, |b| u16::from_le_bytes(b.try_into().unwrap()))
    }

    pub(crate) fn f16(&self, name: &str) -> Option<Vec<f16>> {
        Some(self.u16(name)?.1.into_iter().map(f16::from_bits).collect())
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.tensor(name, |b| f32::from_le_bytes(b.try_into().unwrap()))
            .unwrap()
            .1
    }

    /// The linear stored under `prefix`, legacy sign fields expanded.
    pub(crate) fn linear(&self, prefix: &str) -> PackedLinear {
        let (shape, words) = self.u16(&format!("{prefix}.trellis")).unwrap();
        let scale = |new: &str, old: &str| {
            self.f16(&format!("{prefix}.{new}")).unwrap_or_else(|| {
                scales::expand_signs(&self.u16(&format!("{prefix}.{old}")).unwrap().1)
            })
        };
        PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape: shape.try_into().unwrap(),
            codebook: self.codebook(prefix),
            suh: scale("suh", "su"),
            svh: scale("svh", "sv"),
            bias: self.f16(&format!("{prefix}.bias")),
        })
        .unwrap()
    }

    /// What the presence of a flag tensor says, its value checked.
    fn codebook(&self, prefix: &str) -> Codebook {
        let flagged = Codebook::ALL.into_iter().find(|codebook| {
            let flag = self.tensor(&format!("{prefix}.{codebook}"), |b| {
                u32::from_le_bytes(b.try_into().unwrap())
            });
            flag.is_some_and(|(_, value)| {
                assert_eq!(Some(value[0]), codebook.flag());
                true
            })
        });
        flagged.unwrap_or(Codebook::ThreeInst)
    }
}
