//! Values that this crate did not compute: checksums, spot values and whole linears of the EXL3 format.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that it cannot read"
)]

mod safetensors;

use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Golden;
use treillage_trellis::{Bits, Codebook, PackedLinear, TILE_WEIGHTS, decode, tile};

/// crc32 of the little-endian halves.
fn crc32(values: impl Iterator<Item = f16>) -> u32 {
    let bytes: Vec<u8> = values.flat_map(|v| v.to_bits().to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}

#[test]
fn codebooks_have_the_formats_checksums() {
    let expected = [0x4c83_d524, 0xd2d1_3c52, 0x2bdf_05c5];
    for (codebook, expected) in Codebook::ALL.into_iter().zip(expected) {
        let all = (0..=u16::MAX).map(|state| codebook.value(state));
        assert_eq!(crc32(all), expected, "{codebook}");
        let table = codebook.table().iter().map(|&v| f16::from_f32(v));
        assert_eq!(crc32(table), expected, "{codebook}, table");
    }
}

#[test]
fn codebooks_have_the_formats_values() {
    let states = [0, 1, 2, 3, 255, 256, 0x1234, 0x8000, 0xFFFF];
    let expected = [
        [
            0x3a25, 0xbb5b, 0x3b74, 0x34b6, 0x3cd1, 0x3c3f, 0xc066, 0xb7f8, 0xb110,
        ],
        [
            0x3f60, 0x304e, 0xba13, 0x3ab8, 0xbd26, 0xbaf0, 0x3e0f, 0xb915, 0x3acd,
        ],
        [
            0xc2e8, 0x3921, 0xb72d, 0x3239, 0x3ab3, 0xb3db, 0xb89e, 0xbaf2, 0xb936,
        ],
    ];
    for (codebook, expected) in Codebook::ALL.into_iter().zip(expected) {
        assert_eq!(
            states.map(|s| codebook.value(s).to_bits()),
            expected,
            "{codebook}"
        );
    }
}

/// For K = 1..=8: states at positions 0, 1, 2, 3, 128 and 255, and the crc32 of the decoded row-major tile for 3INST,
/// MCG and MUL1, of the tile whose stored word `e` is `40503 e + 12345 mod 2¹⁶`.
const TILES: [([u16; 6], [u32; 3]); 8] = [
    (
        [0xae77, 0x5cef, 0xb9de, 0x73bc, 0xcb07, 0xd73b],
        [0xf6d7_657a, 0xc224_991f, 0xdb66_d975],
    ),
    (
        [0xeaaf, 0xaabc, 0xaaf3, 0xabce, 0x5cee, 0xbaab],
        [0x38d4_0eea, 0x96fc_911a, 0xfa10_2047],
    ),
    (
        [0xf0de, 0x86f3, 0x379c, 0xbce7, 0x479d, 0x9e1b],
        [0x27a4_178e, 0x2afa_be76, 0x4449_a39e],
    ),
    (
        [0x18bc, 0x8bce, 0xbce7, 0xce70, 0xaab9, 0x818b],
        [0x5986_dbc4, 0x91a3_8e6a, 0x271b_44bc],
    ),
    (
        [0x9f79, 0xef39, 0xe738, 0xe703, 0x8c70, 0x64fb],
        [0x49b5_92c6, 0x512c_6c01, 0x891e_49de],
    ),
    (
        [0x1af3, 0xbce7, 0x39c0, 0x7030, 0x86de, 0x486b],
        [0x414d_117b, 0x8cfa_064b, 0x6305_703b],
    ),
    (
        [0xede7, 0xf39c, 0xce06, 0x0303, 0xe9b5, 0x2bdb],
        [0x9dee_1af1, 0x959b_88f4, 0x229c_cba7],
    ),
    (
        [0x4bce, 0xce70, 0x7030, 0x3039, 0x8b5c, 0x0f4b],
        [0xb0df_5439, 0xa5bc_8185, 0xe10f_d750],
    ),
];

#[test]
fn tiles_unpack_and_decode_to_the_formats_values() {
    for (bits, (states, checksums)) in Bits::all().zip(TILES) {
        let words: Vec<u16> = (0..bits.words_per_tile() as u32)
            .map(|e| (e * 40503 + 12345) as u16)
            .collect();
        let unpacked = tile::unpack_states(&words, bits);
        assert_eq!(
            [0, 1, 2, 3, 128, 255].map(|i| unpacked[i]),
            states,
            "K = {bits}"
        );
        for (codebook, checksum) in Codebook::ALL.into_iter().zip(checksums) {
            let mut tile = [0.0; TILE_WEIGHTS];
            decode::decode_tile(&words, bits, codebook, &mut tile);
            let halves = tile.iter().map(|&v| f16::from_f32(v));
            assert_eq!(crc32(halves), checksum, "K = {bits}, {codebook}");
        }
    }
}

#[test]
fn a_stored_linear_decodes_and_multiplies_as_recorded() {
    check_file(&data("linear.safetensors"), 1);
}

#[test]
fn a_stored_legacy_linear_decodes_and_multiplies_as_recorded() {
    check_file(&data("linear_legacy.safetensors"), 1);
}

#[test]
fn every_rate_and_codebook_decodes_and_multiplies_as_recorded() {
    for (name, linears) in [("exl3_linear", 24), ("exl3_linear_legacy", 9)] {
        let path = shared().join(format!("golden/{name}.safetensors"));
        if path.exists() {
            check_file(&path, linears);
        } else {
            println!("skipped: {} is not there", path.display());
        }
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// Where data too large for the repository lies.
fn shared() -> PathBuf {
    std::env::var_os("TREILLAGE_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    )
}

fn check_file(path: &Path, linears: usize) {
    let golden = Golden::open(path);
    assert_eq!(golden.linears().len(), linears);
    for prefix in golden.linears() {
        check_linear(&golden, prefix, &golden.linear(prefix));
    }
}

fn check_linear(golden: &Golden, prefix: &str, linear: &PackedLinear) {
    let (inputs, outputs) = (linear.in_features(), linear.out_features());
    let inner = golden.f16(&format!("{prefix}.inner")).unwrap();
    let decoded = linear.decode_inner();
    for (place, &expected) in inner.iter().enumerate() {
        let (row, column) = (place / outputs, place % outputs);
        assert_eq!(
            decoded[(row, column)],
            expected.to_f32(),
            "{prefix}: ({row}, {column})"
        );
    }

    let weights = linear.dequantize();
    let x = golden.f32(&format!("{prefix}.x"));
    let expected = golden.f32(&format!("{prefix}.y"));
    for (x, expected) in x.chunks_exact(inputs).zip(expected.chunks_exact(outputs)) {
        let (mut error, mut energy) = (0.0, 0.0);
        for (column, &expected) in expected.iter().enumerate() {
            let product: f64 = (x.iter().zip(weights.column(column).iter()))
                .map(|(&x, &w)| f64::from(x) * f64::from(w))
                .sum();
            let bias = linear.bias().map_or(0.0, |bias| bias[column].to_f64());
            error += (product + bias - f64::from(expected)).powi(2);
            energy += f64::from(expected).powi(2);
        }
        assert!(
            error <= 1e-12 * energy,
            "{prefix}: relative error {}",
            (error / energy).sqrt()
        );
    }
}
