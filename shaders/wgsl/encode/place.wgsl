// The step of a walk at which it gives a tile's weight: `treillage_trellis::tile::ROW_MAJOR`, turned round.
fn step_of(row: u32, column: u32) -> u32 {
    let lane = row % 8u / 2u + 4u * (column % 8u);
    return 8u * lane + row % 2u + 2u * (row / 8u) + 4u * (column / 8u);
}
