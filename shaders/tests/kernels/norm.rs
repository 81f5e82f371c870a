use half::f16;

use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};

#[test]
fn rms_norm_is_right() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "rms_norm") {
        for (rows, width) in [(1, 2048), (3, 100), (2, 257)] {
            let mut random = Random::new(3);
            let (x, weight) = (random.values(rows * width), random.values(width));
            let params = Params::default().u(width).f(1e-3).u(4);
            let run = |x: &[f32]| {
                let out = vec![0; 4 * rows * width];
                device.run(
                    "rms_norm",
                    &specialization,
                    &[bytes(x), bytes(&weight), out, vec![0; 32]],
                    params.bytes(),
                    [rows, 1, 1],
                )
            };
            let results = run(&x);
            let expected = rms_norm(&x, &weight, 1e-3);
            assert_close("rms_norm", &results.of::<f32>(2), &expected, 1e-6);
            assert_eq!(results.of::<u32>(3), [0; 8]);
            let mut nonsense = x.clone();
            let last = &mut nonsense[(rows - 1) * width..];
            last.fill(-0.5);
            (last[1], last[7], last[8]) = (f32::NAN, f32::INFINITY, -2.5);
            let record = run(&nonsense).of::<u32>(3);
            let largest = 2.5f32.to_bits();
            assert_eq!(record, [0, 0, 0, 0, 1, rows as u32 - 1, 2, largest]);
        }
    }
}

/// The norm in f64, of rows as wide as `weight`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let factor = 1.0 / (squares / row.len() as f64 + f64::from(epsilon)).sqrt();
        let scaled = row.iter().zip(weight);
        out.extend(scaled.map(|(&x, &w)| f64::from(x) * factor * f64::from(w)));
    }
    out
}

#[test]
fn hadamard_is_the_dense_product() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "hadamard") {
        let block = constant(&specialization, "BLOCK");
        let side = text(&specialization, "SIDE");
        // Whole blocks; an input that ends inside one; an output that does.
        for (rows, width, out_width) in [
            (1, 8 * block, 8 * block),
            (2, 9 * block - 3, 9 * block),
            (2, 3 * block, 3 * block - 5),
        ] {
            let padded = width.next_multiple_of(block);
            let mut random = Random::new(4);
            let x = random.values(rows * width);
            let scales: Vec<f16> = random
                .values(padded)
                .iter()
                .map(|&x| f16::from_f32(x))
                .collect();
            let per_group = constant(&specialization, "WG") * lane_values(block);
            let params = Params::default().u(width).u(out_width);
            let results = device.run(
                "hadamard",
                &specialization,
                &[bytes(&x), bytes(&scales), vec![0; 4 * rows * out_width]],
                params.bytes(),
                [padded.div_ceil(per_group), rows, 1],
            );
            let scale = |side_is, channel: usize| match side == side_is {
                true => f64::from(scales[channel]),
                false => 1.0,
            };
            let mut expected = Vec::new();
            for row in x.chunks_exact(width) {
                for channel in 0..out_width {
                    let start = channel / block * block;
                    let sum: f64 = (start..(start + block).min(width))
                        .map(|i| {
                            let sign = ((i - start) & (channel - start)).count_ones() % 2;
                            let value = f64::from(row[i]) * scale("input", i);
                            if sign == 1 { -value } else { value }
                        })
                        .sum();
                    let orthonormal = sum / (block as f64).sqrt();
                    expected.push(orthonormal * scale("output", channel));
                }
            }
            let what = format!("hadamard {:?}", specialization.constants());
            assert_close(&what, &results.of::<f32>(2), &expected, 1e-6);
        }
    }
}

/// Values of a block that a lane holds, as documented.
fn lane_values(block: usize) -> usize {
    match block {
        16 => 4,
        32 | 64 => 8,
        128 | 256 => 16,
        _ => unreachable!("no such block"),
    }
}
