//! Linears to trellis codes: the device searches and fits scales, the host prepares the next meanwhile.

use std::borrow::Cow;
use std::sync::Arc;

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_backend::{EncodeJob, Error};
use treillage_trellis::viterbi::Effort;
use treillage_trellis::{
    Bits, Codebook, EncodeConfig, Encoded, Fitted, Preparation, ROTATION, TILE_WEIGHTS, padded,
    tile,
};

use super::ldlq::{self, Size};
use super::refit::{Coming, Refit};
use super::{TileEncoder, Tuning};
use crate::Context;

/// Device memory for weights and factors of linears that are encoded together. As much again goes with them: their values, and what
/// scales are fitted to.
const AT_ONCE: u64 = 1 << 29;

/// Encodes linears, as `treillage_trellis::encode_linear` does, in the order given. Neighbours of one size, rate and codebook are
/// encoded together; what comes out does not depend on it.
///
/// # Errors
/// What the device reports; [`Error::Encode`] naming the linear that cannot be encoded; weights or Hessians that are not of the
/// size they are said to be.
pub fn encode_trellis(
    context: &Context,
    jobs: Vec<EncodeJob<EncodeConfig>>,
    tuning: Tuning,
) -> Result<Vec<Encoded>, Error> {
    let hessians: Vec<_> = jobs.iter().map(|job| job.hessian.clone()).collect();
    let mut waiting = batches(context, jobs, &hessians)?.into_iter();
    let mut encoders = Encoders {
        context,
        tuning,
        last: None,
    };
    let mut encoded = Vec::new();
    let mut ready = waiting.next().map(Batch::prepare).transpose()?;
    let mut coded = None;
    while ready.is_some() || coded.is_some() {
        let finish: Option<(Prepared<'_>, Vec<Codes>)> = coded.take();
        let (codes, (next, finished)) = rayon::join(
            || {
                ready
                    .as_mut()
                    .map(|batch| encoders.encode(batch))
                    .transpose()
            },
            || {
                let finished = finish.map(|(batch, codes)| batch.finish(codes)).transpose();
                (waiting.next().map(Batch::prepare).transpose(), finished)
            },
        );
        encoded.extend(finished?.unwrap_or_default());
        coded = ready.take().zip(codes?);
        ready = next?;
    }
    Ok(encoded)
}

/// How a batch is encoded.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    bits: Bits,
    codebook: Codebook,
    effort: Effort,
}

/// Linears to be encoded together, each with its Hessian.
struct Batch<'a> {
    size: Size,
    kind: Kind,
    jobs: Vec<(EncodeJob<EncodeConfig>, Option<&'a DMatrix<f32>>)>,
}

/// The same, ready for codes.
struct Prepared<'a> {
    size: Size,
    kind: Kind,
    names: Vec<String>,
    linears: Vec<Preparation<'a>>,
}

/// Jobs in their order, neighbours together as far as memory allows.
fn batches<'a>(
    context: &Context,
    jobs: Vec<EncodeJob<EncodeConfig>>,
    hessians: &'a [Option<Arc<DMatrix<f32>>>],
) -> Result<Vec<Batch<'a>>, Error> {
    let binding = context.gpu().max_binding();
    let mut batches: Vec<Batch<'a>> = Vec::new();
    for (job, hessian) in jobs.into_iter().zip(hessians) {
        job.check()?;
        let size = Size {
            rows: job.shape.in_features.next_multiple_of(ROTATION),
            columns: job.shape.out_features.next_multiple_of(ROTATION),
        };
        let kind = Kind {
            bits: job.config.bits,
            codebook: job.config.codebook,
            effort: job.config.effort,
        };
        let most = size.fit(AT_ONCE, binding);
        let job = (job, hessian.as_deref());
        match batches.last_mut() {
            Some(batch) if (batch.size, batch.kind) == (size, kind) && batch.jobs.len() < most => {
                batch.jobs.push(job)
            }
            _ => batches.push(Batch {
                size,
                kind,
                jobs: vec![job],
            }),
        }
    }
    Ok(batches)
}

impl<'a> Batch<'a> {
    fn prepare(self) -> Result<Prepared<'a>, Error> {
        let jobs = self.jobs.into_par_iter().with_max_len(1);
        let prepared: Vec<_> = jobs.map(prepare).collect::<Result<_, _>>()?;
        let (names, linears) = prepared.into_iter().unzip();
        Ok(Prepared {
            size: self.size,
            kind: self.kind,
            names,
            linears,
        })
    }
}

fn prepare(
    (job, hessian): (EncodeJob<EncodeConfig>, Option<&DMatrix<f32>>),
) -> Result<(String, Preparation<'_>), Error> {
    // Row-major `[out, in]` is column-major `(in, out)`.
    let (rows, columns) = (job.shape.in_features, job.shape.out_features);
    let weights = padded(Cow::Owned(DMatrix::from_vec(rows, columns, job.weights)));
    let hessian = hessian.map(|hessian| padded(Cow::Borrowed(hessian)));
    match Preparation::new(weights, hessian, &job.config) {
        Ok(linear) => Ok((job.name, linear)),
        Err(source) => Err(Error::Encode {
            linear: job.name,
            source,
        }),
    }
}

impl Prepared<'_> {
    fn finish(self, codes: Vec<Codes>) -> Result<Vec<Encoded>, Error> {
        let linears = self.linears.into_par_iter().with_max_len(1);
        let finished =
            linears
                .zip(codes)
                .zip(self.names)
                .map(|((linear, (words, fitted)), name)| {
                    let fitted = fitted.map_or_else(|| linear.fit(&words), Ok);
                    let finished = fitted.and_then(|fitted| linear.finish(words, fitted));
                    finished.map_err(|source| Error::Encode {
                        linear: name,
                        source,
                    })
                });
        finished.collect()
    }
}

/// Packed words, and the scales that fit them best where the device has found them: not without a metric, where that is little to
/// find, nor of linears that are a batch alone, of which it would hold six copies.
type Codes = (Vec<u16>, Option<Fitted>);

/// Encoders, of which one is kept for the next batch.
struct Encoders<'a> {
    context: &'a Context,
    tuning: Tuning,
    last: Option<(Kind, TileEncoder)>,
}

impl Encoders<'_> {
    /// Settles the scales of a batch, encodes it, and fits scales to the codes.
    fn encode(&mut self, batch: &mut Prepared<'_>) -> Result<Vec<Codes>, Error> {
        let (kind, context) = (batch.kind, self.context);
        let Kind {
            bits,
            codebook,
            effort,
        } = kind;
        let encoder = match self.last.take() {
            Some((last, encoder)) if last == kind => encoder,
            _ => TileEncoder::new(context, bits, codebook, effort, self.tuning)?,
        };
        settle(context, &encoder, bits, &mut batch.linears)?;
        let coming = ldlq::encode(context, &encoder, &batch.linears, batch.size)?;
        self.last = Some((kind, encoder));
        let fitted = match batch.size.weights() > AT_ONCE {
            true => vec![None; batch.linears.len()],
            false => fit(context, &batch.linears, &coming)?,
        };
        Ok(coming.wait()?.into_iter().zip(fitted).collect())
    }
}

/// The scales that fit `codes` best.
fn fit(
    context: &Context,
    linears: &[Preparation<'_>],
    codes: &ldlq::Coming,
) -> Result<Vec<Option<Fitted>>, crate::Error> {
    // Who cannot be stored is reported by who finishes.
    let to_fit: Vec<_> = linears.iter().map(|linear| linear.to_fit().ok()).collect();
    let mut refit = Refit::new(context);
    let mut coming = Vec::with_capacity(linears.len());
    for (index, linear) in to_fit.iter().enumerate() {
        let measured = linear.as_ref().and_then(|l| Some((l, l.hessian?)));
        let fit = measured.map(|(l, hessian)| refit.begin(l, hessian, &codes.values(index)));
        coming.push(fit.transpose()?);
    }
    let fitted = coming.into_iter().map(|c| c.map(Coming::wait).transpose());
    fitted.collect()
}

/// Encodes the samples of all linears at once.
fn settle(
    context: &Context,
    encoder: &TileEncoder,
    bits: Bits,
    linears: &mut [Preparation<'_>],
) -> Result<(), crate::Error> {
    let samples: Vec<_> = linears.iter().map(Preparation::samples).collect();
    let words = encoder.encode(context, samples.concat().as_flattened())?;
    let tiles = words.par_chunks_exact(bits.words_per_tile());
    let states: Vec<[u16; TILE_WEIGHTS]> =
        tiles.map(|tile| tile::unpack_states(tile, bits)).collect();
    let mut rest = &states[..];
    let own = samples.iter().map(|samples| {
        let (own, others) = rest.split_at(samples.len());
        rest = others;
        own
    });
    let own: Vec<_> = own.collect();
    linears
        .par_iter_mut()
        .zip(own)
        .for_each(|(linear, states)| linear.settle(states));
    Ok(())
}
