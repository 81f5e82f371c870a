//! From words to weights, as text.

use super::Codebook;
use crate::linear::lines;

/// What MCG and 3INST flip of a product's bits. Kernels find it in a matrix' header.
pub const FLIP: u32 = 0x3B60_3B60;
/// The names of a vector's components.
pub(super) const COMPONENTS: [char; 4] = ['x', 'y', 'z', 'w'];
/// MUL1's step per unit of the byte sum.
const MUL1_SCALE: f64 = 1774.0 / 262_144.0;
/// What a byte sum of -1024 would weigh. Both are halves exactly.
const MUL1_OFFSET: f64 = -10.382_812_5;
/// MUL1's weight at the middle byte sum, 510.
const MUL1_MIDDLE: f64 = 1534.0 * MUL1_SCALE + MUL1_OFFSET;

impl Codebook {
    /// Scale and offset that make weights of [`unscaled`] ones.
    pub(super) fn affine(self) -> (f64, f64) {
        match self {
            Codebook::Mul1 => (MUL1_SCALE, MUL1_MIDDLE),
            _ => (1.0, 0.0),
        }
    }

    /// What a state is multiplied to; of MCG and 3INST made to two halves that add up to a weight.
    pub(super) fn word(self, state: &str) -> String {
        match self {
            Codebook::Mul1 => format!("{state} * 0x83DCD12Du"),
            Codebook::Mcg => format!("(({state} * 0xCBAC1FEDu) & 0x8FFF8FFFu) ^ flip"),
            Codebook::ThreeInst => {
                format!("(({state} * 89226354u + 64248484u) & 0x8FFF8FFFu) ^ flip")
            }
        }
    }

    /// Scale and offset that make weights of [`halves`]: rounded once if `fma` is fused, as hardware's is; otherwise they are 0.2 % off.
    pub(super) fn affine_of_halves(self) -> (f64, f64) {
        match self {
            Codebook::Mul1 => (MUL1_SCALE, MUL1_OFFSET),
            _ => (1.0, 0.0),
        }
    }
}

/// Step `e` of a run, component `of` of its words: the 16 bits that end with its own.
pub(super) fn state(bits: usize, of: char, e: usize) -> String {
    let end = 32 + (e + 1) * bits;
    let (first, last) = ((end - 16) / 32, (end - 1) / 32);
    // Windows across two words are in the word that begins with the second half of the first.
    let (word, end) = match first == last {
        true => (format!("v{last}.{of}"), end - 32 * last),
        false => (format!("s{first}.{of}"), end - 32 * first - 16),
    };
    match 32 - end {
        16 => format!("({word} >> 16u)"),
        0 => format!("({word} & 0xFFFFu)"),
        shift => format!("(({word} >> {shift}u) & 0xFFFFu)"),
    }
}

/// Four `j` of a lane's words of its runs, and four 0 the words before them. They lie word by word, so that a team reads whole lines.
pub(super) fn four(bits: usize, j: usize) -> String {
    let (word, lane) = match j {
        0 => (bits - 1, "before"),
        _ => (j - 1, "lane"),
    };
    format!("codes[word + {}u + {lane}]", 32 * word)
}

/// `text` of each four of words; four 0 has the words before a lane's runs.
pub(super) fn each_four(bits: usize, text: impl Fn(usize) -> String) -> String {
    lines((0..=bits).map(text))
}

/// Asks for the fours that come next.
pub(super) fn fetch_ahead(bits: usize) -> String {
    each_four(bits, |j| format!("n{j} = {};", four(bits, j)))
}

/// The words across two, one operation for all windows in them.
pub(super) fn straddling(bits: usize) -> String {
    lines((0..bits).map(|first| {
        let last = first + 1;
        format!("let s{first} = (v{first} << vec4<u32>(16u)) | (v{last} >> vec4<u32>(16u));")
    }))
}

/// Declares `name`, the f32 weight of `state` before its codebook's scale and offset, and before it is rounded to half
/// precision.
pub(super) fn unscaled(codebook: Codebook, state: &str, name: &str) -> String {
    let word = codebook.word(state);
    match codebook {
        // Added to the bits of 2^23, the sum is added to its value; 510 is the middle.
        Codebook::Mul1 => format!(
            "let {name} = bitcast<f32>(dot4U8Packed({word}, 0x01010101u) + 0x4B000000u) - 8389118.0;\n"
        ),
        Codebook::Mcg | Codebook::ThreeInst => format!(
            "let h{name} = unpack2x16float({word});
let {name} = h{name}.x + h{name}.y;
"
        ),
    }
}

/// Declares `name`, the weights of two `states` as halves, before [`Codebook::affine_of_halves`].
pub(super) fn halves(codebook: Codebook, states: &[String; 2], name: &str) -> String {
    let [a, b] = states.each_ref().map(|state| codebook.word(state));
    match codebook {
        // Added to the bits of 1024, the sum is added to its value. The dot product adds for nothing; the halves do not overlap, and
        // a sum of them is one operation where compilers make two of an or.
        Codebook::Mul1 => {
            let [a, b] =
                [a, b].map(|word| format!("(dot4U8Packed({word}, 0x01010101u) + 0x6400u)"));
            format!("let {name} = two_halves({a} + ({b} << 16u));\n")
        }
        Codebook::Mcg | Codebook::ThreeInst => format!(
            "let a{name} = {a};
let b{name} = {b};
let {name} = two_halves((a{name} & 0xFFFFu) | (b{name} << 16u))
    + two_halves((a{name} >> 16u) | (b{name} & 0xFFFF0000u));
"
        ),
    }
}

/// Declares `name`, the weights of two `states` as halves: what [`unscaled`] makes of each.
pub(super) fn unscaled_halves(codebook: Codebook, states: &[String; 2], name: &str) -> String {
    match codebook {
        Codebook::Mul1 => {
            let above = format!("u{name}");
            let text = halves(codebook, states, &above);
            format!("{text}let {name} = {above} - vec2<f16>(1534.0h);\n")
        }
        Codebook::Mcg | Codebook::ThreeInst => halves(codebook, states, name),
    }
}

/// What weights of [`tiny_halves`] are multiplied with to be those of [`unscaled`].
pub(super) const TINY: f64 = 512.0;

/// Declares `name`, MUL1's weights of two `states` as halves, [`TINY`] times smaller than [`unscaled`] makes them. Byte sums are the bits
/// of halves below the normal ones, so that nothing need be added to them first; devices must keep such.
pub(super) fn tiny_halves(states: &[String; 2], name: &str) -> String {
    let [a, b] = states.each_ref().map(|state| {
        let word = Codebook::Mul1.word(state);
        format!("dot4U8Packed({word}, 0x01010101u)")
    });
    // Of a sum, bits are worth 2^-24, so that 2^15 of them are 2^-9; 510 of these is the middle.
    format!(
        "let {name} = fma(two_halves({a} + ({b} << 16u)), vec2<f16>(32768.0h), vec2<f16>(-0.99609375h));\n"
    )
}
