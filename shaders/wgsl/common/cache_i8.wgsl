// Keys and values in eight bits: whole numbers from -127 to 127 times a scale of their head and position. The scales lie behind the
// keys, one of keys and one of values. Functions of common/cache_f16.

//!use common/finite

alias KeyEight = vec2<u32>;
alias ValueQuad = u32;

const SCALED = true;
const CODES = 4u;

fn low_of(words: KeyEight) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(words.x));
}

fn high_of(words: KeyEight) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(words.y));
}

fn quad_of(word: ValueQuad) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

fn pair_of_word(word: u32, place: u32) -> vec2<f32> {
    let four = vec4<f32>(unpack4xI8(word));
    return select(four.xy, four.zw, place == 1u);
}

fn scales_in(words: KeyEight) -> vec2<f32> {
    return bitcast<vec2<f32>>(words);
}

fn scale_of(largest: f32) -> f32 {
    return largest / 127.0;
}

fn word_of(v: vec4<f32>, scale: f32) -> u32 {
    // Where all are zero, so are the codes.
    let steps = v * select(1.0 / scale, 0.0, scale == 0.0);
    return pack4xI8(vec4<i32>(clamp(round(steps), vec4(-127.0), vec4(127.0))));
}

fn eight(low: vec4<f32>, high: vec4<f32>, scale: f32) -> KeyEight {
    return vec2(word_of(low, scale), word_of(high, scale));
}

fn quad(v: vec4<f32>, scale: f32) -> ValueQuad {
    return word_of(v, scale);
}

fn scale_words(scales: vec2<f32>) -> KeyEight {
    return bitcast<vec2<u32>>(scales);
}
