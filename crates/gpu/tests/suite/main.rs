//! The backend on a device: one program, so that its tests share devices and what was compiled for them.
#![allow(clippy::unwrap_used)] // here a value that is not there is a failed test

mod device;
mod dispatches;
mod encode;
mod grouped;
mod guard;
mod inference;
mod linears;
mod model;
mod quantization;
mod support;
mod watch;
