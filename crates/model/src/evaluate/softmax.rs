/// A row of logits as log-probabilities, summed in f64.
pub(super) struct LogSoftmax<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    pub(super) fn new(logits: &'a [f32]) -> Self {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
        Self {
            logits,
            log_sum: largest + sum.ln(),
        }
    }

    fn log_probability(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum
    }

    /// Negative log-likelihood of token `target`.
    pub(super) fn nll(&self, target: u32) -> f64 {
        -self.log_probability(self.logits[target as usize])
    }

    /// `Σ p_self (ln p_self - ln p_other)`.
    pub(super) fn divergence(&self, other: &LogSoftmax<'_>) -> f64 {
        self.logits
            .iter()
            .zip(other.logits)
            .map(|(&here, &there)| {
                let log_probability = self.log_probability(here);
                let probability = log_probability.exp();
                if probability == 0.0 {
                    0.0
                } else {
                    probability * (log_probability - other.log_probability(there))
                }
            })
            .sum()
    }

    /// The most probable token, the lowest of equals.
    pub(super) fn top(&self) -> usize {
        let mut top = 0;
        for (id, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[top] {
                top = id;
            }
        }
        top
    }
}
