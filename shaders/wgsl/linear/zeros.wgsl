// The zero point of a group, a byte each where they are stored.

fn byte_at(start: u32, index: u32) -> u32 {
    return (weights[start + index / 4u] >> (8u * (index % 4u))) & 255u;
}

fn zero_of(store: Store, group: u32, middle: f32) -> f32 {
    if store.zeros == NONE {
        return middle;
    }
    return f32(byte_at(store.zeros, group));
}
