//! The inference suite that every backend passes, with and without checks in kernels, and without subgroups.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

mod support;

use treillage_gpu::{GpuBackend, Mode, Options};

/// The backend, or the end of the test where there is no device.
macro_rules! backend {
    ($options:expr) => {
        match support::open($options) {
            Some(gpu) => GpuBackend::on(&gpu).unwrap(),
            None => return,
        }
    };
}

mod trusted {
    use super::*;

    treillage_backend::inference_conformance!(backend!(Options::default()), 2e-2);
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
}
