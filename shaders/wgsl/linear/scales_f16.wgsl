// The scale of a group: f16.

//!use linear/zeros

fn scale_of(store: Store, group: u32) -> f32 {
    return unpack2x16float(weights[store.scales + group / 2u] >> (16u * (group % 2u))).x;
}
