use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// Element type of a stored tensor, by its safetensors name.
///
/// All types of the format are recognised, so that any valid header passes; [`crate::DenseTensor`] holds the
/// three that weights are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(
    missing_docs,
    reason = "each variant is the safetensors name in Rust's spelling"
)]
pub enum Dtype {
    F4,
    F6E2m3,
    F6E3m2,
    Bool,
    U8,
    I8,
    F8E5m2,
    F8E4m3,
    F8E8m0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
    C64,
}

/// Name, bits per element and the name that PyTorch uses, if it has such a type.
const TABLE: [(Dtype, &str, usize, Option<&str>); 20] = [
    (Dtype::F4, "F4", 4, None),
    (Dtype::F6E2m3, "F6_E2M3", 6, None),
    (Dtype::F6E3m2, "F6_E3M2", 6, None),
    (Dtype::Bool, "BOOL", 8, Some("bool")),
    (Dtype::U8, "U8", 8, Some("uint8")),
    (Dtype::I8, "I8", 8, Some("int8")),
    (Dtype::F8E5m2, "F8_E5M2", 8, Some("float8_e5m2")),
    (Dtype::F8E4m3, "F8_E4M3", 8, Some("float8_e4m3fn")),
    (Dtype::F8E8m0, "F8_E8M0", 8, Some("float8_e8m0fnu")),
    (Dtype::I16, "I16", 16, Some("int16")),
    (Dtype::U16, "U16", 16, Some("uint16")),
    (Dtype::F16, "F16", 16, Some("float16")),
    (Dtype::Bf16, "BF16", 16, Some("bfloat16")),
    (Dtype::I32, "I32", 32, Some("int32")),
    (Dtype::U32, "U32", 32, Some("uint32")),
    (Dtype::F32, "F32", 32, Some("float32")),
    (Dtype::I64, "I64", 64, Some("int64")),
    (Dtype::U64, "U64", 64, Some("uint64")),
    (Dtype::F64, "F64", 64, Some("float64")),
    (Dtype::C64, "C64", 64, Some("complex64")),
];

impl Dtype {
    /// The type that safetensors calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type that PyTorch, and so `config.json`, calls `name`.
    pub fn from_torch_name(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find(|row| row.3 == Some(name))
            .map(|row| row.0)
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// The name in `config.json`, without the `torch.` in front. `None` for types that PyTorch has not.
    pub fn torch_name(self) -> Option<&'static str> {
        TABLE[self as usize].3
    }

    /// Bits of one element; below eight, elements share bytes.
    pub fn bits(self) -> usize {
        TABLE[self as usize].2
    }

    /// Bytes that `shape` takes, or `None` if that overflows or is not a whole number.
    pub fn span(self, shape: &[usize]) -> Option<usize> {
        let bits = shape
            .iter()
            .try_fold(self.bits(), |n, &dim| n.checked_mul(dim))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl de::Visitor<'_> for Name {
            type Value = Dtype;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an element type")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Dtype, E> {
                Dtype::from_name(name).ok_or_else(|| {
                    E::custom(format_args!("unknown dtype {}", crate::error::quoted(name)))
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (index, (dtype, name, _, torch)) in TABLE.into_iter().enumerate() {
            assert_eq!(dtype as usize, index, "{name}");
            assert_eq!(Dtype::from_name(name), Some(dtype));
            if let Some(torch) = torch {
                assert_eq!(Dtype::from_torch_name(torch), Some(dtype));
            }
        }
    }

    #[test]
    fn spans_are_whole_bytes_and_never_overflow() {
        assert_eq!(Dtype::Bf16.span(&[3, 5]), Some(30));
        assert_eq!(Dtype::I32.span(&[]), Some(4));
        assert_eq!(Dtype::F4.span(&[6]), Some(3));
        assert_eq!(Dtype::F4.span(&[5]), None);
        assert_eq!(Dtype::F32.span(&[usize::MAX, 2]), None);
    }
}
