use treillage_gptq::{Element, GroupedLinear};

use super::simd::{BYTES, LANE_BYTES, LANES};

/// How the codes of a linear's outputs lie in vectors of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Codes of a byte.
    pub(super) per_byte: usize,
    /// Inputs that 64 bytes are for.
    pub(super) chunk: usize,
    /// Vectors of an output's codes; the last may be filled in part.
    pub(super) chunks: usize,
    /// A chunk has `1 << shift` scales, each of as many neighbouring lanes.
    pub(super) shift: u32,
    /// Inputs of a scale of a chunk.
    pub(super) span: usize,
}

impl Layout {
    /// The layout of a linear, if its groups are whole lanes.
    pub(super) fn of(linear: &GroupedLinear) -> Option<Self> {
        let per_byte = 8 / linear.parts().element.code_bits();
        let (group, lane, chunk) = (
            linear.parts().group,
            per_byte * LANE_BYTES,
            per_byte * BYTES,
        );
        if !group.is_multiple_of(lane) {
            return None;
        }
        let shift = if group.is_multiple_of(chunk) {
            0
        } else if chunk.is_multiple_of(group) {
            (chunk / group).ilog2()
        } else {
            LANES.ilog2()
        };
        Some(Self {
            per_byte,
            chunk,
            chunks: linear.in_features().div_ceil(chunk),
            shift,
            span: chunk >> shift,
        })
    }

    /// Inputs, with those that the last chunk lacks.
    pub(super) fn padded(&self) -> usize {
        self.chunks * self.chunk
    }
}

/// What codes stand for, before their group's scale.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    /// Of each nibble, in units of [`Meaning::unit`].
    pub(super) values: [i8; 16],
    /// Larger than `values` by this, so that none is negative; of a byte, what its values are smaller by than it.
    pub(super) offset: u8,
    /// What a value of 1 is worth.
    pub(super) unit: f32,
}

impl Meaning {
    pub(super) fn of(element: Element) -> Self {
        match element {
            Element::E2m1 => Self {
                // Halves: all of them are then whole, and fit a byte.
                values: std::array::from_fn(|code| {
                    (2.0 * treillage_gptq::e2m1::decode(code as u8)) as i8
                }),
                offset: 12,
                unit: 0.5,
            },
            Element::Int(bits) => Self {
                values: std::array::from_fn(|code| (code as u8).wrapping_sub(bits.middle()) as i8),
                offset: bits.middle(),
                unit: 1.0,
            },
        }
    }

    /// The values of nibbles, plus the offset.
    pub(super) fn unsigned(&self) -> [u8; 16] {
        self.values
            .map(|v| v.wrapping_add_unsigned(self.offset) as u8)
    }
}
