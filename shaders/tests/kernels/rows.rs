use half::{bf16, f16};

use treillage_shaders::Specialization;

use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};
use crate::norm::rms_norm;

/// `values` in a dense format, and what they are then.
pub(crate) fn stored(format: &str, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    match format {
        "f32" => (bytes(values), values.to_vec()),
        "f16" => {
            let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
            (bytes(&halves), halves.iter().map(|x| x.to_f32()).collect())
        }
        "bf16" => {
            let halves: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
            (bytes(&halves), halves.iter().map(|x| x.to_f32()).collect())
        }
        other => unreachable!("no format {other}"),
    }
}

#[test]
fn embed_looks_up() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "embed") {
        let format = text(&specialization, "FORMAT");
        for (vocabulary, width) in [(11, 34), (5, 1030)] {
            let mut random = Random::new(5);
            let (table, values) = stored(format, &random.values(vocabulary * width));
            let ids = [3, 0, vocabulary as u32 - 1, 3, vocabulary as u32, u32::MAX];
            let per_word = if format == "f32" { 1 } else { 2 };
            let params = Params::default().u(width).u(vocabulary);
            let results = device.run(
                "embed",
                &specialization,
                &[table, bytes(&ids), vec![7; 4 * ids.len() * width]],
                params.bytes(),
                [
                    (width / per_word).div_ceil(constant(&specialization, "WG")),
                    ids.len(),
                    1,
                ],
            );
            let zeros = vec![0.0; width];
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|&id| {
                    let rows = values.chunks_exact(width).nth(id as usize);
                    rows.unwrap_or(&zeros).to_vec()
                })
                .collect();
            assert_eq!(results.of::<f32>(2), expected, "{format}");
        }
    }
}

#[test]
fn gather_rows_copies() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "gather_rows") {
        for (rows, per, width) in [(5, 1, 300), (3, 4, 33)] {
            let mut random = Random::new(6);
            let x = random.values(rows * width);
            let index: Vec<u32> = (0..17).map(|_| random.below(rows * per) as u32).collect();
            let params = Params::default().u(width).u(per);
            let results = device.run(
                "gather_rows",
                &specialization,
                &[bytes(&x), bytes(&index), vec![0; 4 * 17 * width]],
                params.bytes(),
                [width.div_ceil(constant(&specialization, "WG")), 17, 1],
            );
            let expected: Vec<f32> = index
                .iter()
                .flat_map(|&i| x[i as usize / per * width..][..width].to_vec())
                .collect();
            assert_eq!(results.of::<f32>(2), expected);
        }
    }
}

/// What experts made of `rows` rows, and its sum by weight.
struct Given {
    y: Vec<f32>,
    weights: Vec<f32>,
    residual: Vec<f32>,
    places: Vec<u32>,
    /// What an expert of all rows made, and logits of its weights.
    shared: (Vec<f32>, Vec<f32>),
    sum: Vec<f64>,
}

impl Given {
    fn new(rows: usize, top_k: usize, width: usize, specialization: &Specialization) -> Self {
        let is = |name| text(specialization, name) == "true";
        let (in_order, is_shared) = (!is("PLACES"), is("SHARED"));
        let mut random = Random::new(7);
        let choices = rows * top_k;
        let y = random.values(choices * width);
        let weights = random.values(choices);
        let residual = random.values(rows * width);
        let mut places: Vec<u32> = (0..choices as u32).collect();
        places.reverse();
        let shared = (random.values(rows * width), random.values(rows));
        let mut sum = Vec::new();
        for row in 0..rows {
            for column in 0..width {
                let added: f64 = (row * top_k..(row + 1) * top_k)
                    .map(|choice| {
                        let place = if in_order {
                            choice
                        } else {
                            places[choice] as usize
                        };
                        f64::from(weights[choice]) * f64::from(y[place * width + column])
                    })
                    .sum();
                let of_all = match is_shared {
                    true => {
                        let gate = 1.0 / (1.0 + (-f64::from(shared.1[row])).exp());
                        gate * f64::from(shared.0[row * width + column])
                    }
                    false => 0.0,
                };
                sum.push(f64::from(residual[row * width + column]) + added + of_all);
            }
        }
        Self {
            y,
            weights,
            residual,
            places,
            shared,
            sum,
        }
    }
}

#[test]
fn combine_experts_adds_by_weight() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "combine_experts") {
        for (rows, top_k, width) in [(1, 8, 512), (5, 3, 77)] {
            let given = Given::new(rows, top_k, width, &specialization);
            let params = Params::default().u(width).u(top_k).u(2);
            let results = device.run(
                "combine_experts",
                &specialization,
                &[
                    bytes(&given.y),
                    bytes(&given.weights),
                    bytes(&given.residual),
                    bytes(&given.places),
                    bytes(&given.shared.0),
                    bytes(&[&[0.5, 0.5], &given.shared.1[..]].concat()),
                    vec![0; 4 * rows * width],
                ],
                params.bytes(),
                [width.div_ceil(constant(&specialization, "WG")), rows, 1],
            );
            assert_close("combine_experts", &results.of::<f32>(6), &given.sum, 1e-6);
        }
    }
}

#[test]
fn combine_norm_adds_and_norms() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "combine_norm") {
        let in_order = text(&specialization, "PLACES") == "false";
        let top_k = constant(&specialization, "TOP_K");
        let most = 4 * constant(&specialization, "WG") * constant(&specialization, "FOURS_UP");
        for (rows, width) in [(1, most), (3, most - 36), (2, 4)] {
            let given = Given::new(rows, top_k, width, &specialization);
            let norm = Random::new(9).values(width);
            let params = Params::default().u(width / 4).f(1e-3).u(0);
            let is_shared = text(&specialization, "SHARED") == "true";
            let mut buffers = vec![
                bytes(&given.y),
                bytes(&[&given.weights[..], &given.shared.1].concat()),
                bytes(&given.residual),
                match is_shared {
                    true => bytes(&given.shared.0),
                    false => bytes(&given.places),
                },
                bytes(&norm),
                vec![0; 4 * rows * width],
                vec![0; 4 * rows * width],
                vec![0; 16],
            ];
            let results = device.run(
                "combine_norm",
                &specialization,
                &buffers,
                params.bytes(),
                [rows, 1, 1],
            );
            assert_close("sum", &results.of::<f32>(5), &given.sum, 1e-6);
            let sum: Vec<f32> = given.sum.iter().map(|&x| x as f32).collect();
            let normed = rms_norm(&sum, &norm, 1e-3);
            assert_close("normed", &results.of::<f32>(6), &normed, 2e-6);
            assert_eq!(results.of::<u32>(7), [0; 4]);
            // The last value of the last row, which is the last of its experts' too.
            let choice = rows * top_k - 1;
            let row = if in_order { choice } else { 0 };
            let mut y = given.y.clone();
            y[row * width + width - 1] = f32::INFINITY;
            buffers[0] = bytes(&y);
            let results = device.run(
                "combine_norm",
                &specialization,
                &buffers,
                params.bytes(),
                [rows, 1, 1],
            );
            let largest = given.sum[(rows - 1) * width..rows * width - 1]
                .iter()
                .fold(0f64, |m, x| m.max(x.abs()));
            let record = results.of::<u32>(7);
            assert_eq!(record[..3], [1, rows as u32 - 1, 1]);
            assert_close("largest", &[f32::from_bits(record[3])], &[largest], 1e-6);
        }
    }
}
