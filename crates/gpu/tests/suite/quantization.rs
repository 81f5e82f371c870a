//! The quantization suite that every backend passes, with and without checks in kernels.

use std::sync::Arc;

use treillage_backend::{
    DenseData, DenseWeights, Inference, LinearShape, LinearWeights, MoeLayer, Quantization,
    RouteWeighting, Routing, SwiGlu,
};
use treillage_gpu::{GpuBackend, Mode, Options};

/// The backend, or the end of the test where there is no device.
macro_rules! backend {
    ($options:expr) => {
        match crate::support::open(Options {
            exact: true,
            ..$options
        }) {
            Some(gpu) => GpuBackend::on(&gpu).unwrap(),
            None => return,
        }
    };
}

treillage_backend::quantization_conformance!(backend!(Options::default()), 2e-2);

mod checked {
    use super::*;

    treillage_backend::conformance_tests! {
        [
            backend!(Options {
                mode: Mode::Checked,
                ..Options::default()
            }),
            2e-2
        ]
        watched_networks_gather_their_inputs
        watched_experts_gather_their_tokens
        watched_shared_experts_gather_every_token
        watched_expansions_gather_latents
    }
}

/// Sums need not lie one behind the other: what was gathered before keeps its place.
#[test]
fn experts_gather_the_same_wherever_their_sums_lie() {
    let backend = backend!(Options::default());
    let (count, width, inner) = (5, 130, 20);
    let dense = |rows: usize, columns: usize, seed: usize| {
        let value = |i: usize| ((i * 37 + seed * 11) % 29) as f32 / 29.0 - 0.5;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        let weight = DenseWeights::new(rows, columns, DenseData::F32(Arc::new(values))).unwrap();
        LinearWeights::Dense { weight, bias: None }
    };
    let shape = |in_features, out_features| LinearShape {
        in_features,
        out_features,
    };
    let experts = (0..count).map(|expert| SwiGlu {
        gate: dense(inner, width, expert),
        up: dense(inner, width, expert + 1),
        down: dense(width, inner, expert + 2),
    });
    let mut experts = backend
        .load_experts(experts.collect(), shape(width, inner))
        .unwrap();
    let router = backend.load_linear(dense(count, width, 9), shape(width, count));
    let router = router.unwrap();
    let norm = backend.load_norm(vec![1.0; width], 1e-6).unwrap();
    let x: Vec<f32> = (0..17 * width)
        .map(|i| ((i * 53) % 31) as f32 - 15.0)
        .collect();
    let x = backend.upload(&x, width).unwrap();

    let moments = |width: usize| -> Vec<_> {
        let new = (0..count).map(|_| Some(backend.new_moments(width).unwrap()));
        new.collect()
    };
    let mut gathered = Vec::new();
    for apart in [false, true] {
        let (inputs, downs) = (moments(width), moments(inner));
        if apart {
            let mut linear = backend
                .load_linear(dense(3, width, 4), shape(width, 3))
                .unwrap();
            let third = inputs[2].as_ref().unwrap();
            backend.watch(&mut linear, third).unwrap();
            backend.norm_project(&x, &norm, [&linear]).unwrap();
            assert_eq!(backend.take_moments(third).unwrap().rows(), 17);
        }
        let weighting = RouteWeighting::Squared;
        backend
            .watch_experts(&mut experts, &inputs, &downs, weighting)
            .unwrap();
        let layer = MoeLayer {
            router: &router,
            correction: None,
            experts: &experts,
            shared: None,
        };
        let routing = Routing::softmax(2, true);
        backend.moe(&x, &norm, layer, &routing).unwrap();
        let taken = inputs.iter().chain(&downs).flatten();
        let taken: Vec<_> = taken.map(|m| backend.take_moments(m).unwrap()).collect();
        let rows: u64 = taken[..count].iter().map(|hessian| hessian.rows()).sum();
        assert_eq!(rows, 2 * 17);
        gathered.push(taken);
    }
    for (together, apart) in gathered[0].iter().zip(&gathered[1]) {
        assert_eq!(together.rows(), apart.rows());
        assert_eq!(together.mean(), apart.mean());
    }
}
