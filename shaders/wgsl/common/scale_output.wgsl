// Where a channel's scale applies: after a transform. The user names `scale`.

fn before(value: f32, channel: u32) -> f32 {
    return value;
}

fn after(value: f32, channel: u32) -> f32 {
    return value * scale(channel);
}
