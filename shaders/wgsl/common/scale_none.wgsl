// A transform without scales.

fn before(value: f32, channel: u32) -> f32 {
    return value;
}

fn after(value: f32, channel: u32) -> f32 {
    return value;
}
