// The scale of a group: f32.

//!use linear/zeros

fn scale_of(store: Store, group: u32) -> f32 {
    return bitcast<f32>(weights[store.scales + group]);
}
