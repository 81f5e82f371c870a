//! Small checkpoints for other programs to read, and theirs read back: what `cargo xtask interop` runs.
//!
//! - `write DIR` writes, for every layout and number format, a checkpoint `DIR/NAME` and beside its weights
//!   `expected.safetensors` with the values that its linears stand for, in f32.
//! - `read DIR…` reads the linears that `expected.safetensors` of each checkpoint names, in the shapes that stand there,
//!   and writes their values to `dequantized.safetensors` in f32.
//! - `models DIR` writes the fixture, rounded to nearest in several formats and laid out for compressed-tensors, to
//!   `DIR/NAME`, and what that stands for, in bf16, to `DIR/NAME-dense`.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests stops at the first thing that does not work"
)]

#[path = "../tests/common/grouped.rs"]
mod grouped;

use std::{env, fs, path::Path};

use grouped::{CASES, LINEARS};
use serde_json::{Map, Value, json};
use treillage_checkpoint::{
    Checkpoint, DenseSettings, DenseTensor, DenseWriter, Export, GroupedSettings, GroupedWriter,
    Module, Safetensors, StoredLinear,
};
use treillage_gptq::{
    Config, Format, GroupedLinear, IntBits, Parts, Rotation, ScaleType, choose_scales, pack,
    round_to_nearest,
};

const EXPECTED: &str = "expected.safetensors";
const DEQUANTIZED: &str = "dequantized.safetensors";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir] => write(Path::new(dir)),
        ["models", dir] => models(Path::new(dir)),
        ["read", ref dirs @ ..] => dirs.iter().for_each(|dir| read(Path::new(dir))),
        _ => {
            eprintln!("usage: interop write DIR | interop models DIR | interop read DIR…");
            std::process::exit(2);
        }
    }
}

fn fixture() -> Checkpoint {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/micro-qwen3_moe");
    Checkpoint::open(fixture).unwrap()
}

fn write(dir: &Path) {
    let source = fixture();
    for case in &CASES {
        let out = dir.join(case.name);
        case.write(&out, case.settings(), &source).unwrap();
        let linears = LINEARS.iter().enumerate();
        let values = linears.map(|(number, (name, [inputs, outputs]))| {
            let values = case.linear(number).dequantize();
            ((*name).to_owned(), [*outputs, *inputs], values)
        });
        save(&out.join(EXPECTED), values);
    }
}

fn models(dir: &Path) {
    let source = fixture();
    for format in [Format::Int(IntBits::Four), Format::NvFp4, Format::MxFp4] {
        let mut settings = GroupedSettings::new(Export::CompressedTensors, format);
        let mut config = Config::new(format);
        config.scale_type = ScaleType::Bf16;
        if let Format::Int(_) = format {
            (settings.group, config.group) = (Some(32), 32);
        }
        let (mut linears, mut dense, mut dequantized) = (Vec::new(), Vec::new(), Vec::new());
        for name in source.names() {
            let tensor = source.dense(name).unwrap();
            let Some(prefix) = name
                .strip_suffix(".weight")
                .filter(|p| p.ends_with("_proj"))
            else {
                dense.push(tensor.clone());
                dequantized.push(tensor);
                continue;
            };
            let linear = rounded(&tensor, &config);
            let values = linear.dequantize();
            dequantized.push(DenseTensor::new(name, tensor.shape(), values).unwrap());
            linears.push((prefix.to_owned(), linear));
        }
        let quantized = linears.iter().map(|(name, linear)| Module::Grouped {
            name,
            linear,
            activation_scale: None,
        });
        let modules: Vec<_> = quantized.chain(dense.iter().map(Module::Tensor)).collect();
        let all = || vec!["all".to_owned()];
        let out = dir.join(format.name());
        let writer = GroupedWriter::create_or_resume(out, settings, all()).unwrap();
        writer.write_group("all", &modules).unwrap();
        writer.finish(&source).unwrap();

        let out = dir.join(format!("{format}-dense"));
        let writer = DenseWriter::create_or_resume(out, DenseSettings::default(), all()).unwrap();
        writer.write_group("all", &dequantized).unwrap();
        writer.finish(&source).unwrap();
    }
}

/// `weight` rounded to nearest.
fn rounded(weight: &DenseTensor, config: &Config) -> GroupedLinear {
    let &[out_features, in_features] = weight.shape() else {
        unreachable!("linears are matrices")
    };
    let values = weight.to_f32();
    let scales = choose_scales(&values, out_features, in_features, config, None).unwrap();
    let codes = round_to_nearest(&values, out_features, in_features, &scales, config).unwrap();
    let element = config.format.element();
    GroupedLinear::new(Parts {
        in_features,
        out_features,
        element,
        group: config.group,
        codes: pack::to_stored(codes, element),
        scales: scales.scales,
        zeros: scales.zeros,
        order: None,
        rotation: Rotation::None,
        bias: None,
    })
    .unwrap()
}

fn read(dir: &Path) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let expected = Safetensors::open(dir.join(EXPECTED)).unwrap();
    let names = expected.header().names();
    let values = names.map(|name| {
        let shape: [usize; 2] = expected.tensor(name).unwrap().shape().try_into().unwrap();
        let values = match checkpoint.linear(name, shape[1], shape[0]).unwrap() {
            StoredLinear::Grouped(linear) => linear.dequantize(),
            StoredLinear::Dense { weight, .. } => weight.to_f32(),
            StoredLinear::Trellis(_) => unreachable!("no EXL3 here"),
        };
        (name.to_owned(), shape, values)
    });
    save(&dir.join(DEQUANTIZED), values);
}

/// Writes tensors in f32 as a safetensors file.
fn save(path: &Path, tensors: impl Iterator<Item = (String, [usize; 2], Vec<f32>)>) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytemuck::cast_slice(&values));
        let offsets = [begin, data.len()];
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
}
