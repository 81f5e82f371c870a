// What a matrix' header says, read in two fours at once: what it takes to come is waited for once.
//
// needs      codes: the weights' buffer in fours

struct Header {
    kind: u32,
    // Where words and scales of inputs begin.
    words: u32,
    suh: u32,
    // What MCG and 3INST flip of a product's bits. Not a literal: a mask and a flip are one operation of three inputs, of which one may
    // be a literal.
    flip: u32,
}

// The header at word `at`, a multiple of four.
fn header_at(at: u32) -> Header {
    let a = codes[at / 4u];
    let b = codes[at / 4u + 1u];
    return Header(a.x, a.y, a.z, b.w);
}
