// Dense weights in f16, two a word, the lower half first.

const PER_WORD = 2u;

fn widen(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
