//! Grouped linears (INT and FP4 codes with a scale per group of inputs), multiplied straight from their codes.
//!
//! A grouped linear is `y = T(x) Wᵀ + bias`, where `T` reorders and rotates. [`Arranged`] is `T(x)`, laid out for the lanes that
//! codes are read into; [`Arranged::multiply`] does the rest, for a range of outputs, on the calling thread: callers share the
//! ranges out.
//!
//! Codes stay as [`GroupedLinear`](treillage_gptq::GroupedLinear) has them, row-major; lanes run along the inputs of one output. 64 bytes are
//! read at a time, looked up in a table, multiplied, and added up lane by lane; only then come the scales, of which each
//! lane has its own, so that one kernel serves groups of any multiple of 8 weights. Scales are decoded output by
//! output, from the bytes that a file has.
//!
//! | rows | activations | |
//! |---|---|---|
//! | few | f32 | codes become f32 |
//! | few | 8 bits, a step per lane | codes become bytes; sums are exact integers |
//! | more | f32 | 32 outputs are decoded at a time, for a matrix product |
//! | any, other groups | f32 | the same, decoded code by code |

mod exact;
mod few;
mod input;
mod int8;
mod layout;
mod multiply;
mod panel;
mod scales;
mod simd;

pub use input::Arranged;
