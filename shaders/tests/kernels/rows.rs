use half::{bf16, f16};

use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};

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

#[test]
fn combine_experts_adds_by_weight() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "combine_experts") {
        let in_order = text(&specialization, "PLACES") == "false";
        for (rows, top_k, width) in [(1, 8, 512), (5, 3, 77)] {
            let mut random = Random::new(7);
            let choices = rows * top_k;
            let y = random.values(choices * width);
            let weights = random.values(choices);
            let residual = random.values(rows * width);
            let mut places: Vec<u32> = (0..choices as u32).collect();
            places.reverse();
            let params = Params::default().u(width).u(top_k);
            let results = device.run(
                "combine_experts",
                &specialization,
                &[
                    bytes(&y),
                    bytes(&weights),
                    bytes(&residual),
                    bytes(&places),
                    vec![0; 4 * rows * width],
                ],
                params.bytes(),
                [width.div_ceil(constant(&specialization, "WG")), rows, 1],
            );
            let mut expected = Vec::new();
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
                    expected.push(f64::from(residual[row * width + column]) + added);
                }
            }
            assert_close("combine_experts", &results.of::<f32>(4), &expected, 1e-6);
        }
    }
}
