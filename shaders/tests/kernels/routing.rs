use treillage_shaders::Specialization;

use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};
use crate::{norm::rms_norm, rows::stored};

#[test]
fn router_norms_multiplies_and_chooses() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "router") {
        let format = text(&specialization, "FORMAT");
        let gated = text(&specialization, "GATED") == "true";
        let shared = text(&specialization, "SHARED") == "true";
        let rules = Rules::of(&specialization);
        let per_word = if format == "f32" { 1 } else { 2 };
        for (rows, width, experts, top_k, normalize) in [
            (1, 256, 16, 4, true),
            (2, 131, 8, 3, false),
            (3, 64, 130, 8, true),
        ] {
            let mut random = Random::new(8);
            let (x, norm) = (random.values(rows * width), random.values(width));
            // Rows of the router are padded with zeros; behind them is the gate's.
            let padded = width.next_multiple_of(8);
            let mut values = random.values((experts + 1) * padded);
            for row in values.chunks_exact_mut(padded) {
                row[width..].fill(0.0);
            }
            let (mut router, weights) = stored(format, &values);
            let gate = router.split_off(router.len() / (experts + 1) * experts);
            let correction = random.values(experts);
            let per_row = top_k + usize::from(shared);
            let weights_at = (rows * per_row).next_multiple_of(64);
            let logits_at = weights_at + (rows * per_row + rows).next_multiple_of(64);
            let rules = Rules { normalize, ..rules };
            let params = Params::default()
                .u(width)
                .u(padded / per_word)
                .u(experts)
                .u(top_k)
                .u(normalize.into())
                .u(1)
                .u(weights_at)
                .u(logits_at)
                .u(1)
                .f(SCALE)
                .f(1e-6);
            let seen = experts + usize::from(gated);
            let results = device.run(
                "router",
                &specialization,
                &[
                    bytes(&x),
                    bytes(&norm),
                    router,
                    if gated { gate } else { bytes(&correction) },
                    vec![0; 4 * rows * width],
                    vec![0; 4 * (logits_at + rows * experts)],
                    vec![0; 20],
                    vec![0; 4 * rows],
                ],
                params.bytes(),
                [
                    seen.div_ceil(constant(&specialization, "PER_GROUP")),
                    rows,
                    1,
                ],
            );
            let normed = rms_norm(&x, &norm, 1e-6);
            assert_close("normed", &results.of::<f32>(4), &normed, 1e-6);
            let (mut expected, mut gates) = (Vec::new(), Vec::new());
            for row in normed.chunks_exact(width) {
                for weights in weights.chunks_exact(padded) {
                    let products = row.iter().zip(weights).map(|(x, &w)| x * f64::from(w));
                    expected.push(products.sum::<f64>());
                }
                gates.extend(expected.pop());
            }
            let found = results.of::<f32>(5);
            let logits = &found[logits_at..];
            assert_close("logits", logits, &expected, 3e-6);
            // Chosen by the logits that it has itself: near ties are not this test's matter.
            let mut chosen = (Vec::new(), Vec::new());
            for (row, gate) in logits.chunks_exact(experts).zip(&gates) {
                let (routed, weights) = rules.route(row, &correction, top_k);
                chosen.0.extend(routed);
                chosen.1.extend(weights);
                if shared {
                    chosen.0.push(experts as u32);
                    chosen.1.push(if gated {
                        1.0 / (1.0 + (-gate).exp())
                    } else {
                        1.0
                    });
                }
            }
            assert_eq!(results.of::<u32>(5)[..rows * per_row], chosen.0);
            let (found, behind) = found[weights_at..].split_at(rows * per_row);
            assert_close("weights", found, &chosen.1, 3e-6);
            if gated && !shared {
                assert_close("gates", &behind[..rows], &gates, 3e-6);
            }
            assert_eq!(results.of::<u32>(6), [0; 5], "flags");
            assert_eq!(results.of::<u32>(7), vec![0; rows], "counters");
        }
    }
}

const SCALE: f32 = 1.5;

/// How a kernel chooses.
#[derive(Clone, Copy)]
struct Rules {
    sigmoid: bool,
    corrected: bool,
    /// Of which one is kept.
    groups: usize,
    normalize: bool,
}

impl Rules {
    fn of(specialization: &Specialization) -> Self {
        Self {
            sigmoid: text(specialization, "SIGMOID") == "true",
            corrected: text(specialization, "CORRECTED") == "true",
            groups: constant(specialization, "GROUPS"),
            normalize: false,
        }
    }

    /// What `treillage_moe::route` does, in the obvious way.
    fn route(self, row: &[f32], correction: &[f32], top_k: usize) -> (Vec<u32>, Vec<f64>) {
        let wide = |&x: &f32| f64::from(x);
        let largest = row.iter().map(wide).fold(f64::MIN, f64::max);
        let mut scores: Vec<f64> = match self.sigmoid {
            true => row.iter().map(|x| 1.0 / (1.0 + (-wide(x)).exp())).collect(),
            false => row.iter().map(|x| (wide(x) - largest).exp()).collect(),
        };
        if !self.sigmoid {
            let sum: f64 = scores.iter().sum();
            scores.iter_mut().for_each(|score| *score /= sum);
        }
        // The kernel's own rounding of scores is part of what it ranks by.
        let ranks: Vec<f64> = match (self.sigmoid, self.corrected) {
            (false, false) => row.iter().map(wide).collect(),
            (true, false) => scores.clone(),
            (_, true) => scores
                .iter()
                .zip(correction)
                .map(|(s, c)| s + wide(c))
                .collect(),
        };
        let descending = |of: &[f64]| {
            let mut order: Vec<usize> = (0..of.len()).collect();
            order.sort_by(|&a, &b| of[b].partial_cmp(&of[a]).unwrap());
            order
        };
        let size = row.len() / self.groups;
        let sums: Vec<f64> = ranks
            .chunks_exact(size)
            .map(|group| descending(group).iter().take(2).map(|&e| group[e]).sum())
            .collect();
        let kept = descending(&sums)[0];
        let mut order = descending(&ranks);
        order.retain(|e| self.groups == 1 || e / size == kept);
        order.truncate(top_k);
        let sum: f64 = match self.normalize {
            true => order.iter().map(|&e| scores[e]).sum(),
            false => 1.0,
        };
        let weights = order.iter().map(|&e| scores[e] / sum * f64::from(SCALE));
        let weights = weights.collect();
        (order.into_iter().map(|e| e as u32).collect(), weights)
    }
}

fn run_route(
    specialization: &Specialization,
    logits: &[f32],
    correction: &[f32],
    top_k: usize,
    normalize: bool,
) -> Option<(Vec<u32>, Vec<f32>, Vec<u32>)> {
    let device = device()?;
    let experts = correction.len();
    let rows = logits.len() / experts;
    let params = Params::default()
        .u(experts)
        .u(top_k)
        .u(normalize.into())
        .u(1)
        .u(1)
        .f(SCALE);
    let results = device.run(
        "route",
        specialization,
        &[
            bytes(logits),
            bytes(correction),
            vec![0xff; 4 * rows * top_k],
            vec![0; 4 * rows * top_k],
            vec![0; 12],
        ],
        params.bytes(),
        [rows, 1, 1],
    );
    Some((results.of(2), results.of(3), results.of(4)))
}

#[test]
fn route_equals_sorting() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "route") {
        for (rows, experts, top_k, coarse) in [
            (3, 128, 8, false),
            (3, 128, 8, true),
            (2, 512, 10, true),
            (4, 6, 3, true),
            (2, 130, 1, false),
        ] {
            for normalize in [false, true] {
                let mut random = Random::new(9);
                let mut logits: Vec<f32> = random
                    .values(rows * experts)
                    .iter()
                    // Few distinct values, zeros of both signs among them: ties.
                    .map(|x| if coarse { (x * 4.0).trunc() } else { x * 6.0 })
                    .collect();
                logits[1] = f32::NEG_INFINITY;
                let correction = random.values(experts);
                let Some((chosen, weights, flags)) =
                    run_route(&specialization, &logits, &correction, top_k, normalize)
                else {
                    return;
                };
                let rules = Rules {
                    normalize,
                    ..Rules::of(&specialization)
                };
                let mut expected = (Vec::new(), Vec::new());
                for row in logits.chunks_exact(experts) {
                    let (experts, weights) = rules.route(row, &correction, top_k);
                    expected.0.extend(experts);
                    expected.1.extend(weights);
                }
                assert_eq!(chosen, expected.0);
                assert_close("weights", &weights, &expected.1, 2e-6);
                assert_eq!(flags, [0, 0, 0]);
            }
        }
    }
}

#[test]
fn route_flags_what_is_not_finite_and_stays_in_range() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "route") {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            let mut logits = Random::new(10).values(2 * 20);
            logits[27] = bad;
            logits[31] = bad;
            let Some((chosen, _, flags)) =
                run_route(&specialization, &logits, &[0.5; 20], 20, true)
            else {
                return;
            };
            assert_eq!(flags, [0, 1, 0], "{bad}");
            for row in chosen.chunks_exact(20) {
                let mut row = row.to_vec();
                row.sort_unstable();
                assert!(row.into_iter().eq(0..20));
            }
        }
        let none = [f32::NEG_INFINITY; 20];
        let found = run_route(&specialization, &none, &[0.5; 20], 2, false);
        assert_eq!(found.map(|(_, _, flags)| flags), Some(vec![0, 1, 0]));
    }
}

#[test]
fn group_rows_is_a_stable_sort() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "group_rows") {
        for (count, experts, only) in [(1, 4, 4), (2048, 128, 128), (777, 16, 3), (300, 5, 1)] {
            let mut random = Random::new(11);
            let chosen: Vec<u32> = (0..count).map(|_| random.below(only) as u32).collect();
            let params = Params::default().u(count).u(experts);
            let results = device.run(
                "group_rows",
                &specialization,
                &[
                    bytes(&chosen),
                    vec![0xff; 4 * (experts + 1)],
                    vec![0xff; 4 * count],
                    vec![0xff; 4 * count],
                ],
                params.bytes(),
                [experts, 1, 1],
            );
            let mut sources: Vec<u32> = (0..count as u32).collect();
            sources.sort_by_key(|&i| chosen[i as usize]);
            let offsets: Vec<u32> = (0..=experts as u32)
                .map(|e| chosen.iter().filter(|&&c| c < e).count() as u32)
                .collect();
            let mut places = vec![0; count];
            for (place, &source) in (0u32..).zip(&sources) {
                places[source as usize] = place;
            }
            assert_eq!(results.of::<u32>(1), offsets);
            assert_eq!(results.of::<u32>(2), sources);
            assert_eq!(results.of::<u32>(3), places);
        }
    }
}
