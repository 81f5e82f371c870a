//! Group-quantized linears that do not fit: one line that names file, tensor and reason.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use common::{Tensors, config, folder, message};
use serde_json::{Value, json};
use treillage_checkpoint::{Checkpoint, StoredLinear};

/// What reading the linear `a` of 64 inputs and 32 outputs says.
fn read(tensors: &Tensors, quantization: &Value) -> String {
    let mut config = config();
    config["quantization_config"] = quantization.clone();
    let dir = folder(&[
        ("model.safetensors", &tensors.bytes()),
        ("config.json", config.to_string().as_bytes()),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    match checkpoint.linear("a", 64, 32) {
        Ok(StoredLinear::Grouped(_)) => "good".to_owned(),
        result => message(result, dir.path()),
    }
}

/// Tensors, any of which may be replaced or left out.
struct Good(Vec<(&'static str, &'static str, Vec<usize>, Vec<u8>)>);

impl Good {
    fn tensors(&self) -> Tensors {
        let tensors = self.0.iter();
        tensors.fold(Tensors::new(), |tensors, (name, dtype, shape, bytes)| {
            tensors.add(&format!("a.{name}"), dtype, shape, bytes)
        })
    }

    fn without(mut self, name: &str) -> Self {
        let before = self.0.len();
        self.0.retain(|tensor| tensor.0 != name);
        assert!(self.0.len() < before, "{name} was there");
        self
    }

    fn with(
        mut self,
        name: &'static str,
        dtype: &'static str,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Self {
        self.0.retain(|tensor| tensor.0 != name);
        self.0.push((name, dtype, shape.to_vec(), bytes));
        self
    }

    /// As [`Good::with`], the bytes being no matter.
    fn blank(self, name: &'static str, dtype: &'static str, shape: &[usize], width: usize) -> Self {
        let bytes = vec![0; width * shape.iter().product::<usize>()];
        self.with(name, dtype, shape, bytes)
    }
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn int4() -> Good {
    Good(Vec::new())
        .blank("weight_packed", "I32", &[32, 8], 4)
        .blank("weight_scale", "BF16", &[32, 4], 2)
        .blank("weight_zero_point", "I32", &[4, 4], 4)
        .with("weight_shape", "I64", &[2], bytes(&[32_i64, 64]))
}

fn int8() -> Good {
    Good(Vec::new())
        .blank("weight", "I8", &[32, 64], 1)
        .blank("weight_scale", "F16", &[32, 1], 2)
}

fn nvfp4() -> Good {
    Good(Vec::new())
        .blank("weight_packed", "U8", &[32, 32], 1)
        .blank("weight_scale", "F8_E4M3", &[32, 4], 1)
        .with("weight_global_scale", "F32", &[1], bytes(&[7_f32]))
}

fn mxfp4() -> Good {
    Good(Vec::new())
        .blank("weight_packed", "U8", &[32, 32], 1)
        .blank("weight_scale", "U8", &[32, 2], 1)
}

fn fp_quant() -> Good {
    let identity: Vec<f32> = (0..256)
        .map(|at| f32::from(u8::from(at % 17 == 0)))
        .collect();
    Good(Vec::new())
        .blank("qweight", "U8", &[32, 32], 1)
        .blank("scales", "U8", &[32, 4], 1)
        .with("weight_global_scale", "F32", &[1], bytes(&[7_f32]))
        .with(
            "forward_hadamard_matrix",
            "F32",
            &[16, 16],
            bytes(&identity),
        )
}

fn gptq() -> Good {
    let g_idx: Vec<i32> = (0..64).map(|i| i / 16).collect();
    Good(Vec::new())
        .blank("qweight", "I32", &[8, 32], 4)
        .blank("qzeros", "I32", &[4, 4], 4)
        .blank("scales", "F16", &[4, 32], 2)
        .with("g_idx", "I32", &[64], bytes(&g_idx))
}

/// The matrix of another order of rows, as other rotations have it.
fn swapped_hadamard() -> Vec<u8> {
    let sylvester = |at: usize| {
        let (row, column) = (at / 16, at % 16);
        let row = [1, 0].get(row).copied().unwrap_or(row);
        let even = (row & column).count_ones() % 2 == 0;
        if even { 0.25_f32 } else { -0.25 }
    };
    bytes(&(0..256).map(sylvester).collect::<Vec<f32>>())
}

fn spoiled(count: usize, at: usize, value: f32) -> Vec<u8> {
    let mut values = vec![1_f32; count];
    values[at] = value;
    bytes(&values)
}

fn index(change: impl Fn(&mut [i32])) -> Vec<u8> {
    let mut g_idx: Vec<i32> = (0..64).map(|i| i / 16).collect();
    change(&mut g_idx);
    bytes(&g_idx)
}

#[test]
fn misfits_are_named() {
    let ct = json!({"quant_method": "compressed-tensors"});
    let fp = json!({"quant_method": "fp_quant", "forward_dtype": "nvfp4"});
    let gq = json!({"quant_method": "gptq", "bits": 4});
    let none = Value::Null;
    for good in [int4(), int8(), nvfp4(), mxfp4()] {
        assert_eq!(read(&good.tensors(), &ct), "good");
        assert_eq!(read(&good.tensors(), &none), "good");
    }
    assert_eq!(read(&fp_quant().tensors(), &fp), "good");
    assert_eq!(read(&gptq().tensors(), &gq), "good");
    assert_eq!(read(&gptq().without("g_idx").tensors(), &gq), "good");

    let cases: Vec<(&Value, Good, &str)> = vec![
        // compressed-tensors, integers
        (
            &ct,
            int4().without("weight_scale"),
            "DIR: no tensor `a.weight_scale`",
        ),
        (
            &ct,
            int4().blank("weight_packed", "I32", &[32, 7], 4),
            "`a.weight_packed`: 7 words for 64 codes: they have 2, 3, 4 or 8 bits each",
        ),
        (
            &ct,
            int4().blank("weight_packed", "I32", &[31, 8], 4),
            "`a.weight_packed`: shape [31, 8], expected [32, 8]",
        ),
        (
            &ct,
            int4().blank("weight_packed", "I32", &[256], 4),
            "`a.weight_packed`: shape [256], expected 2 axes",
        ),
        (
            &ct,
            int4().blank("weight_packed", "I64", &[32, 8], 8),
            "`a.weight_packed`: dtype I64, expected I32 (integers) or U8 (E2M1)",
        ),
        (
            &ct,
            int4().blank("weight_scale", "BF16", &[32, 5], 2),
            "`a.weight_scale`: 5 groups do not divide 64 input features",
        ),
        (
            &ct,
            int4().blank("weight_scale", "BF16", &[32, 0], 2),
            "`a.weight_scale`: 0 groups do not divide 64 input features",
        ),
        (
            &ct,
            int4()
                .blank("weight_scale", "BF16", &[32, 64], 2)
                .without("weight_zero_point"),
            "`a.weight_packed`: groups of 1 do not fit 64 input features: a group is a positive, even number of inputs",
        ),
        (
            &ct,
            int4().blank("weight_scale", "BF16", &[31, 4], 2),
            "`a.weight_scale`: shape [31, 4], expected [32, 4]",
        ),
        (
            &ct,
            int4().blank("weight_scale", "I32", &[32, 4], 4),
            "`a.weight_scale`: dtype I32, expected F32, F16 or BF16",
        ),
        (
            &ct,
            int4().with("weight_scale", "F32", &[32, 4], spoiled(128, 9, f32::NAN)),
            "`a.weight_scale`: element 9 is NaN",
        ),
        (
            &ct,
            int4().blank("weight_zero_point", "I32", &[32, 4], 4),
            "`a.weight_zero_point`: shape [32, 4], expected [4, 4]",
        ),
        (
            &ct,
            int4().blank("weight_zero_point", "F32", &[4, 4], 4),
            "`a.weight_zero_point`: dtype F32, expected I32",
        ),
        (
            &ct,
            int4().with("weight_zero_point", "I8", &[32, 4], vec![8; 128]),
            "`a.weight_zero_point`: element 0 is 8, no signed number of 4 bits",
        ),
        (
            &ct,
            int4().with("weight_shape", "I64", &[2], bytes(&[64_i64, 32])),
            "`a.weight_shape`: says [64, 32], expected [32, 64]",
        ),
        (
            &ct,
            int4().with("weight_shape", "I64", &[2], bytes(&[32_i64, -64])),
            "`a.weight_shape`: says [32, -64], expected [32, 64]",
        ),
        (
            &ct,
            int4().blank("weight_shape", "F32", &[2], 4),
            "`a.weight_shape`: dtype F32, expected I64",
        ),
        (
            &ct,
            int4().with("weight_g_idx", "I32", &[64], index(|g| g[3] = 4)),
            "`a.weight_g_idx`: input 3 is in group 4, of 4",
        ),
        // compressed-tensors, bytes
        (
            &ct,
            int8().blank("weight", "I8", &[64, 32], 1),
            "`a.weight`: shape [64, 32], expected [32, 64]",
        ),
        (
            &ct,
            int8().without("weight_scale"),
            "DIR: no tensor `a.weight_scale`",
        ),
        (
            &ct,
            int8().blank("weight_zero_point", "I8", &[32, 2], 1),
            "`a.weight_zero_point`: shape [32, 2], expected [32, 1]",
        ),
        (
            &ct,
            nvfp4().without("weight_global_scale"),
            "DIR: no tensor `a.weight_global_scale`",
        ),
        (
            &ct,
            nvfp4().blank("weight_global_scale", "F32", &[1], 4),
            "`a.weight_global_scale`: is 0, expected a finite number above zero",
        ),
        (
            &ct,
            nvfp4().blank("weight_global_scale", "F32", &[2], 4),
            "`a.weight_global_scale`: shape [2], expected [1]",
        ),
        (
            &ct,
            nvfp4().with("weight_scale", "F8_E4M3", &[32, 4], vec![0xFF; 128]),
            "`a.weight_scale`: element 0 is NaN",
        ),
        (
            &ct,
            nvfp4().blank("weight_packed", "U8", &[32, 64], 1),
            "`a.weight_packed`: shape [32, 64], expected [32, 32]",
        ),
        (
            &ct,
            mxfp4().blank("weight_scale", "U8", &[32, 4], 1),
            "`a.weight_scale`: shape [32, 4], expected [32, 2]",
        ),
        (
            &ct,
            mxfp4().with("weight_scale", "U8", &[32, 2], vec![255; 64]),
            "`a.weight_scale`: element 0 is NaN",
        ),
        (
            &ct,
            mxfp4().blank("weight_scale", "F32", &[32, 2], 4),
            "`a.weight_scale`: dtype F32, expected F8_E4M3 (NVFP4) or U8 (MXFP4)",
        ),
        (
            &ct,
            mxfp4().blank("bias", "F32", &[31], 4),
            "`a.bias`: shape [31], expected [32]",
        ),
        // FP-Quant
        (
            &fp,
            fp_quant().without("forward_hadamard_matrix"),
            "DIR: no tensor `a.forward_hadamard_matrix`",
        ),
        (
            &fp,
            fp_quant().with(
                "forward_hadamard_matrix",
                "F32",
                &[16, 16],
                swapped_hadamard(),
            ),
            "`a.forward_hadamard_matrix`: neither the identity nor a Hadamard matrix in Sylvester's order, of 16, 32, \
             64 or 128 inputs",
        ),
        (
            &fp,
            fp_quant().blank("forward_hadamard_matrix", "F32", &[0, 0], 4),
            "`a.forward_hadamard_matrix`: neither the identity nor a Hadamard matrix in Sylvester's order, of 16, 32, \
             64 or 128 inputs",
        ),
        (
            &fp,
            fp_quant().blank("forward_hadamard_matrix", "F32", &[16, 8], 4),
            "`a.forward_hadamard_matrix`: shape [16, 8], expected [16, 16]",
        ),
        (
            &fp,
            fp_quant().blank("scales", "U8", &[32, 2], 1),
            "`a.scales`: shape [32, 2], expected [32, 4]",
        ),
        (
            &fp,
            fp_quant().blank("scales", "I32", &[32, 4], 4),
            "`a.scales`: dtype I32, expected U8",
        ),
        (
            &fp,
            fp_quant().blank("qweight", "I64", &[32, 32], 8),
            "`a.qweight`: dtype I64, expected U8 (fp_quant) or I32 (GPTQ)",
        ),
        (
            &fp,
            fp_quant().blank("dqweight", "BF16", &[32, 32], 2),
            "`a.dqweight`: shape [32, 32], expected [32, 64]",
        ),
        // GPTQ
        (
            &none,
            gptq(),
            "`a.qweight`: GPTQ codes need `quantization_config` in config.json, of quant_method `gptq`",
        ),
        (
            &gq,
            gptq().blank("qweight", "I32", &[9, 32], 4),
            "`a.qweight`: 9 words for 64 codes: they have 2, 3, 4 or 8 bits each",
        ),
        (
            &gq,
            gptq().blank("qweight", "I32", &[8, 33], 4),
            "`a.qweight`: shape [8, 33], expected [8, 32]",
        ),
        (
            &gq,
            gptq().blank("qzeros", "I32", &[4, 5], 4),
            "`a.qzeros`: shape [4, 5], expected [4, 4]",
        ),
        (&gq, gptq().without("qzeros"), "DIR: no tensor `a.qzeros`"),
        (
            &gq,
            gptq().blank("scales", "F16", &[3, 32], 2),
            "`a.scales`: 3 groups do not divide 64 input features",
        ),
        (
            &gq,
            gptq().blank("scales", "F16", &[4, 31], 2),
            "`a.scales`: shape [4, 31], expected [4, 32]",
        ),
        (
            &gq,
            gptq().with("scales", "F32", &[4, 32], spoiled(128, 127, f32::INFINITY)),
            "`a.scales`: element 127 is inf",
        ),
        (
            &gq,
            gptq().blank("g_idx", "I32", &[63], 4),
            "`a.g_idx`: shape [63], expected [64]",
        ),
        (
            &gq,
            gptq().blank("g_idx", "I64", &[64], 8),
            "`a.g_idx`: dtype I64, expected I32",
        ),
        (
            &gq,
            gptq().with("g_idx", "I32", &[64], index(|g| g[5] = -2)),
            "`a.g_idx`: input 5 is in group -2, of 4",
        ),
        (
            &gq,
            gptq().with("g_idx", "I32", &[64], index(|g| g[5] = 2)),
            "`a.g_idx`: group 0 has 15 inputs, expected 16",
        ),
    ];
    for (quantization, tensors, expected) in cases {
        let expected = match expected.strip_prefix('`') {
            Some(_) => format!("model.safetensors: tensor {expected}"),
            None => expected.to_owned(),
        };
        assert_eq!(read(&tensors.tensors(), quantization), expected);
    }
}

/// Rows too short to tell the width of their codes are read as the configuration says.
#[test]
fn short_rows_have_the_configured_width() {
    for (bits, levels) in [(2, 4), (3, 8), (4, 16)] {
        let mut config = config();
        config["quantization_config"] = json!({
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"weights": {"num_bits": bits, "type": "int"}}},
        });
        let tensors = Tensors::new()
            .add("a.weight_packed", "I32", &[1, 1], &[0xFF; 4])
            .f32("a.weight_scale", &[1, 1], &[1.0]);
        let dir = folder(&[
            ("model.safetensors", &tensors.bytes()),
            ("config.json", config.to_string().as_bytes()),
        ]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let StoredLinear::Grouped(linear) = checkpoint.linear("a", 4, 1).unwrap() else {
            panic!("no groups");
        };
        assert_eq!(linear.dequantize(), [levels as f32 / 2.0 - 1.0; 4]);
    }
}

/// The model's width may be none that a format has groups for.
#[test]
fn widths_without_whole_groups_are_refused() {
    let tensors = Tensors::new()
        .add("a.weight_packed", "U8", &[1, 24], &[0; 24])
        .add("a.weight_scale", "U8", &[1, 1], &[127]);
    let dir = folder(&[("model.safetensors", &tensors.bytes())]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        message(checkpoint.linear("a", 48, 1), dir.path()),
        "model.safetensors: tensor `a.weight_packed`: groups of 32 do not fit 48 input features: they must divide them"
    );
}
