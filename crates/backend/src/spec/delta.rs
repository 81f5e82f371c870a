use super::check_positive;
use crate::Error;

/// Sizes of a gated DeltaNet (arXiv 2412.06464).
///
/// Value head `h` belongs to key head `h / (value_heads / key_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaSpec {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, states and gates; a multiple of [`key_heads`](Self::key_heads).
    pub value_heads: usize,
    /// Width of a query and of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Tokens that the convolution before the recurrence sees: the new one and those before it.
    pub kernel: usize,
}

impl DeltaSpec {
    /// Value heads of a key head.
    pub fn group(&self) -> usize {
        self.value_heads / self.key_heads
    }

    /// Channels of all keys, and of all queries.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Channels of all values, and of the output.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Channels that are convolved: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Width of the projection to queries, keys, values and output gates.
    pub fn projected(&self) -> usize {
        2 * self.keys() + 2 * self.values()
    }

    /// Numbers of the recurrent state: a matrix `[key_dim, value_dim]` for each value head.
    pub fn state(&self) -> usize {
        self.values() * self.key_dim
    }

    /// Checks that no size is zero and that key heads divide value heads.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the size that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        check_positive([
            ("key heads", self.key_heads),
            ("value heads", self.value_heads),
            ("width of a key", self.key_dim),
            ("width of a value", self.value_dim),
            ("tokens of a convolution", self.kernel),
        ])?;
        Error::check_shape(
            format!("value heads over {} key heads", self.key_heads),
            self.value_heads.next_multiple_of(self.key_heads),
            self.value_heads,
        )
    }
}

/// The weights of a gated DeltaNet that are no linears.
#[derive(Clone, Debug)]
pub struct DeltaWeights {
    /// `[channels, kernel]`, row-major: all queries' channels, all keys', all values'. The last of a row meets the newest
    /// token.
    pub conv: Vec<f32>,
    /// `A_log` of each value head: a state decays at the rate `e^A_log · softplus(a + time_bias)`.
    pub log_rate: Vec<f32>,
    /// `dt_bias` of each value head.
    pub time_bias: Vec<f32>,
    /// Gain of the RMS norm of each head's output `[value_dim]`.
    pub norm: Vec<f32>,
    /// Added under that norm's root.
    pub epsilon: f32,
}

impl DeltaWeights {
    /// Checks them against `spec`, and `spec` itself.
    ///
    /// # Errors
    /// [`Error::Shape`] naming what does not fit.
    pub fn check(&self, spec: &DeltaSpec) -> Result<(), Error> {
        spec.check()?;
        let sizes = [
            ("convolution", spec.channels() * spec.kernel, &self.conv),
            ("rates of decay", spec.value_heads, &self.log_rate),
            ("biases of decay", spec.value_heads, &self.time_bias),
            ("gain of the output norm", spec.value_dim, &self.norm),
        ];
        for (what, expected, found) in sizes {
            Error::check_shape(what, expected, found.len())?;
        }
        Ok(())
    }
}
