//! What the crate promises, checked against slow definitions and nalgebra's own factorizations.
#![allow(clippy::unwrap_used)] // here a value that is not there is a failed test

mod common;
mod factor;
mod gemm;
mod hadamard;
mod hessian;
