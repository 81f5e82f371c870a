//! Group-quantized linears of arbitrary numbers, and the checkpoints that can hold them.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

use std::path::Path;

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use treillage_checkpoint::{
    Checkpoint, DenseTensor, Export, GroupedSettings, GroupedWriter, Module, Result, StoredLinear,
};
use treillage_gptq::{
    Element, Format, GroupedLinear, IntBits, Parts, Rotation, ScaleType, Scales, pack,
};

/// What a checkpoint holds.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) export: Export,
    pub(crate) format: Format,
    /// `None` is one scale for each output.
    pub(crate) group: Option<usize>,
    pub(crate) symmetric: bool,
    pub(crate) scale_type: ScaleType,
    /// Of the first linear; the others have smaller ones, or none.
    pub(crate) rotation: Rotation,
    pub(crate) bias: bool,
}

const INT4: Case = Case {
    name: "",
    export: Export::CompressedTensors,
    format: Format::Int(IntBits::Four),
    group: Some(32),
    symmetric: true,
    scale_type: ScaleType::Bf16,
    rotation: Rotation::None,
    bias: false,
};

const GPTQ: Case = Case {
    export: Export::Gptq,
    scale_type: ScaleType::F16,
    ..INT4
};

const MXFP4: Case = Case {
    format: Format::MxFp4,
    ..INT4
};

const NVFP4: Case = Case {
    format: Format::NvFp4,
    group: Some(16),
    ..INT4
};

const fn int(bits: IntBits) -> Format {
    Format::Int(bits)
}

/// Every layout with every format that it has.
pub(crate) const CASES: [Case; 19] = [
    Case {
        name: "ct-int4",
        ..INT4
    },
    Case {
        name: "ct-int4-f16-bias",
        scale_type: ScaleType::F16,
        bias: true,
        ..INT4
    },
    Case {
        name: "ct-int4-asymmetric",
        symmetric: false,
        ..INT4
    },
    Case {
        name: "ct-int4-channel",
        group: None,
        ..INT4
    },
    Case {
        name: "ct-int4-channel-asymmetric",
        group: None,
        symmetric: false,
        ..INT4
    },
    Case {
        name: "ct-int8",
        format: int(IntBits::Eight),
        group: Some(128),
        ..INT4
    },
    Case {
        name: "ct-int8-asymmetric",
        format: int(IntBits::Eight),
        symmetric: false,
        ..INT4
    },
    Case {
        name: "ct-nvfp4",
        ..NVFP4
    },
    Case {
        name: "ct-mxfp4",
        bias: true,
        ..MXFP4
    },
    Case {
        name: "fp_quant-nvfp4",
        export: Export::FpQuant,
        rotation: Rotation::Block(64),
        bias: true,
        ..NVFP4
    },
    Case {
        name: "fp_quant-mxfp4",
        export: Export::FpQuant,
        rotation: Rotation::Block(128),
        ..MXFP4
    },
    Case {
        name: "fp_quant-mxfp4-unrotated",
        export: Export::FpQuant,
        ..MXFP4
    },
    Case {
        name: "gptq-int2",
        format: int(IntBits::Two),
        ..GPTQ
    },
    Case {
        name: "gptq-int3",
        format: int(IntBits::Three),
        ..GPTQ
    },
    Case {
        name: "gptq-int3-asymmetric",
        format: int(IntBits::Three),
        symmetric: false,
        bias: true,
        ..GPTQ
    },
    Case {
        name: "gptq-int4",
        group: Some(128),
        bias: true,
        ..GPTQ
    },
    Case {
        name: "gptq-int4-asymmetric",
        symmetric: false,
        ..GPTQ
    },
    Case {
        name: "gptq-int4-channel",
        group: None,
        ..GPTQ
    },
    Case {
        name: "gptq-int8-asymmetric",
        format: int(IntBits::Eight),
        symmetric: false,
        ..GPTQ
    },
];

/// Linears of a checkpoint: names and sizes, `[in, out]`.
pub(crate) const LINEARS: [(&str, [usize; 2]); 3] = [
    ("model.layers.0.self_attn.q_proj", [128, 256]),
    ("model.layers.0.mlp.experts.0.down_proj", [384, 64]),
    ("model.layers.1.mlp.experts.3.up_proj", [128, 96]),
];

impl Case {
    pub(crate) fn named(name: &str) -> &'static Self {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    pub(crate) fn settings(&self) -> GroupedSettings {
        let mut settings = GroupedSettings::new(self.export, self.format);
        settings.group = self.group;
        settings.symmetric = self.symmetric;
        if let Rotation::Block(size) = self.rotation {
            settings.rotation = Some(size);
        }
        settings
    }

    /// The linear `number` of [`LINEARS`].
    pub(crate) fn linear(&self, number: usize) -> GroupedLinear {
        let [in_features, out_features] = LINEARS[number].1;
        let rotation = match (self.rotation, number) {
            (Rotation::Block(_), 1) => Rotation::Block(32),
            (Rotation::Block(_), 2) => Rotation::None,
            (rotation, _) => rotation,
        };
        self.random(in_features, out_features, rotation, number as u64)
    }

    /// A linear whose numbers depend on `seed` alone.
    pub(crate) fn random(
        &self,
        in_features: usize,
        out_features: usize,
        rotation: Rotation,
        seed: u64,
    ) -> GroupedLinear {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let element = self.format.element();
        let group = self.group.unwrap_or(in_features);
        let groups = out_features * (in_features / group);
        let largest = match element {
            Element::Int(bits) => (bits.levels() - 1) as u8,
            Element::E2m1 => 15,
        };
        let mut codes =
            |n: usize| -> Vec<u8> { (0..n).map(|_| rng.random_range(0..=largest)).collect() };
        let wide = codes(in_features * out_features);
        let zeros = (!self.symmetric).then(|| codes(groups));
        let mut scale = || rng.random_range(0.01..0.2_f32);
        let scales = match (self.format, self.scale_type) {
            (Format::NvFp4, _) => Scales::E4m3 {
                global: 1234.5,
                bytes: (0..groups).map(|_| rng.random_range(1..=0x7E)).collect(),
            },
            (Format::MxFp4, _) => Scales::E8m0 {
                global: if self.export == Export::FpQuant {
                    3.0
                } else {
                    1.0
                },
                bytes: (0..groups).map(|_| rng.random_range(110..=127)).collect(),
            },
            (_, ScaleType::F16) => {
                Scales::F16((0..groups).map(|_| f16::from_f32(scale())).collect())
            }
            (_, ScaleType::Bf16) => {
                Scales::Bf16((0..groups).map(|_| bf16::from_f32(scale())).collect())
            }
        };
        let bias = self.bias.then(|| {
            let bias = (0..out_features).map(|i| (i as f32 - 7.0) / 8.0);
            bias.collect()
        });
        GroupedLinear::new(Parts {
            in_features,
            out_features,
            element,
            group,
            codes: pack::to_stored(wide, element),
            scales,
            zeros,
            order: None,
            rotation,
            bias,
        })
        .unwrap()
    }

    /// FP-Quant's factor of NVFP4 activations.
    pub(crate) fn activation_scale(&self) -> Option<f32> {
        (self.export == Export::FpQuant && self.format == Format::NvFp4).then_some(321.0)
    }

    /// Writes a checkpoint with [`LINEARS`], a router and a norm, described by `source`, group by group.
    pub(crate) fn write(
        &self,
        out: &Path,
        settings: GroupedSettings,
        source: &Checkpoint,
    ) -> Result<()> {
        let groups = LINEARS.map(|(name, _)| name.to_owned());
        let groups = [&groups[..], &["rest".to_owned()]].concat();
        let writer = GroupedWriter::create_or_resume(out, settings, groups)?;
        let pending: Vec<_> = writer.pending().map(str::to_owned).collect();
        for group in &pending {
            match LINEARS.iter().position(|(name, _)| name == group) {
                Some(number) => {
                    let module = Module::Grouped {
                        name: group,
                        linear: &self.linear(number),
                        activation_scale: self.activation_scale(),
                    };
                    writer.write_group(group, &[module])?;
                }
                None => {
                    let [norm, router] = rest();
                    let router = Module::Linear {
                        name: "model.layers.0.mlp.gate",
                        weight: &router,
                        bias: None,
                    };
                    writer.write_group(group, &[Module::Tensor(&norm), router])?;
                }
            }
        }
        writer.finish(source)
    }

    /// [`Case::write`] into a folder that is gone with the first of the two.
    pub(crate) fn written(&self, source: &Checkpoint) -> (TempDir, Checkpoint) {
        let out = tempfile::tempdir().unwrap();
        self.write(out.path(), self.settings(), source).unwrap();
        let checkpoint = Checkpoint::open(out.path()).unwrap();
        (out, checkpoint)
    }
}

/// The linear `prefix`, `[in, out]`, which is one of groups.
pub(crate) fn read(
    checkpoint: &Checkpoint,
    prefix: &str,
    [inputs, outputs]: [usize; 2],
) -> GroupedLinear {
    assert!(checkpoint.has_linear(prefix), "{prefix}");
    match checkpoint.linear(prefix, inputs, outputs).unwrap() {
        StoredLinear::Grouped(linear) => linear,
        _ => panic!("{prefix} has no groups"),
    }
}

/// A norm in single precision and a router in half.
pub(crate) fn rest() -> [DenseTensor; 2] {
    let norm = DenseTensor::new("model.norm.weight", [3], vec![1.0, -0.3, 1e-3]).unwrap();
    let router: Vec<f16> = (0..4 * 128)
        .map(|i| f16::from_f32(i as f32 / 64.0))
        .collect();
    let router = DenseTensor::new("named by the module", [4, 128], router).unwrap();
    [norm, router]
}
