// Which values of a head rotate together: 2i and 2i + 1.

fn pair_of(lane: u32, dims: u32) -> vec2<u32> {
    return vec2(2u * lane, 2u * lane + 1u);
}
