use crate::harness::{Params, Random, assert_close, bytes, constant, device, specializations};

/// A grid of two dimensions for `count` values.
fn grid(count: usize, size: usize) -> [usize; 3] {
    let groups = count.div_ceil(size);
    let x = groups.min(7);
    [x, groups.div_ceil(x), 1]
}

#[test]
fn add_adds() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "add") {
        for count in [1, 255, 5000] {
            let mut random = Random::new(1);
            let (a, b) = (random.values(count), random.values(count));
            let params = Params::default().u(count);
            let results = device.run(
                "add",
                &specialization,
                &[bytes(&a), bytes(&b), vec![0; 4 * count]],
                params.bytes(),
                grid(count, constant(&specialization, "WG")),
            );
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_eq!(results.of::<f32>(2), expected);
        }
    }
}

#[test]
fn swiglu_is_right_and_finite_at_the_extremes() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "swiglu") {
        for count in [1, 1000] {
            let mut random = Random::new(2);
            let mut gate: Vec<f32> = random.values(count).iter().map(|x| x * 20.0).collect();
            let up = random.values(count);
            gate[0] = -200.0;
            if let Some(last) = gate[1..].last_mut() {
                *last = 200.0;
            }
            let params = Params::default().u(count);
            let results = device.run(
                "swiglu",
                &specialization,
                &[bytes(&gate), bytes(&up), vec![0; 4 * count]],
                params.bytes(),
                grid(count, constant(&specialization, "WG")),
            );
            let expected: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(&g, &u)| f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u))
                .collect();
            let found = results.of::<f32>(2);
            assert_eq!(found[0], 0.0);
            assert_close("swiglu", &found, &expected, 1e-6);
        }
    }
}
