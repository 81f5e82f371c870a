//! What the crate promises, checked against slow definitions and nalgebra's own factorizations.

mod common;
mod factor;
mod gemm;
mod hadamard;
mod hessian;
