//! Quantizing, whole: one program, for what is generic over backends is compiled anew in each. What counts the
//! process's memory, or is killed, has one of its own.
#![allow(clippy::unwrap_used)] // here a value that is not there is a failed test

mod architectures;
mod fold;
mod full_width;
mod gptq;
mod gpu;
mod quantize;
#[path = "../support/mod.rs"]
mod support;
