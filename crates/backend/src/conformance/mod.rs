//! A suite that every backend passes: each op against a slow and obvious computation in f64.
//!
//! A backend's tests instantiate it with [`inference_conformance!`](crate::inference_conformance),
//! [`hybrid_conformance!`](crate::hybrid_conformance) and
//! [`quantization_conformance!`](crate::quantization_conformance), one `#[test]` per case; [`run_inference`], [`run_hybrid`]
//! and [`run_quantization`] run all cases where there is no test harness, on a user's device say.
//!
//! The tolerance is the largest difference from the reference, as a fraction of the largest value expected: about
//! `1e-5` for arithmetic in f32, `1e-2` for f16.

mod attention;
mod delta;
mod encode;
mod grouped;
mod latent;
mod layer;
mod linears;
mod networks;
mod noise;
mod reference;
mod rows;
mod sampling;
mod watch;

pub use attention::*;
pub use delta::*;
pub use encode::*;
pub use latent::*;
pub use linears::*;
pub use networks::*;
pub use rows::*;
pub use sampling::*;
pub use watch::*;

use crate::{Error, Inference, Quantization};

/// Why a backend does not conform.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// An op failed that should not have.
    #[error(transparent)]
    Op(#[from] Error),
    /// A value is not what it should be.
    #[error("{what}, value {index}: expected {expected}, found {found}")]
    Value {
        /// What was computed.
        what: String,
        /// Which value of it, row-major.
        index: usize,
        /// What the reference gives.
        expected: f64,
        /// What the backend gives.
        found: f64,
    },
    /// Something else that was promised.
    #[error("{0}")]
    Broken(String),
}

/// Lists the cases of a suite for another macro, so that the list is written once.
#[doc(hidden)]
#[macro_export]
macro_rules! for_inference_cases {
    ($with:ident, $($argument:tt)*) => {
        $crate::$with! { [$($argument)*]
            uploads_come_back
            rows_are_selected
            embeddings_are_looked_up
            unknown_tokens_are_refused
            greedy_choices_are_the_largest
            draws_follow_their_choice
            nothing_is_chosen_from_what_is_not_finite
            chosen_tokens_are_embedded
            dense_f32_linears
            dense_f16_linears
            dense_bf16_linears
            trellis_3inst_linears
            trellis_mcg_linears
            trellis_mul1_linears
            grouped_int_linears
            grouped_asymmetric_linears
            grouped_fp4_linears
            grouped_rotated_linears
            mixed_linears_share_an_input
            residuals_are_added
            misshapen_weights_are_refused
            attention_of_one_head
            attention_of_grouped_heads
            attention_with_partial_rotation
            attention_in_chunks_is_attention_of_the_whole
            attention_after_truncation
            attention_beyond_the_capacity_is_refused
            dense_networks
            trellis_networks
            grouped_networks
            dense_experts
            trellis_experts
            grouped_experts
            experts_without_tokens
            experts_of_one_token
        }
    };
}

/// The cases of ops beyond grouped-query attention and a softmax over experts.
#[doc(hidden)]
#[macro_export]
macro_rules! for_hybrid_cases {
    ($with:ident, $($argument:tt)*) => {
        $crate::$with! { [$($argument)*]
            attention_with_output_gates
            attention_with_interleaved_rotation
            latent_attention_of_the_whole
            latent_attention_in_chunks_is_that_of_the_whole
            latent_attention_after_truncation
            latent_attention_of_stored_expansions
            delta_rules_over_the_whole
            delta_rules_in_chunks_are_those_of_the_whole
            delta_rules_go_back_to_marks
            delta_rules_beyond_the_capacity_are_refused
            experts_by_sigmoids
            shared_experts
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! for_quantization_cases {
    ($with:ident, $($argument:tt)*) => {
        $crate::$with! { [$($argument)*]
            watched_linears_gather_their_input
            shared_moments_count_once
            watched_networks_gather_their_inputs
            watched_experts_gather_their_tokens
            watched_shared_experts_gather_every_token
            watched_expansions_gather_latents
            taken_moments_start_anew
            encoded_linears_approximate_their_weights
            encoding_depends_on_the_job_alone
            grouped_linears_approximate_their_weights
            grouping_depends_on_the_job_alone
            weights_that_are_not_finite_are_refused
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ([$backend:expr, $tolerance:expr] $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                if let Err(failure) = $crate::conformance::$case(&$backend, $tolerance) {
                    panic!("{failure}"); // this is a test
                }
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_run {
    ([$backend:expr, $tolerance:expr] $($case:ident)*) => {
        $( $crate::conformance::$case($backend, $tolerance)?; )*
    };
}

/// One `#[test]` per case of the inference suite, for a backend and a tolerance:
/// `inference_conformance!(CpuBackend::default(), 1e-5);`
#[macro_export]
macro_rules! inference_conformance {
    ($backend:expr, $tolerance:expr) => {
        $crate::for_inference_cases! { conformance_tests, $backend, $tolerance }
    };
}

/// As [`inference_conformance!`], for the ops of hybrid architectures: latent attention, gated attention, the delta rule,
/// sigmoid routing and shared experts.
#[macro_export]
macro_rules! hybrid_conformance {
    ($backend:expr, $tolerance:expr) => {
        $crate::for_hybrid_cases! { conformance_tests, $backend, $tolerance }
    };
}

/// One `#[test]` per case of the quantization suite, for a backend and a tolerance.
#[macro_export]
macro_rules! quantization_conformance {
    ($backend:expr, $tolerance:expr) => {
        $crate::for_quantization_cases! { conformance_tests, $backend, $tolerance }
    };
}

/// Runs the inference suite.
///
/// # Errors
/// The first [`Failure`].
pub fn run_inference<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    crate::for_inference_cases! { conformance_run, backend, tolerance }
    Ok(())
}

/// Runs the suite of hybrid architectures' ops.
///
/// # Errors
/// The first [`Failure`].
pub fn run_hybrid<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    crate::for_hybrid_cases! { conformance_run, backend, tolerance }
    Ok(())
}

/// Runs the quantization suite.
///
/// # Errors
/// The first [`Failure`].
pub fn run_quantization<B: Quantization>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    crate::for_quantization_cases! { conformance_run, backend, tolerance }
    Ok(())
}

/// Fails unless `found` is `expected` to within `tolerance` of the largest value expected.
fn compare(
    what: impl Into<String>,
    expected: &[f64],
    found: &[f32],
    tolerance: f64,
) -> Result<(), Failure> {
    let what = what.into();
    if expected.len() != found.len() {
        return Err(Failure::Broken(format!(
            "{what}: expected {} values, found {}",
            expected.len(),
            found.len()
        )));
    }
    let largest = expected.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (index, (&expected, &found)) in expected.iter().zip(found).enumerate() {
        let found = f64::from(found);
        let close = (expected - found).abs() <= tolerance * largest;
        if !close {
            return Err(Failure::Value {
                what,
                index,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Fails with `broken` unless `holds`.
fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::Broken(broken()))
    }
}
