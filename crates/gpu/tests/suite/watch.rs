//! What the backend counts, and what it notices.

use std::sync::Arc;

use treillage_backend::{
    Choice, DenseData, DenseWeights, Error, Inference, LinearShape, LinearWeights, MoeLayer,
    Routing, SwiGlu,
};
use treillage_gpu::{Activations, Experts, GpuBackend, Norm, Options, linear::Linear};

const WIDTH: usize = 8;
const EXPERTS: usize = 5;

fn dense(in_features: usize, out_features: usize) -> (LinearWeights, LinearShape) {
    let values = (0..in_features * out_features).map(|i| ((i * 7919) % 13) as f32 / 13.0 - 0.5);
    let data = DenseData::F32(Arc::new(values.collect::<Vec<f32>>()));
    let weight = DenseWeights::new(out_features, in_features, data).unwrap();
    let shape = LinearShape {
        in_features,
        out_features,
    };
    (LinearWeights::Dense { weight, bias: None }, shape)
}

/// A routed layer of five experts.
struct Layer {
    norm: Norm,
    router: Linear,
    experts: Experts,
}

impl Layer {
    fn load(backend: &GpuBackend) -> Self {
        let (router, routes) = dense(WIDTH, EXPERTS);
        let (wide, shape) = dense(WIDTH, 16);
        let (narrow, _) = dense(16, WIDTH);
        let expert = SwiGlu {
            gate: wide.clone(),
            up: wide,
            down: narrow,
        };
        Self {
            norm: backend.load_norm(vec![1.0; WIDTH], 1e-6).unwrap(),
            router: backend.load_linear(router, routes).unwrap(),
            experts: backend.load_experts(vec![expert; EXPERTS], shape).unwrap(),
        }
    }

    fn run(&self, backend: &GpuBackend, x: &Activations) -> Activations {
        let routing = Routing::softmax(2, true);
        let layer = MoeLayer {
            router: &self.router,
            correction: None,
            experts: &self.experts,
            shared: None,
        };
        backend.moe(x, &self.norm, layer, &routing).unwrap()
    }
}

fn backend() -> Option<GpuBackend> {
    Some(GpuBackend::on(&crate::support::open(Options::default())?).unwrap())
}

#[test]
fn nothing_falls_back_and_all_is_counted() {
    let Some(backend) = backend() else { return };
    let layer = Layer::load(&backend);
    for rows in [1, 100] {
        let x = backend.upload(&vec![0.25; rows * WIDTH], WIDTH).unwrap();
        backend.read(&layer.run(&backend, &x)).unwrap();
    }
    let counts = backend.telemetry().counts();
    assert_eq!(counts.fallbacks(), 0);
    let dispatch = counts.trellis_moe_dispatch;
    assert_eq!(
        (dispatch.gpu_router_calls, dispatch.gpu_router_success),
        (2, 2)
    );
    assert_eq!(dispatch.total_tokens_processed, 101);
    assert_eq!(dispatch.total_experts_activated, 202);
    let metrics = counts.trellis_moe_metrics;
    assert_eq!((metrics.tokens_processed, metrics.fast_path_used), (101, 2));
    // One token is not sorted.
    let grouping = counts.trellis_mixed_bpw_grouping;
    assert_eq!(grouping.grouping_calls_total, 1);
    assert_eq!(grouping.grouping_gpu_primary_success_total, 1);
    backend.telemetry().reset();
    assert_eq!(backend.telemetry().counts(), Default::default());
}

#[test]
fn a_router_that_meets_nonsense_is_an_error_once() {
    let Some(backend) = backend() else { return };
    let layer = Layer::load(&backend);
    for nonsense in [f32::NAN, f32::INFINITY] {
        let mut values = vec![0.25; 3 * WIDTH];
        values[WIDTH + 1] = nonsense;
        let x = backend.upload(&values, WIDTH).unwrap();
        let y = layer.run(&backend, &x);
        assert!(matches!(backend.read(&y), Err(Error::NotFinite(_))));
        // The device is as good as before.
        let x = backend.upload(&[0.25; WIDTH], WIDTH).unwrap();
        let y = backend.read(&layer.run(&backend, &x)).unwrap();
        assert!(y.iter().all(|value| value.is_finite()));
    }
    assert_eq!(
        backend
            .telemetry()
            .counts()
            .trellis_moe_metrics
            .nan_detected,
        2
    );
}

#[test]
fn the_layer_that_meets_nonsense_first_is_named() {
    let Some(backend) = backend() else { return };
    let layer = Layer::load(&backend);
    // Few rows have a kernel for all that comes before the experts, many have several.
    for (index, rows) in [(5, 3), (9, 40)] {
        let mut values = vec![0.25; rows * WIDTH];
        values[2 * WIDTH + 3] = f32::NAN;
        values[2 * WIDTH + 4] = -7.5;
        let x = backend.upload(&values, WIDTH).unwrap();
        backend.enter_block(index);
        let y = layer.run(&backend, &x);
        // What comes after meets it too.
        backend.enter_block(index + 1);
        let z = layer.run(&backend, &y);
        let error = backend.read(&z).unwrap_err().to_string();
        let place = format!("layer {index} (row 2: 1 values, the others up to 7.5e0)");
        assert!(error.contains(&place), "{error}");
        let guard = backend.telemetry().counts().trellis_nan_guard;
        assert_eq!(guard.total_recoveries, 0);
        let last = guard.sample_triggering_inputs.last().unwrap();
        assert_eq!((last.layer, last.row, last.not_finite), (Some(index), 2, 1));
        assert_eq!(last.largest_finite, 7.5);
    }
    let guard = backend.telemetry().counts().trellis_nan_guard;
    assert_eq!((guard.total_failures, guard.layers_affected), (2, 2));
    assert_eq!(guard.most_affected_layer, Some(5));
    assert!(guard.last_nan_timestamp.is_some());
}

#[test]
fn what_experts_make_of_good_input_is_watched_too() {
    let Some(backend) = backend() else { return };
    let layer = Layer::load(&backend);
    let huge = backend.load_norm(vec![3e38; WIDTH], 1e-6).unwrap();
    let (router, routes) = dense(WIDTH, EXPERTS);
    let router = match router {
        LinearWeights::Dense { weight, bias } => {
            let zeros = DenseData::F32(Arc::new(vec![0.0; WIDTH * EXPERTS]));
            let weight = DenseWeights::new(weight.rows(), weight.cols(), zeros).unwrap();
            LinearWeights::Dense { weight, bias }
        }
        other => other,
    };
    let router = backend.load_linear(router, routes).unwrap();
    let routing = Routing::softmax(2, true);
    let x = backend.upload(&[0.25; WIDTH], WIDTH).unwrap();
    backend.enter_block(4);
    let routed = MoeLayer {
        router: &router,
        correction: None,
        experts: &layer.experts,
        shared: None,
    };
    let y = backend.moe(&x, &huge, routed, &routing);
    backend.enter_block(5);
    let [z] = backend
        .norm_project(&y.unwrap(), &layer.norm, [&layer.router])
        .unwrap();
    let error = backend.read(&z).unwrap_err().to_string();
    assert!(error.contains("layer 4"), "{error}");
}

#[test]
fn tokens_are_chosen_embedded_and_read_late() {
    let Some(backend) = backend() else { return };
    let vocabulary = 5000;
    // Row r prefers token 7 r + 4200.
    let logits: Vec<f32> = (0..3 * vocabulary)
        .map(|i| {
            let (row, id) = (i / vocabulary, i % vocabulary);
            if id == 7 * row + 4200 {
                9.0
            } else {
                (id % 17) as f32 * 0.1
            }
        })
        .collect();
    let logits = backend.upload(&logits, vocabulary).unwrap();
    let tokens = backend.sample(&logits, &Choice::GREEDY).unwrap();
    assert_eq!(tokens.len(), 3);

    let data = DenseData::F32(Arc::new(
        (0..2 * vocabulary).map(|i| i as f32).collect::<Vec<_>>(),
    ));
    let table = DenseWeights::new(vocabulary, 2, data).unwrap();
    let table = backend.load_embedding(table).unwrap();
    // Recorded while they are on their way.
    let rows = backend.embed_tokens(&table, &tokens).unwrap();
    assert_eq!(backend.read_tokens(&tokens).unwrap(), [4200, 4207, 4214]);
    let expected = [8400.0, 8401.0, 8414.0, 8415.0, 8428.0, 8429.0];
    assert_eq!(backend.read(&rows).unwrap(), expected);
}
