//! Choosing tokens on the device: the token that is chosen there is embedded there, and reaches the host late.

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Choice, Error};

use super::WORKGROUP;
use crate::{Context, Download, Slice, Tensor};

/// Logits that a workgroup of the first steps takes.
const CHUNK: usize = 4096;
/// Bins of weights, each a count and a sum.
const BINS: usize = 256;

/// Ids of tokens that are on the device, and on their way to the host.
#[derive(Clone, Debug)]
pub struct Tokens {
    ids: Tensor,
    arrival: Arc<Mutex<Arrival>>,
}

/// How far ids have come.
#[derive(Debug)]
enum Arrival {
    /// They and the flags are on their way.
    Pending(Download<2>),
    /// They are here; `None` if there was nothing to choose.
    Here(Option<Vec<u32>>),
    /// Waiting for them failed, and the device with it.
    Lost,
}

impl Tokens {
    /// `ids`, submitted together with all that is recorded.
    pub(crate) fn submit(context: &Context, ids: Tensor, flags: &Slice) -> Self {
        let download = context.recorder.download([&ids.slice(), flags]);
        Self {
            ids,
            arrival: Arc::new(Mutex::new(Arrival::Pending(download))),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ids.width()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn slice(&self) -> Slice {
        self.ids.slice()
    }

    /// Waits for them, not for what was submitted later. `check` says whether the flags are as they should be.
    pub(crate) fn wait(
        &self,
        check: impl FnOnce(&[u8]) -> Result<(), Error>,
    ) -> Result<Vec<u32>, Error> {
        let mut arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner);
        if let Arrival::Pending(download) = std::mem::replace(&mut *arrival, Arrival::Lost) {
            let [ids, flags] = download.wait()?;
            let checked = check(&flags);
            let mut ids: Vec<u32> = bytemuck::pod_collect_to_vec(&ids);
            ids.truncate(self.len());
            *arrival = Arrival::Here(checked.is_ok().then_some(ids));
            checked?;
        }
        match &*arrival {
            Arrival::Here(Some(ids)) => Ok(ids.clone()),
            Arrival::Here(None) => Err(Error::NotFinite("a logit".to_owned())),
            Arrival::Pending(_) | Arrival::Lost => Err(Error::Device(
                "tokens were lost with their device".to_owned(),
            )),
        }
    }
}

/// The id of a token for each row of `logits`; with a temperature, for a single row. Raises flag `flag` where a logit is NaN or +∞, or none is finite.
pub(crate) fn sample(
    context: &Context,
    logits: &Tensor,
    choice: &Choice,
    (flags, flag): (&Slice, u32),
) -> Result<Tensor, Error> {
    let (rows, vocabulary) = (logits.rows(), logits.width());
    let chunks = vocabulary.div_ceil(CHUNK);
    let maxima = context.tensor(rows, 2 * chunks)?;
    let ids = context.tensor(1, rows)?;
    scan(context, logits, &maxima)?;
    if choice.temperature == 0.0 {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            chunks: u32,
            flag: u32,
        }
        context.run(
            "sample_greedy",
            &[("WG", WORKGROUP.into())],
            &[&maxima.slice(), &ids.slice(), flags],
            &Params {
                chunks: chunks as u32,
                flag,
            },
            [rows as u32, 1, 1],
        )?;
        return Ok(ids);
    }
    Error::check_shape("rows to draw a token from", 1, rows)?;
    let inverse_temperature = 1.0 / choice.temperature.max(1e-5);
    let bins = context.tensor(chunks, 2 * BINS)?;
    let sums = context.tensor(chunks, 4)?;
    histogram(
        context,
        [logits, &maxima, &bins, &sums],
        inverse_temperature,
        choice.min_p,
    )?;
    // A draw of exactly one would lie behind all tokens.
    let draw = (choice.uniform as f32).clamp(0.0, 1.0 - f32::EPSILON);
    if choice.keeps_all() {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            vocabulary: u32,
            chunks: u32,
            flag: u32,
            inverse_temperature: f32,
            draw: f32,
        }
        context.run(
            "sample_all",
            &[("WG", WORKGROUP.into())],
            &[
                &logits.slice(),
                &maxima.slice(),
                &sums.slice(),
                &ids.slice(),
                flags,
            ],
            &Params {
                vocabulary: vocabulary as u32,
                chunks: chunks as u32,
                flag,
                inverse_temperature,
                draw,
            },
            [1, 1, 1],
        )?;
        return Ok(ids);
    }
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        vocabulary: u32,
        chunks: u32,
        top_k: u32,
        flag: u32,
        inverse_temperature: f32,
        top_p: f32,
        min_p: f32,
        draw: f32,
    }
    context.run(
        "sample_filtered",
        &[("WG", WORKGROUP.into())],
        &[
            &logits.slice(),
            &maxima.slice(),
            &bins.slice(),
            &sums.slice(),
            &ids.slice(),
            flags,
        ],
        &Params {
            vocabulary: vocabulary as u32,
            chunks: chunks as u32,
            top_k: u32::try_from(choice.top_k).unwrap_or(u32::MAX),
            flag,
            inverse_temperature,
            top_p: choice.top_p,
            min_p: choice.min_p,
            draw,
        },
        [1, 1, 1],
    )?;
    Ok(ids)
}

/// The largest logit of each chunk.
fn scan(context: &Context, logits: &Tensor, maxima: &Tensor) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        vocabulary: u32,
        stride: u32,
    }
    let vocabulary = logits.width() as u32;
    context.run(
        "sample_scan",
        &[("WG", WORKGROUP.into())],
        &[&logits.slice(), &maxima.slice()],
        &Params {
            vocabulary,
            stride: vocabulary,
        },
        [vocabulary.div_ceil(CHUNK as u32), logits.rows() as u32, 1],
    )?;
    Ok(())
}

/// How the weight of each chunk is distributed.
fn histogram(
    context: &Context,
    [logits, maxima, bins, sums]: [&Tensor; 4],
    inverse_temperature: f32,
    min_p: f32,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        vocabulary: u32,
        inverse_temperature: f32,
        min_p: f32,
    }
    context.run(
        "sample_histogram",
        &[("WG", WORKGROUP.into()), ("REDUCE", context.reduce())],
        &[
            &logits.slice(),
            &maxima.slice(),
            &bins.slice(),
            &sums.slice(),
        ],
        &Params {
            vocabulary: logits.width() as u32,
            inverse_temperature,
            min_p,
        },
        [sums.rows() as u32, 1, 1],
    )?;
    Ok(())
}
