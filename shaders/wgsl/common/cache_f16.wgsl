// Keys and values in f16: see attention_decode. common/cache_i8 is the other form.

//!use common/finite

// Eight channels of a key; four of a value.
alias KeyEight = vec4<u32>;
alias ValueQuad = vec2<u32>;

// Whether each head and position has scales.
const SCALED = false;
// Values of a word.
const CODES = 2u;

fn low_of(words: KeyEight) -> vec4<f32> {
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn high_of(words: KeyEight) -> vec4<f32> {
    return vec4(unpack2x16float(words.z), unpack2x16float(words.w));
}

fn quad_of(words: ValueQuad) -> vec4<f32> {
    return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Values `place`·CODES… of a word.
fn pair_of_word(word: u32, place: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

fn scales_in(words: KeyEight) -> vec2<f32> {
    return vec2(1.0);
}

// The scale of values up to `largest`.
fn scale_of(largest: f32) -> f32 {
    return 1.0;
}

// The first CODES of four values.
fn word_of(v: vec4<f32>, scale: f32) -> u32 {
    return cut_halves(v.xy);
}

fn eight(low: vec4<f32>, high: vec4<f32>, scale: f32) -> KeyEight {
    return vec4(quad(low, scale), quad(high, scale));
}

fn quad(v: vec4<f32>, scale: f32) -> ValueQuad {
    return vec2(word_of(v, scale), word_of(v.zwxy, scale));
}

fn scale_words(scales: vec2<f32>) -> KeyEight {
    return vec4(0u);
}
