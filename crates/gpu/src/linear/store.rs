//! How linears lie in the device's memory.
//!
//! A stack of experts is one run of 32-bit words: a header of eight words for each expert, then its sections, each at a multiple of
//! 256 bytes. Header: kind; where the codes are; input scales (trellis) or input order; output scales (trellis) or group scales; bias;
//! width of the output; zero points; factor of the scales, or what the codebook flips. Places are counted in words from the start of
//! the buffer, and are [`NONE`] for what is not there.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use treillage_backend::{DenseData, DenseWeights, Error, LinearShape, LinearWeights};
use treillage_gptq::{Element, GroupedLinear, IntBits, Rotation, Scales};
use treillage_shaders::{rows, trellis};
use treillage_trellis::{Codebook, PackedLinear};

use crate::{Context, Slice};

/// Words of a header.
pub(super) const HEADER: usize = 8;
/// The place of what is not there.
const NONE: u32 = u32::MAX;
/// Sections start at multiples of so many words.
const ALIGN: usize = 64;
/// Sections of an expert.
const SECTIONS: usize = 5;
/// Where a header says where a section is.
const PLACES: [usize; SECTIONS] = [1, 2, 3, 4, 6];

/// What a kernel must know to multiply with a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Trellis {
        bits: usize,
        codebook: trellis::Codebook,
    },
    Rows {
        format: rows::Format,
        zeros: bool,
        ordered: bool,
        /// Inputs that are rotated together, 1 for none.
        rotation: usize,
    },
}

impl Kind {
    /// Where in that word rates of trellis codes are: kernels take several at once.
    const RATE: u32 = 0xF0;

    /// The word that headers of each of `kinds` have in the bits of the second: kinds that one kernel takes.
    pub(super) fn code_of(kinds: &[Self]) -> (u32, u32) {
        let mask = if kinds.len() > 1 {
            !Self::RATE
        } else {
            u32::MAX
        };
        (kinds.first().map_or(0, |kind| kind.code()) & mask, mask)
    }

    /// Whether a kernel that takes `other` takes this too.
    pub(super) fn goes_with(self, other: Self) -> bool {
        match (self, other) {
            (Kind::Trellis { codebook, .. }, Kind::Trellis { codebook: with, .. }) => {
                codebook == with
            }
            _ => self == other,
        }
    }

    /// The word that headers of this kind begin with.
    fn code(self) -> u32 {
        let word = match self {
            Kind::Trellis { bits, codebook } => 1 << 31 | bits << 4 | codebook as usize,
            Kind::Rows {
                format,
                zeros,
                ordered,
                rotation,
            } => {
                format.group << 15
                    | (rotation.ilog2() as usize) << 10
                    | usize::from(zeros) << 9
                    | usize::from(ordered) << 8
                    | (format.weights as usize) << 4
                    | format.scales as usize
            }
        };
        word as u32
    }

    /// Whether kernels prepare the input of such a linear before they multiply.
    pub(super) fn prepares_input(self) -> bool {
        match self {
            Kind::Trellis { .. } => true,
            Kind::Rows {
                ordered, rotation, ..
            } => ordered || rotation > 1,
        }
    }

    /// Bytes that the weights of a linear of this kind take, scales apart.
    pub(super) fn bytes(self, shape: LinearShape) -> u64 {
        match self {
            Kind::Trellis { bits, .. } => (shape.weights() * bits / 8) as u64,
            Kind::Rows { format, .. } => {
                let words = chunks(shape.in_features) * format.weights.words();
                (shape.out_features * words * 4) as u64
            }
        }
    }
}

/// Groups of eight inputs.
pub(super) fn chunks(inputs: usize) -> usize {
    inputs.div_ceil(8)
}

/// A linear in the form in which it is stored.
enum Source<'a> {
    Trellis(&'a PackedLinear),
    Grouped(&'a GroupedLinear, Kind),
    Dense(DenseWeights, Option<&'a [f32]>),
}

impl<'a> Source<'a> {
    fn new(weights: &'a LinearWeights) -> Result<Self, Error> {
        Ok(match weights {
            LinearWeights::Trellis(packed) => Self::Trellis(packed),
            LinearWeights::Dense { weight, bias } => Self::Dense(weight.clone(), bias.as_deref()),
            LinearWeights::Grouped(grouped) => match grouped_kind(grouped) {
                Some(kind) => Self::Grouped(grouped, kind),
                None => {
                    // Groups that cut through groups of eight: no kernel is worth it.
                    let values = grouped.dequantize();
                    let data = DenseData::F32(std::sync::Arc::new(values));
                    let (rows, cols) = (grouped.out_features(), grouped.in_features());
                    let bias = grouped.parts().bias.as_deref();
                    Self::Dense(DenseWeights::new(rows, cols, data)?, bias)
                }
            },
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Trellis(packed) => Kind::Trellis {
                bits: packed.bits().get(),
                codebook: match packed.codebook() {
                    Codebook::ThreeInst => trellis::Codebook::ThreeInst,
                    Codebook::Mcg => trellis::Codebook::Mcg,
                    Codebook::Mul1 => trellis::Codebook::Mul1,
                },
            },
            Self::Grouped(_, kind) => *kind,
            Self::Dense(weight, _) => Kind::Rows {
                format: rows::Format {
                    weights: match weight.data() {
                        DenseData::F32(_) => rows::Weights::F32,
                        DenseData::F16(_) => rows::Weights::F16,
                        DenseData::Bf16(_) => rows::Weights::Bf16,
                    },
                    scales: rows::Scales::None,
                    group: 1,
                },
                zeros: false,
                ordered: false,
                rotation: 1,
            },
        }
    }

    /// Words of each section, 0 for one that is not there.
    fn sizes(&self) -> [usize; SECTIONS] {
        match self {
            Self::Trellis(packed) => {
                let (inputs, outputs) = (packed.in_features(), packed.out_features());
                let bias = packed.bias().map_or(0, |_| outputs / 2);
                [packed.words().len() / 2, inputs / 2, outputs / 2, bias, 0]
            }
            Self::Grouped(grouped, _) => {
                let parts = grouped.parts();
                [
                    grouped.out_features() * grouped.row_bytes() / 4,
                    parts.order.as_ref().map_or(0, Vec::len),
                    scale_bytes(&parts.scales).div_ceil(4),
                    parts.bias.as_ref().map_or(0, Vec::len),
                    parts.zeros.as_ref().map_or(0, |z| z.len().div_ceil(4)),
                ]
            }
            Self::Dense(weight, bias) => {
                let words = match weight.data() {
                    DenseData::F32(_) => 8,
                    DenseData::F16(_) | DenseData::Bf16(_) => 4,
                };
                let codes = weight.rows() * chunks(weight.cols()) * words;
                [codes, 0, 0, bias.map_or(0, <[f32]>::len), 0]
            }
        }
    }

    /// The bytes of a section, up to three fewer than its words.
    fn section(&self, section: usize) -> Vec<u8> {
        let halves = |values: &[f16]| bytemuck::cast_slice(values).to_vec();
        match (self, section) {
            (Self::Trellis(packed), 0) => bytemuck::pod_collect_to_vec(&repack(packed)),
            (Self::Trellis(packed), 1) => halves(packed.suh()),
            (Self::Trellis(packed), 2) => halves(packed.svh()),
            (Self::Trellis(packed), 3) => packed.bias().map_or_else(Vec::new, halves),
            (Self::Grouped(grouped, _), _) => {
                let parts = grouped.parts();
                match section {
                    0 => parts.codes.clone(),
                    1 => bytes_of(parts.order.as_deref().unwrap_or_default()),
                    2 => match &parts.scales {
                        Scales::F16(v) => bytes_of(v),
                        Scales::Bf16(v) => bytes_of(v),
                        Scales::F32(v) => bytes_of(v),
                        Scales::E4m3 { bytes, .. } | Scales::E8m0 { bytes, .. } => bytes.clone(),
                    },
                    3 => bytes_of(parts.bias.as_deref().unwrap_or_default()),
                    _ => parts.zeros.clone().unwrap_or_default(),
                }
            }
            (Self::Dense(weight, _), 0) => match weight.data() {
                DenseData::F32(v) => padded((**v).as_ref(), weight.cols()),
                DenseData::F16(v) => padded((**v).as_ref(), weight.cols()),
                DenseData::Bf16(v) => padded((**v).as_ref(), weight.cols()),
            },
            (Self::Dense(_, bias), 3) => bytes_of(bias.unwrap_or_default()),
            _ => Vec::new(),
        }
    }

    /// The last word of a header: what all scales are multiplied with; of trellis codes, what is flipped of a product's bits.
    fn factor(&self) -> u32 {
        let factor = match self {
            Self::Trellis(_) => return trellis::FLIP,
            Self::Grouped(grouped, _) => match grouped.parts().scales {
                Scales::E4m3 { global, .. } | Scales::E8m0 { global, .. } => global.recip(),
                _ => 1.0,
            },
            Self::Dense(..) => 1.0,
        };
        f32::to_bits(factor)
    }
}

fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Rows of `width` values, each with zeros up to a multiple of eight values behind it.
fn padded<T: bytemuck::NoUninit>(values: &[T], width: usize) -> Vec<u8> {
    let size = size_of::<T>();
    let stride = chunks(width) * 8 * size;
    let bytes: &[u8] = bytemuck::cast_slice(values);
    if width * size == stride {
        return bytes.to_vec();
    }
    let rows = bytes.len() / (width * size).max(1);
    let mut padded = vec![0; rows * stride];
    for (to, from) in padded
        .chunks_exact_mut(stride)
        .zip(bytes.chunks_exact(width * size))
    {
        to[..from.len()].copy_from_slice(from);
    }
    padded
}

fn scale_bytes(scales: &Scales) -> usize {
    match scales {
        Scales::F16(v) => 2 * v.len(),
        Scales::Bf16(v) => 2 * v.len(),
        Scales::F32(v) => 4 * v.len(),
        Scales::E4m3 { bytes, .. } | Scales::E8m0 { bytes, .. } => bytes.len(),
    }
}

/// The kind of a grouped linear, if kernels know it.
fn grouped_kind(grouped: &GroupedLinear) -> Option<Kind> {
    let parts = grouped.parts();
    let whole = parts.group.is_multiple_of(8) && parts.in_features.is_multiple_of(8);
    // What fits into a kind's code.
    (whole && parts.group < 1 << 16).then(|| Kind::Rows {
        format: rows::Format {
            weights: match parts.element {
                Element::E2m1 => rows::Weights::E2m1,
                Element::Int(IntBits::Eight) => rows::Weights::Int8,
                // Narrower codes are nibbles too; their middle is made explicit.
                Element::Int(IntBits::Four) => rows::Weights::Int4,
                Element::Int(IntBits::Three) => rows::Weights::Int3,
                Element::Int(IntBits::Two) => rows::Weights::Int2,
            },
            scales: match parts.scales {
                Scales::F16(_) => rows::Scales::F16,
                Scales::Bf16(_) => rows::Scales::Bf16,
                Scales::F32(_) => rows::Scales::F32,
                Scales::E4m3 { .. } => rows::Scales::E4m3,
                Scales::E8m0 { .. } => rows::Scales::E8m0,
            },
            group: parts.group,
        },
        zeros: parts.zeros.is_some(),
        ordered: parts.order.is_some(),
        rotation: match parts.rotation {
            Rotation::None => 1,
            Rotation::Block(block) => block,
        },
    })
}

/// The words of a trellis in the order in which teams of 32 lanes read them.
///
/// A run is 32 steps of a tile's walk, all 16 inputs of two columns, `K` words. Of each block of 128 outputs and pair of rows of tiles,
/// lane `l` has run `l mod 8` of four tiles: `l / 8` and `4 + l / 8` of the first row, and the same of the second. First come the first
/// words of all lanes' four runs, lane by lane, then their second words, and so on.
pub(super) fn repack(packed: &PackedLinear) -> Vec<u32> {
    let [tiles_in, tiles_out, per_tile] = packed.shape();
    let bits = packed.bits().get();
    let words = packed.words();
    let mut out = Vec::with_capacity(words.len() / 2);
    for block in 0..tiles_out / 8 {
        for pair in 0..tiles_in / 2 {
            for word in 0..bits {
                for lane in 0..32 {
                    for run in 0..4 {
                        let row = 2 * pair + run / 2;
                        let tile = row * tiles_out + 8 * block + 4 * (run % 2) + lane / 8;
                        let at = tile * per_tile + 2 * (bits * (lane % 8) + word);
                        out.push(u32::from(words[at]) | u32::from(words[at + 1]) << 16);
                    }
                }
            }
        }
    }
    out
}

/// A stack in memory.
#[derive(Debug)]
pub(super) struct Stored {
    /// All of it.
    pub(super) slice: Slice,
    /// The word of the first header, from the start of the buffer.
    pub(super) header: u32,
    /// The kind of each matrix.
    each: Vec<Kind>,
    /// The kinds that there are, each once.
    pub(super) kinds: Vec<Kind>,
    /// What is in it, if that is rows of plain numbers and nothing else.
    pub(super) dense: Option<DenseRows>,
}

impl Stored {
    /// Bytes that the weights of a matrix take that is of one of `kinds`, scales apart, over all matrices that there are.
    pub(super) fn mean_bytes(&self, kinds: &[Kind], shape: LinearShape) -> u64 {
        let all = self.each.iter().filter(|kind| kinds.contains(kind));
        all.map(|kind| kind.bytes(shape)).sum::<u64>() / self.each.len().max(1) as u64
    }

    /// Some of its matrices, where they are.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let each = self.each[range.clone()].to_vec();
        Self {
            slice: self.slice.clone(),
            header: self.header + (HEADER * range.start) as u32,
            kinds: once(&each),
            each,
            dense: None,
        }
    }
}

/// A dense matrix `[outputs, inputs]` for kernels that are not of this folder: row by row, each with zeros up to a multiple of
/// eight values behind it.
#[derive(Debug)]
pub(crate) struct DenseRows {
    pub(crate) rows: Slice,
    /// `f32`, `f16` or `bf16`.
    pub(crate) format: &'static str,
    /// Words of a row.
    pub(crate) stride: usize,
}

/// Stores stacks next to each other where the device can bind that much at once, so that one kernel sees them all.
pub(super) fn store(
    context: &Context,
    stacks: &[(&[LinearWeights], LinearShape)],
) -> Result<Vec<Stored>, Error> {
    let mut sources = Vec::with_capacity(stacks.len());
    for (weights, shape) in stacks {
        let stack = weights.iter().map(|weights| {
            weights.check(*shape)?;
            Source::new(weights)
        });
        sources.push(stack.collect::<Result<Vec<_>, Error>>()?);
    }
    let sizes: Vec<usize> = sources.iter().map(|stack| words(stack)).collect();
    let total: usize = sizes.iter().sum();
    let together = stacks.len() > 1 && 4 * total as u64 <= context.gpu().max_binding();
    let whole = match together {
        true => Some(context.slabs.cut("linears", 4 * total as u64)?),
        false => None,
    };
    let mut stored = Vec::with_capacity(stacks.len());
    let mut start = 0;
    for ((stack, size), (_, shape)) in sources.iter().zip(&sizes).zip(stacks) {
        let bytes = 4 * *size as u64;
        let slice = match &whole {
            Some(whole) => whole.range(start, bytes),
            None => context.slabs.cut("a linear", bytes)?,
        };
        start += bytes;
        stored.push(fill(context, stack, *shape, slice)?);
    }
    Ok(stored)
}

/// Words of a stack.
fn words(stack: &[Source<'_>]) -> usize {
    let headers = (HEADER * stack.len()).next_multiple_of(ALIGN);
    let sections = stack.iter().flat_map(Source::sizes);
    headers
        + sections
            .map(|size| size.next_multiple_of(ALIGN))
            .sum::<usize>()
}

fn fill(
    context: &Context,
    stack: &[Source<'_>],
    shape: LinearShape,
    slice: Slice,
) -> Result<Stored, Error> {
    let gpu = context.gpu();
    let first = slice.offset() / 4;
    let (mut headers, mut each) = (Vec::new(), Vec::new());
    let mut dense = None;
    let mut at = (HEADER * stack.len()).next_multiple_of(ALIGN);
    // Putting codes into the order of kernels takes longer than bringing them to the device.
    let at_once = 2 * rayon::current_num_threads();
    let prepared = stack.chunks(at_once).flat_map(|some| {
        let sections = |source: &Source<'_>| -> [Vec<u8>; SECTIONS] {
            let sizes = source.sizes();
            std::array::from_fn(|section| match sizes[section] {
                0 => Vec::new(),
                _ => source.section(section),
            })
        };
        some.par_iter().map(sections).collect::<Vec<_>>()
    });
    for (source, prepared) in stack.iter().zip(prepared) {
        let kind = source.kind();
        each.push(kind);
        let mut header = [NONE; HEADER];
        header[0] = kind.code();
        header[5] = shape.out_features as u32;
        header[7] = source.factor();
        for (section, size) in source.sizes().into_iter().enumerate() {
            if size > 0 {
                gpu.upload(&slice, 4 * at as u64, &prepared[section])?;
                header[PLACES[section]] = (first + at as u64) as u32;
                if let (Source::Dense(weight, None), [_]) = (source, stack) {
                    dense = Some(DenseRows {
                        rows: slice.range(4 * at as u64, 4 * size as u64),
                        format: match weight.data() {
                            DenseData::F32(_) => "f32",
                            DenseData::F16(_) => "f16",
                            DenseData::Bf16(_) => "bf16",
                        },
                        stride: size / weight.rows().max(1),
                    });
                }
                at += size.next_multiple_of(ALIGN);
            }
        }
        headers.extend(header);
    }
    gpu.upload(&slice, 0, bytemuck::cast_slice(&headers))?;
    Ok(Stored {
        header: first as u32,
        slice,
        kinds: once(&each),
        each,
        dense,
    })
}

/// Each of `kinds` once.
fn once(kinds: &[Kind]) -> Vec<Kind> {
    let mut found = Vec::new();
    for kind in kinds {
        if !found.contains(kind) {
            found.push(*kind);
        }
    }
    found
}
