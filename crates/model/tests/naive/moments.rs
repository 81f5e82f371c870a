use treillage_backend::{Quantization, RouteWeighting};
use treillage_cpu::CpuBackend;
use treillage_model::{Block, Embedding, Head, plan, plan::Input};

use crate::{IDS, checkpoint, files, forward, forward::Row, mixed};

#[test]
fn watched_steps_gather_the_naive_moments() {
    let sizes = mixed(true);
    let dir = tempfile::tempdir().unwrap();
    let tensors = files::write(dir.path(), &sizes, 5);
    let (_, trace) = forward::logits(&sizes, &tensors, &IDS);
    let backend = CpuBackend::default();
    let checkpoint = checkpoint(dir.path());
    let config = checkpoint.config();
    for weighting in [RouteWeighting::Uniform, RouteWeighting::Squared] {
        let mut x = Embedding::load(&backend, &checkpoint, config)
            .unwrap()
            .forward(&backend, &IDS)
            .unwrap();
        for (block_plan, trace) in plan(config).blocks.iter().zip(&trace) {
            let mut block = Block::load(&backend, &checkpoint, config, block_plan.index).unwrap();
            let moments = block.watch(&backend, weighting, &|_| true).unwrap();
            let mut cache = block.new_cache(&backend, IDS.len()).unwrap();
            let mut mixer =
                Block::load_mixer(&backend, &checkpoint, config, block_plan.index).unwrap();
            let mixers = mixer.watch(&backend, weighting, &|_| true).unwrap();
            mixer.forward(&backend, &x, &mut cache).unwrap();
            assert!(mixers.get(Input::AttentionOutput).is_some());
            for (input, moments) in mixers.iter() {
                assert!(input.is_mixers(), "{input:?}");
                assert_moments(&backend, moments, input, &trace[&input], weighting);
            }
            let mut cache = block.new_cache(&backend, IDS.len()).unwrap();
            x = block.forward(&backend, &x, &mut cache).unwrap();
            for linear in &block_plan.linears {
                assert!(moments.get(linear.input()).is_some(), "{}", linear.prefix);
            }
            assert!(moments.get(Input::FeedForward).is_some());
            assert!(moments.get(Input::Head).is_none());
            for (input, moments) in moments.iter() {
                let rows = trace.get(&input).map_or(&[][..], Vec::as_slice);
                assert_moments(&backend, moments, input, rows, weighting);
            }
        }
        let (head, moments) = Head::probe(&backend, &checkpoint, config).unwrap();
        head.forward(&backend, &x).unwrap();
        let rows = &trace[plan(config).blocks.len()][&Input::Head];
        assert_moments(&backend, &moments, Input::Head, rows, weighting);
    }
}

/// That `moments` are those of `rows`, each with its routing weight.
fn assert_moments<B: Quantization>(
    backend: &B,
    moments: &B::Moments,
    input: Input,
    rows: &[(f64, Row)],
    weighting: RouteWeighting,
) {
    let weight = |routed: f64| match weighting {
        RouteWeighting::Uniform => 1.0,
        RouteWeighting::Squared => routed * routed,
    };
    let count: f64 = rows.iter().map(|(routed, _)| weight(*routed)).sum();
    let hessian = backend.take_moments(moments).unwrap();
    let found = hessian.count();
    assert!((found - count).abs() <= 1e-4 * count, "{input:?}: {found}");
    let Some((_, first)) = rows.first() else {
        return;
    };
    let (mean, width) = (hessian.mean(), first.len());
    assert_eq!(mean.shape(), (width, width), "{input:?}");
    for i in 0..width {
        for j in 0..width {
            let products = rows
                .iter()
                .map(|(routed, row)| weight(*routed) * row[i] * row[j]);
            let (found, expected) = (f64::from(mean[(i, j)]), products.sum::<f64>() / count);
            assert!(
                (found - expected).abs() < 1e-3,
                "{input:?}: {found} for {expected}"
            );
        }
    }
}
