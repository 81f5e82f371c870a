//! Ten thousand damaged files: no panic, and no more memory than the file accounts for.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
};

use common::{Tensors, config, fixture, folder, ramp};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use treillage_checkpoint::{Checkpoint, Header, ModelConfig, Quantization, check_index};

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        PEAK.set(PEAK.get().max(LIVE.get()));
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What small things may take whatever the file: messages, paths, the first elements of a list.
const SMALL: usize = 4096;

/// How many bytes in memory one byte of a file may become: at once, and together.
#[derive(Clone, Copy)]
struct Width(usize, usize);

/// Tables: read into structures no wider than their text.
const TABLE: Width = Width(1, 4);
/// Configurations: kept as JSON values, of which a text of two characters makes one of a few words.
const JSON: Width = Width(8, 32);

/// Calls `read` and checks its memory against the size of what it read.
fn measured<T>(len: usize, width: Width, read: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = read();
    let (largest, peak) = (LARGEST.get(), PEAK.get() - before);
    let Width(at_once, together) = width;
    assert!(
        largest <= at_once * len + SMALL,
        "{largest} bytes at once for a file of {len}"
    );
    assert!(
        peak <= together * len + SMALL,
        "{peak} bytes for a file of {len}"
    );
    result
}

/// Numbers at which careless arithmetic breaks.
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "1",
    "127",
    "128",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
];

/// Pieces of what these files are made of.
const PIECES: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "\"F4\"",
    "\"F8_E4M3\"",
    "\"I16\"",
    "\"shape\"",
    "\"data_offsets\"",
    "\\u0000",
    "__metadata__",
];

/// Damages `bytes` in one to four places.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        let span = at..(at + rng.random_range(1..=24)).min(bytes.len());
        match rng.random_range(0..9) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(span)),
            4 => {
                let copy = bytes[span].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let piece = PIECES[rng.random_range(0..PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
            6 => {
                let other = rng.random_range(0..bytes.len());
                bytes.swap(at, other);
            }
            // A number, where there is one behind this place, becomes another.
            _ => {
                let digit = |b: &u8| b.is_ascii_digit();
                if let Some(begin) = bytes[at..].iter().position(digit).map(|n| at + n) {
                    let len = bytes[begin..].iter().take_while(|b| digit(b)).count();
                    let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
                    bytes.splice(begin..begin + len, number.bytes());
                }
            }
        }
    }
}

/// Calls `read` with `cases` damaged copies of `good` and returns how many it still accepted.
fn survivors(seed: u64, cases: usize, good: &[u8], mut read: impl FnMut(&[u8]) -> bool) -> usize {
    assert!(read(good), "the original is good");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut accepted = 0;
    for case in 0..cases {
        let mut bytes = good.to_vec();
        mutate(&mut bytes, &mut rng);
        // Says which case it was, should it panic.
        let at = Panicking(seed, case);
        accepted += usize::from(read(&bytes));
        drop(at);
    }
    accepted
}

struct Panicking(u64, usize);

impl Drop for Panicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("case {} of seed {}", self.1, self.0);
        }
    }
}

/// A little of everything: dtypes, shapes, metadata.
fn file() -> Tensors {
    Tensors::new()
        .trellis("q", [128, 128], 1)
        .scales("q", [128, 128])
        .flag("q.mul1")
        .f32("q.bias", &[128], &ramp(128))
        .bf16("model.norm.weight", &[4], &ramp(4))
        .f16("gate.weight", &[3, 5], &ramp(15))
        .bf16("m.experts.gate_up_proj", &[2, 2, 3], &ramp(12))
        .bf16("m.experts.down_proj", &[2, 3, 1], &ramp(6))
        .add("e.weight", "F8_E4M3", &[2, 3], &[1, 2, 3, 4, 5, 6])
        .f32("e.weight_scale", &[], &[0.5])
        .add("empty", "U8", &[0], &[])
}

/// One linear of 32 inputs and 32 outputs in each layout with groups.
fn grouped() -> Tensors {
    let words = |n: usize| -> Vec<u8> { (0..4 * n).map(|i| (i * 37) as u8).collect() };
    let g_idx: Vec<i32> = (0..32).map(|i| i % 2).collect();
    let identity: Vec<f32> = (0..256)
        .map(|at| f32::from(u8::from(at % 17 == 0)))
        .collect();
    Tensors::new()
        .add("i.weight_packed", "I32", &[32, 4], &words(128))
        .bf16("i.weight_scale", &[32, 2], &ramp(64))
        .add("i.weight_zero_point", "I32", &[4, 2], &words(8))
        .add("i.weight_g_idx", "I32", &[32], bytemuck::cast_slice(&g_idx))
        .add(
            "i.weight_shape",
            "I64",
            &[2],
            bytemuck::cast_slice(&[32_i64, 32]),
        )
        .add("b.weight", "I8", &[32, 32], &words(256))
        .bf16("b.weight_scale", &[32, 1], &ramp(32))
        .add("n.weight_packed", "U8", &[32, 16], &words(128))
        .add("n.weight_scale", "F8_E4M3", &[32, 2], &[0x30; 64])
        .f32("n.weight_global_scale", &[1], &[3.0])
        .add("m.weight_packed", "U8", &[32, 16], &words(128))
        .add("m.weight_scale", "U8", &[32, 1], &[120; 32])
        .add("f.qweight", "U8", &[32, 16], &words(128))
        .add("f.scales", "U8", &[32, 2], &[0x30; 64])
        .f32("f.weight_global_scale", &[1], &[3.0])
        .f32("f.forward_hadamard_matrix", &[16, 16], &identity)
        .bf16("d.dqweight", &[32, 32], &ramp(1024))
        .f32("d.forward_hadamard_matrix", &[16, 16], &identity)
        .add("g.qweight", "I32", &[4, 32], &words(128))
        .add("g.qzeros", "I32", &[2, 4], &words(8))
        .f16("g.scales", &[2, 32], &ramp(64))
        .add("g.g_idx", "I32", &[32], bytemuck::cast_slice(&g_idx))
}

#[test]
fn headers() {
    let read = |bytes: &[u8]| measured(bytes.len(), TABLE, || Header::parse(bytes).is_ok());
    let accepted = survivors(1, 2000, &file().bytes(), read);
    println!("{accepted} of 2000 damaged files have a good header");
    // A real header before two megabytes: damage to the header alone.
    let real = fs::read(fixture().join("model.safetensors")).unwrap();
    let length = 8 + u64::from_le_bytes(real[..8].try_into().unwrap()) as usize;
    let mut whole = real.clone();
    survivors(2, 2000, &real[..length], |header| {
        // In place as far as it goes, so that no case copies the data.
        let kept = header.len().min(length);
        whole[..kept].copy_from_slice(&header[..kept]);
        whole[kept..length].fill(b' ');
        measured(length, TABLE, || Header::parse(&whole).is_ok())
    });
}

#[test]
fn configs() {
    let mut fp8 = config();
    fp8["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    fp8["mlp_only_layers"] = json!([1]);
    fp8["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e6});
    let mut compressed = config();
    compressed["quantization_config"] = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "sparsity_config": {},
        "transform_config": {"config_groups": {}},
        "config_groups": {"group_0": {"format": "pack-quantized", "weights": {"num_bits": 4, "type": "int"}}},
    });
    let mut gptq = config();
    gptq["quantization_config"] = json!({
        "quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2", "pack_dtype": "int32",
        "is_marlin_format": false,
    });
    let mut fp_quant = config();
    fp_quant["quantization_config"] = json!({"quant_method": "fp_quant", "forward_dtype": "nvfp4"});
    for (seed, good) in [
        (3, config()),
        (4, fp8),
        (8, compressed),
        (9, gptq),
        (10, fp_quant),
    ] {
        let good = serde_json::to_vec_pretty(&good).unwrap();
        survivors(seed, 1500, &good, |bytes| {
            measured(bytes.len(), JSON, || {
                let Ok(config) = serde_json::from_slice(bytes) else {
                    return false;
                };
                let _ = Quantization::from_json(&config);
                let Ok(mut model) = ModelConfig::from_json(&config) else {
                    return false;
                };
                let _ = model.merge_generation(&config);
                let layers = (0..model.num_layers).map(|layer| model.feed_forward(layer));
                layers.count() == model.num_layers
            })
        });
    }
}

#[test]
fn indices() {
    let good = json!({
        "metadata": {"total_size": 1234},
        "weight_map": {
            "a.weight": "model-00001-of-00002.safetensors",
            "b.weight": "model-00001-of-00002.safetensors",
            "c.weight": "model-00002-of-00002.safetensors",
        },
    });
    let good = serde_json::to_vec_pretty(&good).unwrap();
    survivors(5, 1000, &good, |bytes| {
        measured(bytes.len(), TABLE, || check_index(bytes).is_ok())
    });
}

/// Whole folders: what opens is also read, through every door.
#[test]
fn folders() {
    let dir = folder(&[]);
    let (weights, tokens) = (
        dir.path().join("model.safetensors"),
        dir.path().join("config.json"),
    );
    let good = file().bytes();
    let good_config = fs::read(&tokens).unwrap();
    let read = |len: usize| {
        measured(len, JSON, || {
            let Ok(checkpoint) = Checkpoint::open(dir.path()) else {
                return false;
            };
            for view in checkpoint.tensors() {
                let _ = checkpoint.dense(view.name()).map(|t| t.check_finite());
                let _ = checkpoint.vector(view.name(), 4);
            }
            for (prefix, shape) in [
                ("q", [128, 128]),
                ("gate", [5, 3]),
                ("m.experts.1.up_proj", [3, 1]),
                ("m.experts.1.down_proj", [1, 3]),
                ("e", [3, 2]),
            ] {
                let _ = checkpoint.linear(prefix, shape[0], shape[1]);
            }
            true
        })
    };
    let opened = survivors(6, 1400, &good, |bytes| {
        fs::write(&weights, bytes).unwrap();
        read(bytes.len() + good_config.len())
    });
    println!("{opened} of 1400 damaged folders still open");
    fs::write(&weights, &good).unwrap();
    survivors(7, 600, &good_config, |bytes| {
        fs::write(&tokens, bytes).unwrap();
        read(bytes.len() + good.len())
    });
}

/// Linears with groups: damage to headers and to the numbers themselves.
#[test]
fn folders_of_groups() {
    let mut gptq = config();
    gptq["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    let gptq = gptq.to_string();
    let dir = folder(&[("config.json", gptq.as_bytes())]);
    let weights = dir.path().join("model.safetensors");
    let good = grouped().bytes();
    let mut read_linears = 0;
    let opened = survivors(11, 3000, &good, |bytes| {
        fs::write(&weights, bytes).unwrap();
        measured(bytes.len() + gptq.len(), JSON, || {
            let Ok(checkpoint) = Checkpoint::open(dir.path()) else {
                return false;
            };
            let prefixes = ["i", "b", "n", "m", "f", "d", "g"];
            let linears = prefixes.map(|prefix| checkpoint.linear(prefix, 32, 32));
            read_linears += linears.iter().flatten().count();
            true
        })
    });
    println!("{opened} of 3000 damaged folders open, with {read_linears} linears");
    assert!(
        read_linears > 7 * opened / 2,
        "most damage is to one linear at most"
    );
}
