use std::path::Path;

use treillage_backend::AttentionInputs;
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;

use super::*;
use crate::plan::{BlockLayout, MixerLayout};

/// What a cache holds of earlier tokens is read from their ids again.
#[test]
fn a_cache_with_nonsense_is_filled_anew() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/micro-qwen3_moe");
    let checkpoint = Checkpoint::open(dir).unwrap();
    let backend = CpuBackend::default();
    let model = Model::load(&backend, &checkpoint, checkpoint.config()).unwrap();
    let ids = [3, 1, 4, 1, 5, 9, 2, 6];
    let expected = model.session(&backend, 16).unwrap().extend(&ids).unwrap();

    let mut session = model.session(&backend, 16).unwrap();
    session.extend(&ids[..7]).unwrap();
    let MixerLayout::Attention(layout) = BlockLayout::new(checkpoint.config(), 1).mixer else {
        panic!("another architecture");
    };
    let spec = layout.spec;
    let cache = &mut session.caches[1];
    assert_eq!(backend.truncate_cache(cache, 4), 4);
    let width = spec.kv_heads * spec.head_dim;
    let [q, k, v] = [(spec.query_width(), 1.0), (width, 1.0), (width, f32::NAN)]
        .map(|(width, value)| backend.upload(&vec![value; 3 * width], width).unwrap());
    let inputs = AttentionInputs {
        q: &q,
        k: &k,
        v: &v,
        q_norm: None,
        k_norm: None,
    };
    backend.attention(inputs, &spec, cache).unwrap();

    let found = session.extend(&ids[7..]).unwrap();
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4 * largest);
    }
    assert_eq!(session.len(), 8);
    assert_eq!(session.rewind(&ids), 7);
    let seen = backend.telemetry().counts().trellis_nan_guard;
    assert_eq!((seen.total_failures, seen.total_recoveries), (1, 1));
    assert_eq!(seen.most_affected_layer, Some(1));
}
