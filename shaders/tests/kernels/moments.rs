use crate::harness::{
    Params, Random, assert_close, bytes, constant, device, specializations, text,
};

#[test]
fn rows_count_as_their_choices_do_unless_they_are_not_finite() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "moments/weigh") {
        assert_eq!(constant(&specialization, "WG"), 256);
        let is = |name| text(&specialization, name) == "true";
        let (rows, width) = (11, 300);
        let mut random = Random::new(90);
        let mut x = random.values(rows * width);
        x[2 * width + 299] = f32::NAN;
        x[5 * width] = f32::NEG_INFINITY;
        x[6 * width + 7] = f32::MAX;
        let sources: Vec<u32> = (0..rows as u32).rev().collect();
        let mut weights = random.values(rows);
        weights.iter_mut().for_each(|weight| *weight = weight.abs());
        let buffers = [
            bytes(&x),
            bytes(&sources),
            bytes(&weights),
            vec![7; 4 * rows],
        ];
        let params = Params::default().u(width).u(rows);
        // More workgroups than rows.
        let grid = [4, 3, 1];
        let results = device.run(
            "moments/weigh",
            &specialization,
            &buffers,
            params.bytes(),
            grid,
        );
        let expected: Vec<f64> = (0..rows)
            .map(|row| match row {
                2 | 5 => -1.0,
                _ if !is("ROUTED") => 1.0,
                _ => f64::from(weights[rows - 1 - row]).powi(if is("SQUARED") { 2 } else { 1 }),
            })
            .collect();
        assert_close("counts", &results.of::<f32>(3), &expected, 1e-6);
    }
}

#[test]
fn second_moments_are_added_up_by_expert() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "moments/gram") {
        let grouped = text(&specialization, "GROUPED") == "true";
        for width in [70usize, 128, 150] {
            let tiles = width.div_ceil(128) * (width.div_ceil(128) + 1) / 2;
            let slot = 128 * 128 * tiles + 64;
            // The first expert is another dispatch's, the third has no rows; a slot is left free before theirs.
            let offsets = [0u32, 3, 20, 20, 37];
            let (rows, experts) = (37, if grouped { 3 } else { 1 });
            let mut random = Random::new(91);
            let mut x = random.values(rows * width);
            let mut counts: Vec<f32> = random.values(rows).iter().map(|v| v.abs()).collect();
            (counts[4], counts[30], x[30 * width + 1]) = (0.0, -1.0, f32::NAN);
            let before = random.values((1 + experts) * slot);
            let buffers = [bytes(&x), bytes(&counts), bytes(&offsets), bytes(&before)];
            let params = Params::default()
                .u(width)
                .u(rows)
                .u(if grouped { 1 } else { 0 })
                .u(1)
                .u(slot / 4);
            let grid = [tiles, experts, 1];
            let results = device.run(
                "moments/gram",
                &specialization,
                &buffers,
                params.bytes(),
                grid,
            );

            let mut expected: Vec<f64> = before.iter().map(|&v| v.into()).collect();
            for (expert, sums) in expected[slot..].chunks_exact_mut(slot).enumerate() {
                let range = match grouped {
                    true => offsets[1 + expert] as usize..offsets[2 + expert] as usize,
                    false => 0..rows,
                };
                for row in range {
                    let (values, count) = (&x[row * width..][..width], f64::from(counts[row]));
                    let counted = &mut sums[slot - 64..];
                    if count < 0.0 {
                        counted[2] += 1.0;
                        continue;
                    }
                    counted[0] += count;
                    counted[1] += 1.0;
                    for (i, &a) in values.iter().enumerate() {
                        for (j, &b) in values[..((i / 128 + 1) * 128).min(width)]
                            .iter()
                            .enumerate()
                        {
                            let (top, left) = (i / 128, j / 128);
                            let tile = top * (top + 1) / 2 + left;
                            sums[(tile * 128 + i % 128) * 128 + j % 128] +=
                                count * f64::from(a) * f64::from(b);
                        }
                    }
                }
            }
            let what = format!("{width} inputs, grouped {grouped}");
            assert_close(&what, &results.of::<f32>(3), &expected, 1e-6);
        }
    }
}
