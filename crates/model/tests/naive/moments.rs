use treillage_backend::{Quantization, RouteWeighting};
use treillage_cpu::CpuBackend;
use treillage_model::{Block, Embedding, plan, plan::Input};

use crate::{IDS, checkpoint, files, forward, mixed};

#[test]
fn watched_blocks_gather_the_naive_moments() {
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
            let moments = block.watch(&backend, weighting).unwrap();
            let mut cache = block.new_cache(&backend, IDS.len()).unwrap();
            x = block.forward(&backend, &x, &mut cache).unwrap();
            for linear in &block_plan.linears {
                assert!(moments.get(linear.input()).is_some(), "{}", linear.prefix);
            }
            assert!(moments.get(Input::FeedForward).is_some());
            assert!(moments.get(Input::Head).is_none());
            for (input, moments) in moments.iter() {
                let rows = trace.get(&input).cloned().unwrap_or_default();
                let weight = |routed: f64| match weighting {
                    RouteWeighting::Uniform => 1.0,
                    RouteWeighting::Squared => routed * routed,
                };
                let count: f64 = rows.iter().map(|(routed, _)| weight(*routed)).sum();
                let hessian = backend.take_moments(moments).unwrap();
                assert!((hessian.count() - count).abs() <= 1e-4 * count, "{input:?}");
                if rows.is_empty() {
                    continue;
                }
                let mean = hessian.mean();
                let width = rows[0].1.len();
                assert_eq!(mean.shape(), (width, width), "{input:?}");
                for i in 0..width {
                    for j in 0..width {
                        let sum: f64 = rows.iter().map(|(p, r)| weight(*p) * r[i] * r[j]).sum();
                        let (found, expected) = (f64::from(mean[(i, j)]), sum / count);
                        assert!(
                            (found - expected).abs() < 1e-3,
                            "{input:?}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
