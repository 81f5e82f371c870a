/// What can be wrong with trellis data or a request to encode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bits per weight outside the format's range.
    #[error("{0} bits per weight: the trellis format has 1 to 8")]
    Bits(usize),
    /// A codebook name that is none of the three.
    #[error("unknown codebook `{0}`: expected mul1, mcg or 3inst")]
    UnknownCodebook(String),
    /// An effort that is none of those there are.
    #[error("unknown effort `{0}`: expected fast, normal or best")]
    UnknownEffort(String),
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
    /// A channel scale that half precision cannot hold.
    #[error("a channel scale of {0:e} does not fit into half precision")]
    ScaleRange(f32),
}
