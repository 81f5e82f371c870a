// A softmax with temperature, not normalised: the most probable token has weight 1. Weights are sorted into BINS bins by
// logarithm, an eighth of a nat each, the last without end: bins follow the order of the logits exactly, because every step
// to them is monotonic also when rounded.

const BINS = 256u;
const CHUNK = 4096u;

// How far a logit is below the largest, in nats: −∞ is infinitely far.
fn gap_of(logit: f32, largest: f32, inverse_temperature: f32) -> f32 {
    return (largest - logit) * inverse_temperature;
}

fn bin_of(gap: f32) -> u32 {
    // Twice, so that NaN stays inside too.
    return min(u32(min(gap * 8.0, f32(BINS - 1u))), BINS - 1u);
}

// The largest weight in a bin.
fn top_of(bin: u32) -> f32 {
    return exp(f32(bin) * -0.125);
}

// A weight as a fraction of its bin's largest, in units of 1 / `one`: sums of these do not depend on their order.
fn fixed_in(bin: u32, gap: f32, one: f32) -> u32 {
    return u32(min(exp(f32(bin) * 0.125 - gap), 1.0) * one + 0.5);
}
