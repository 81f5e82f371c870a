// Which values of a head rotate together: i and i + dims/2. Pairs beyond dims/2 cover the rest of the head.

fn pair_of(lane: u32, dims: u32) -> vec2<u32> {
    if 2u * lane < dims {
        return vec2(lane, lane + dims / 2u);
    }
    return vec2(2u * lane, 2u * lane + 1u);
}
