// How lanes read what they prepare.

//!use linear/gated
//!use linear/halves

// What four values of the input are made of, as it was read.
struct Asked {
    v: vec4<f32>,
    up: vec4<f32>,
}

// Asks for values `channel`, `channel + 1`, `channel + 8` and `channel + 9` of a row of the input, zero beyond its width.
fn ask(row: u32, channel: u32) -> Asked {
    let start = row * p.width + channel;
    var asked = Asked(values(start, channel), vec4<f32>());
    if p.up != 0u {
        asked.up = values(start + p.up, channel);
    }
    return asked;
}

fn activation(asked: Asked) -> vec4<f32> {
    if p.up == 0u {
        return asked.v;
    }
    return silu(asked.v) * asked.up;
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
