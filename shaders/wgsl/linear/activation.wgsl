// How lanes read what they prepare.

//!use linear/gated

fn halves(first: u32, second: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(weights[first]), unpack2x16float(weights[second]));
}

// Values `channel`, `channel + 1`, `channel + 8` and `channel + 9` of a row of the input, zero beyond its width.
fn activation(row: u32, channel: u32) -> vec4<f32> {
    let start = row * p.width + channel;
    let v = values(start, channel);
    if p.up == 0u {
        return v;
    }
    return silu(v) * values(start + p.up, channel);
}

fn values(start: u32, channel: u32) -> vec4<f32> {
    var v = vec4<f32>();
    if channel + 9u < p.width {
        v = vec4<f32>(x[start], x[start + 1u], x[start + 8u], x[start + 9u]);
    } else {
        if channel < p.width {
            v.x = x[start];
        }
        if channel + 1u < p.width {
            v.y = x[start + 1u];
        }
        if channel + 8u < p.width {
            v.z = x[start + 8u];
        }
    }
    return v;
}
