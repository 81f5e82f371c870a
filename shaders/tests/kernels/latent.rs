use half::f16;

use crate::attention::{turned, turns};
use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};
use crate::norm::rms_norm;

fn halves(random: &mut Random, count: usize) -> Vec<f16> {
    let values = random.values(count);
    values.into_iter().map(f16::from_f32).collect()
}

/// `x · W` for `W` of `columns` columns, of which there may be more than are wanted.
fn product(x: &[f64], matrix: &[f16], columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; columns];
    for (x, row) in x.iter().zip(matrix.chunks_exact(columns)) {
        for (out, w) in out.iter_mut().zip(row) {
            *out += x * f64::from(*w);
        }
    }
    out
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// Both kernels that see new tokens: the one for few rows multiplies too.
#[test]
fn queries_are_absorbed_and_latents_appended() {
    let Some(device) = device() else { return };
    for name in ["latent_queries", "latent_append"] {
        for specialization in specializations(device, name) {
            let padded = constant(&specialization, "RANK");
            let width = constant(&specialization, "WIDTH");
            let split = text(&specialization, "PAIRING") == "half_split";
            let (rows, heads, nope, capacity, position) = (2, 3, 21, 9, 5);
            // What is behind a latent, and behind what rotates, is padding.
            let (rank, dims) = (padded - 8, width - padded - 4);
            let mut random = Random::new(18);
            let q = random.values(rows * heads * (nope + dims));
            let latent = random.values(rows * (rank + dims));
            let norm = random.values(rank);
            let mut keys = halves(&mut random, heads * nope * padded);
            for row in keys.chunks_exact_mut(padded) {
                row[rank..].fill(f16::ZERO);
            }
            let params = Params::default()
                .u(heads)
                .u(nope)
                .u(rank)
                .u(dims)
                .u(position)
                .f(1e-6);
            let multiplies = name == "latent_queries";
            let mut buffers = vec![bytes(&q), bytes(&latent), bytes(&norm), bytes(&turns(dims))];
            if multiplies {
                buffers.push(bytes(&keys));
            }
            buffers.push(vec![0; 4 * rows * heads * width]);
            buffers.push(bytes(&vec![f16::from_f32(3.0); capacity * width]));
            let grid = match multiplies {
                true => [padded / 64, heads + 1, rows],
                false => [heads + 1, rows, 1],
            };
            let results = device.run(name, &specialization, &buffers, params.bytes(), grid);
            let (absorbed, cache) = (buffers.len() - 2, buffers.len() - 1);

            let mut expected = Vec::new();
            for (i, query) in q.chunks_exact(nope + dims).enumerate() {
                let (unrotated, rotated) = query.split_at(nope);
                let keys = &keys[i % heads * nope * padded..][..nope * padded];
                expected.extend(match multiplies {
                    true => product(&wide(unrotated), keys, padded),
                    false => vec![0.0; padded],
                });
                expected.extend(turned(rotated, None, position + i / heads, dims, split));
                expected.resize((i + 1) * width, 0.0);
            }
            let what = format!("{name} {:?}", specialization.constants());
            assert_close(&what, &results.of::<f32>(absorbed), &expected, 1e-5);
            let mut expected = vec![3.0; position * width];
            for (i, row) in latent.chunks_exact(rank + dims).enumerate() {
                let (latent, key) = row.split_at(rank);
                let start = expected.len();
                expected.extend(rms_norm(latent, &norm, 1e-6));
                expected.resize(start + padded, 0.0);
                expected.extend(turned(key, None, position + i, dims, split));
                expected.resize(start + width, 0.0);
            }
            expected.resize(capacity * width, 3.0);
            let found = results.of::<f16>(cache).into_iter().map(f16::to_f32);
            assert_close(&what, &found.collect::<Vec<_>>(), &expected, 6e-4);
        }
    }
}

#[test]
fn many_rows_are_projected_head_by_head() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "latent_project") {
        for (rows, heads, inputs, columns) in [(70, 2, 40, 64usize), (1, 3, 7, 100)] {
            let (x_head, out_head) = (inputs + 3, columns + 5);
            let quads = columns.next_multiple_of(64) / 4;
            let mut random = Random::new(19);
            let x = random.values(rows * heads * x_head);
            let matrices = halves(&mut random, heads * inputs * 4 * quads);
            let params = Params::default()
                .u(rows)
                .u(inputs)
                .u(columns)
                .u(quads)
                .u(heads * x_head)
                .u(x_head)
                .u(heads * out_head)
                .u(out_head);
            let results = device.run(
                "latent_project",
                &specialization,
                &[
                    bytes(&x),
                    bytes(&matrices),
                    vec![0; 4 * rows * heads * out_head],
                ],
                params.bytes(),
                [quads / 16, rows.div_ceil(64), heads],
            );
            let mut expected = Vec::new();
            for (i, x) in x.chunks_exact(x_head).enumerate() {
                let size = inputs * 4 * quads;
                let matrix = &matrices[i % heads * size..][..size];
                let row = product(&wide(&x[..inputs]), matrix, 4 * quads);
                expected.extend_from_slice(&row[..columns]);
                expected.resize((i + 1) * out_head, 0.0);
            }
            assert_close("project", &results.of::<f32>(2), &expected, 1e-6);
        }
    }
}

/// Softmax of each head's scores over what a row sees, and the sum of latents by it.
fn attended(
    q: &[f32],
    cache: &[f16],
    [rows, heads, width, rank, position]: [usize; 5],
    scale: f32,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (i, query) in q.chunks_exact(width).take(rows * heads).enumerate() {
        let seen = cache.chunks_exact(width).take(position + i / heads + 1);
        let scores: Vec<f64> = seen
            .clone()
            .map(|key| {
                let products = query
                    .iter()
                    .zip(key)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k));
                f64::from(scale) * products.sum::<f64>()
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut row = vec![0.0; rank];
        for (weight, latent) in weights.iter().zip(seen) {
            for (out, value) in row.iter_mut().zip(latent) {
                *out += weight / sum * f64::from(*value);
            }
        }
        out.extend(row);
    }
    out
}

#[test]
fn latents_are_attended_whatever_the_split_and_become_values() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "latent_attend") {
        let rank = constant(&specialization, "RANK");
        let width = constant(&specialization, "WIDTH");
        let together = constant(&specialization, "HEADS");
        for (rows, heads, position, splits) in [
            (1, together, 0, 1),
            (1, together + 1, 130, 3),
            (3, 2 * together, 62, 2),
        ] {
            let mut random = Random::new(20);
            let q = random.values(rows * heads * width);
            let mut cache = halves(&mut random, (position + rows + 2) * width);
            // What is behind the context must not be seen.
            cache[(position + rows) * width..].fill(f16::MAX);
            let scale = 0.3;
            let params = Params::default()
                .u(heads)
                .u(position)
                .u(splits)
                .u((position + rows).div_ceil(splits))
                .f(scale);
            let results = device.run(
                "latent_attend",
                &specialization,
                &[
                    bytes(&q),
                    bytes(&cache),
                    vec![0xff; 4 * rows * heads * splits * rank],
                    vec![0xff; 8 * rows * heads * splits],
                ],
                params.bytes(),
                [splits, heads.div_ceil(together), rows],
            );
            let sizes = [rows, heads, width, rank, position];
            let latents = attended(&q, &cache, sizes, scale);
            let what = format!("attend {:?} {splits}", specialization.constants());
            if splits == 1 {
                assert_close(&what, &results.of::<f32>(2), &latents, 1e-5);
            }
            let own = specializations(device, "latent_values")
                .into_iter()
                .find(|values| constant(values, "RANK") == rank);
            let Some(own) = own else { continue };
            let (used, columns) = (rank - 3, 70);
            let values = halves(&mut random, heads * used * 128);
            let params = Params::default()
                .u(heads)
                .u(splits)
                .u(used)
                .u(columns)
                .u(32);
            let results = device.run(
                "latent_values",
                &own,
                &[
                    bytes(&results.of::<f32>(2)),
                    bytes(&results.of::<f32>(3)),
                    bytes(&values),
                    vec![0; 4 * rows * heads * columns],
                ],
                params.bytes(),
                [2, heads, rows],
            );
            let mut expected = Vec::new();
            for (i, latent) in latents.chunks_exact(rank).enumerate() {
                let matrix = &values[i % heads * used * 128..][..used * 128];
                expected.extend_from_slice(&product(&latent[..used], matrix, 128)[..columns]);
            }
            assert_close(&what, &results.of::<f32>(3), &expected, 1e-5);
        }
    }
}
