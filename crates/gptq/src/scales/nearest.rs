//! Codes without error feedback.

use rayon::prelude::*;

use super::{GroupScales, check_config, check_len, check_weights};
use crate::{Config, Element, Error, e2m1, int};

/// The code nearest to each of `weights`, `[out, in]` row-major, a byte each: what [`Solver::Rtn`](crate::Solver::Rtn)
/// is.
///
/// # Errors
/// [`Error::Group`], [`Error::Shape`], [`Error::NotFinite`].
pub fn round_to_nearest(
    weights: &[f32],
    out_features: usize,
    in_features: usize,
    scales: &GroupScales,
    config: &Config,
) -> Result<Vec<u8>, Error> {
    check_config(config, in_features)?;
    check_weights(weights, out_features, in_features)?;
    let groups = in_features / config.group;
    check_len("scales", out_features * groups, scales.scales.len())?;
    if let Some(zeros) = &scales.zeros {
        check_len("zeros", out_features * groups, zeros.len())?;
    }
    let element = config.format.element();
    let mut codes = vec![0; weights.len()];
    let arch = pulp::Arch::new();
    (codes.par_chunks_exact_mut(in_features))
        .zip(weights.par_chunks_exact(in_features))
        .enumerate()
        .for_each(|(output, (codes, weights))| {
            arch.dispatch(Row {
                codes,
                weights,
                group: config.group,
                scales,
                first: output * groups,
                element,
            });
        });
    Ok(codes)
}

/// One output, whose loops are compiled for the vectors that this machine has.
struct Row<'a> {
    codes: &'a mut [u8],
    weights: &'a [f32],
    group: usize,
    scales: &'a GroupScales,
    /// The first of its groups.
    first: usize,
    element: Element,
}

impl pulp::NullaryFnOnce for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let groups =
            (self.codes.chunks_exact_mut(self.group)).zip(self.weights.chunks_exact(self.group));
        for ((codes, weights), at) in groups.zip(self.first..) {
            let scale = self.scales.scales.get(at);
            match self.element {
                Element::E2m1 => {
                    for (code, weight) in codes.iter_mut().zip(weights) {
                        *code = e2m1::encode(weight / scale);
                    }
                }
                Element::Int(bits) => {
                    let zeros = self.scales.zeros.as_ref();
                    let zero = zeros.map_or(bits.middle(), |zeros| zeros[at]);
                    for (code, weight) in codes.iter_mut().zip(weights) {
                        *code = int::encode(weight / scale, zero, bits);
                    }
                }
            }
        }
    }
}
