// silu(x) = x / (1 + exp(-x)) (arXiv 2002.05202), for inputs that are silu(gate) ∘ up.

fn silu(v: vec4<f32>) -> vec4<f32> {
    // Where exp overflows the quotient is the zero it should be.
    return v / (1.0 + exp(-v));
}
