// Eight values that lie next to one another.

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}
