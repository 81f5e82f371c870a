// Dense weights in bf16, two a word, the lower half first.

const PER_WORD = 2u;

fn widen(word: u32) -> vec2<f32> {
    return vec2(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}
