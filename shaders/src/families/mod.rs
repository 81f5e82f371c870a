//! The families of kernels, a file each: its sources, its kernels, the constants they are tested with.

mod attention;
mod common;
mod delta;
mod elementwise;
mod encode;
mod latent;
pub(crate) mod linear;
mod moments;
mod norm;
mod quantize;
mod refit;
mod routing;
mod rows;
mod sampling;

use crate::registry::Family;

/// All of them.
pub(crate) const FAMILIES: &[&Family] = &[
    &common::FAMILY,
    &elementwise::FAMILY,
    &linear::FAMILY,
    &norm::FAMILY,
    &rows::FAMILY,
    &routing::FAMILY,
    &attention::FAMILY,
    &latent::FAMILY,
    &delta::FAMILY,
    &sampling::FAMILY,
    &moments::FAMILY,
    &encode::FAMILY,
    &quantize::FAMILY,
    &refit::FAMILY,
];
