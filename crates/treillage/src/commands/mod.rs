//! The commands, one file each: its arguments, what it does, what it says.

pub(crate) mod chat;
pub(crate) mod demo;
pub(crate) mod dequantize;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod quantize;
pub(crate) mod sampling;
