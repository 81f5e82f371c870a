//! The quantization suite that every backend passes, with and without checks in kernels.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

mod support;

use treillage_gpu::{GpuBackend, Mode, Options};

/// The backend, or the end of the test where there is no device.
macro_rules! backend {
    ($options:expr) => {
        match support::open(Options {
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
