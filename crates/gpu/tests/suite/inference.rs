//! The inference suite that every backend passes, with and without checks in kernels, without subgroups, and on the plain path.

use treillage_gpu::{CacheBits, GpuBackend, Mode, Options};

/// The backend, or the end of the test where there is no device.
macro_rules! backend {
    ($options:expr) => {
        match crate::support::open($options) {
            Some(gpu) => GpuBackend::on(&gpu).unwrap(),
            None => return,
        }
    };
}

mod trusted {
    use super::*;

    treillage_backend::inference_conformance!(backend!(Options::default()), 2e-2);
    treillage_backend::hybrid_conformance!(backend!(Options::default()), 2e-2);
}

mod checked {
    use super::*;

    treillage_backend::inference_conformance!(
        backend!(Options {
            mode: Mode::Checked,
            ..Options::default()
        }),
        2e-2
    );
    treillage_backend::hybrid_conformance!(
        backend!(Options {
            mode: Mode::Checked,
            ..Options::default()
        }),
        2e-2
    );
}

mod plain {
    use super::*;

    macro_rules! plain {
        () => {{
            let backend = backend!(Options::default());
            backend.compute_plainly(true);
            backend
        }};
    }

    treillage_backend::inference_conformance!(plain!(), 2e-2);
    treillage_backend::hybrid_conformance!(plain!(), 2e-2);
}

mod eight_bit_cache {
    use super::*;
    // A value of a cache is off by up to half a step, of which there are 127 to the largest of its head.
    treillage_backend::conformance_tests! {
        [
            backend!(Options {
                cache_bits: CacheBits::Eight,
                ..Options::default()
            }),
            3e-2
        ]
        attention_of_one_head
        attention_of_grouped_heads
        attention_with_partial_rotation
        attention_in_chunks_is_attention_of_the_whole
        attention_after_truncation
        attention_beyond_the_capacity_is_refused
    }
}

mod without_subgroups {
    use super::*;

    treillage_backend::inference_conformance!(
        backend!(Options {
            without_subgroups: true,
            ..Options::default()
        }),
        2e-2
    );
    treillage_backend::hybrid_conformance!(
        backend!(Options {
            without_subgroups: true,
            ..Options::default()
        }),
        2e-2
    );
}
