// Dense weights in f32, one a word.

const PER_WORD = 1u;

fn widen(word: u32) -> vec2<f32> {
    return vec2(bitcast<f32>(word), 0.0);
}
