use std::{collections::BTreeMap, fmt, ops::Range};

use serde::{Deserialize, Deserializer, de};

use crate::{Dtype, error::quoted};

/// Longest header accepted, in bytes; the limit of the format's own implementation.
pub(super) const LONGEST_HEADER: u64 = 100_000_000;
/// Most axes of a tensor.
const MOST_AXES: usize = 8;
/// Longest tensor name, in bytes.
const LONGEST_NAME: usize = 512;

/// Why a safetensors file is not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even room for the header's length.
    #[error("{0} bytes are too few for a safetensors file")]
    TooShort(usize),
    /// A header that would end behind the file.
    #[error(
        "the header claims {declared} bytes but only {available} follow: truncated, or not safetensors"
    )]
    Length {
        /// What the first eight bytes say.
        declared: u64,
        /// Bytes behind them.
        available: usize,
    },
    /// A header beyond all reason.
    #[error("the header claims {0} bytes, more than the {LONGEST_HEADER} that the format allows")]
    TooLong(u64),
    /// Not JSON, or not of the structure that the format prescribes.
    #[error("the header is not valid: {0}")]
    Json(serde_json::Error),
    /// Two tensors of one name.
    #[error("tensor `{0}` is listed twice")]
    Duplicate(String),
    /// A shape and type that do not fill the tensor's bytes.
    #[error("tensor `{name}`: {dtype} {shape:?} does not take the {found} bytes of its offsets")]
    Span {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// End minus begin.
        found: usize,
    },
    /// Offsets that run backwards.
    #[error("tensor `{name}`: offsets [{begin}, {end}] run backwards")]
    Backwards {
        /// The tensor.
        name: String,
        /// Its first byte.
        begin: usize,
        /// One past its last byte.
        end: usize,
    },
    /// A tensor that would end behind the file.
    #[error(
        "tensor `{name}` ends at byte {end} of the data but the file holds {available}: truncated?"
    )]
    Truncated {
        /// The tensor.
        name: String,
        /// One past its last byte.
        end: usize,
        /// Bytes behind the header.
        available: usize,
    },
    /// A tensor that begins inside another.
    #[error("tensor `{0}` overlaps the one stored before it")]
    Overlap(String),
    /// Bytes that belong to no tensor.
    #[error("{bytes} bytes before byte {at} of the data belong to no tensor")]
    Gap {
        /// How many.
        bytes: usize,
        /// Where they end.
        at: usize,
    },
}

/// Where and what a tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) name: Box<str>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Box<[usize]>,
    /// Its bytes, counted from the beginning of the file.
    pub(crate) range: Range<usize>,
}

/// The checked table of contents of a safetensors file.
///
/// After [`Header::parse`] every tensor's byte range lies inside the file, has the size of its shape and type, and
/// the ranges cover the data without overlap or gap. Memory taken is proportional to the header's length.
#[derive(Debug)]
pub struct Header {
    pub(crate) tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads and checks the header of `file`, the whole file's bytes. Looks at no byte behind the header.
    ///
    /// # Errors
    /// What is wrong, naming the tensor.
    pub fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let (length, rest) = file
            .split_first_chunk::<8>()
            .ok_or(HeaderError::TooShort(file.len()))?;
        let declared = u64::from_le_bytes(*length);
        if declared > LONGEST_HEADER {
            return Err(HeaderError::TooLong(declared));
        }
        // At most LONGEST_HEADER, so the cast loses nothing.
        let (json, data) = rest
            .split_at_checked(declared as usize)
            .ok_or(HeaderError::Length {
                declared,
                available: rest.len(),
            })?;
        let RawHeader {
            mut tensors,
            metadata,
        } = serde_json::from_slice(json).map_err(HeaderError::Json)?;
        check_layout(&mut tensors, data.len())?;

        let data_start = file.len() - data.len();
        for tensor in &mut tensors {
            tensor.range = tensor.range.start + data_start..tensor.range.end + data_start;
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(HeaderError::Duplicate(pair[0].name.to_string()));
        }
        Ok(Self { tensors, metadata })
    }

    /// Names of the tensors, ascending.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|tensor| &*tensor.name)
    }

    /// What the file says about itself under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// Checks spans and order of the tensors, whose ranges still count from the beginning of the data. Leaves them in
/// storage order.
fn check_layout(tensors: &mut [TensorInfo], available: usize) -> Result<(), HeaderError> {
    for TensorInfo {
        name,
        dtype,
        shape,
        range,
    } in tensors.iter()
    {
        if range.start > range.end {
            return Err(HeaderError::Backwards {
                name: name.to_string(),
                begin: range.start,
                end: range.end,
            });
        }
        if range.end > available {
            return Err(HeaderError::Truncated {
                name: name.to_string(),
                end: range.end,
                available,
            });
        }
        if dtype.span(shape) != Some(range.len()) {
            return Err(HeaderError::Span {
                name: name.to_string(),
                dtype: *dtype,
                shape: shape.to_vec(),
                found: range.len(),
            });
        }
    }
    tensors.sort_unstable_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let gap = |covered: usize, at: usize| HeaderError::Gap {
        bytes: at - covered,
        at,
    };
    let mut covered = 0;
    for tensor in tensors.iter() {
        if tensor.range.start < covered {
            return Err(HeaderError::Overlap(tensor.name.to_string()));
        }
        if tensor.range.start > covered {
            return Err(gap(covered, tensor.range.start));
        }
        covered = tensor.range.end;
    }
    if covered < available {
        return Err(gap(covered, available));
    }
    Ok(())
}

/// The header as written: names may repeat and nothing is checked against anything.
struct RawHeader {
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to their descriptions")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader {
                    tensors: Vec::new(),
                    metadata: BTreeMap::new(),
                };
                while let Some(name) = map.next_key::<String>()? {
                    let in_tensor = |error| {
                        de::Error::custom(format_args!("tensor {}: {error}", quoted(&name)))
                    };
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                        continue;
                    }
                    if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
                        return Err(in_tensor(de::Error::custom("not a usable name")));
                    }
                    let raw: RawTensor = map.next_value().map_err(in_tensor)?;
                    header.tensors.push(TensorInfo {
                        name: name.into_boxed_str(),
                        dtype: raw.dtype,
                        shape: raw.shape.0.into_boxed_slice(),
                        range: raw.data_offsets[0]..raw.data_offsets[1],
                    });
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: Dtype,
    shape: Shape,
    data_offsets: [usize; 2],
}

/// A shape of at most [`MOST_AXES`]: the header cannot make us collect more.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MOST_AXES} axes")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if shape.len() == MOST_AXES {
                        return Err(de::Error::invalid_length(MOST_AXES + 1, &self));
                    }
                    shape.push(dim);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}
