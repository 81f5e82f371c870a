/// What can be wrong with group-quantized data or a request to quantize.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number format that there is not.
    #[error("unknown format `{0}`: expected int2, int3, int4, int8, nvfp4, mxfp4 or fp4")]
    UnknownFormat(String),
    /// A group that the input width is no multiple of, or that the format does not allow.
    #[error("groups of {group} do not fit {in_features} input features: {reason}")]
    Group {
        /// Weights that share a scale.
        group: usize,
        /// Width of the input.
        in_features: usize,
        /// Why not.
        reason: &'static str,
    },
    /// A rotation that the input width is no multiple of, or of no known size.
    #[error(
        "a rotation of {block} does not fit {in_features} input features: expected 16, 32, 64 or 128, dividing them"
    )]
    Rotation {
        /// Inputs that are rotated together.
        block: usize,
        /// Width of the input.
        in_features: usize,
    },
    /// A part whose length does not fit the others.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The part.
        what: &'static str,
        /// The length that would fit.
        expected: usize,
        /// The length it has.
        found: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("the weight from input {input} to output {output} is {value}")]
    NotFinite {
        /// The weight.
        value: f32,
        /// Its input channel.
        input: usize,
        /// Its output channel.
        output: usize,
    },
    /// A scale that its type cannot hold.
    #[error("a group scale of {0:e} does not fit into its type")]
    ScaleRange(f32),
    /// A scale that is NaN or infinite.
    #[error("the scale of group {group} of output {output} is {value}")]
    Scale {
        /// The scale.
        value: f32,
        /// Its output channel.
        output: usize,
        /// Its place along the input axis.
        group: usize,
    },
    /// A code, or the code that stands for zero, of more bits than there are.
    #[error("{what}: {value} is no code of {bits} bits")]
    Code {
        /// The part that it is in.
        what: &'static str,
        /// Its value.
        value: u8,
        /// Bits of a code.
        bits: usize,
    },
    /// Codes for zero beside floats, which have a zero of their own.
    #[error("floats have no zeros of groups")]
    Zeros,
    /// A factor of the whole matrix that is not a positive number.
    #[error("a factor of {0} for all scales is not a positive number")]
    GlobalScale(f32),
    /// An input order that names an input twice or not at all.
    #[error("the input order is no permutation of {0} inputs")]
    Order(usize),
}
