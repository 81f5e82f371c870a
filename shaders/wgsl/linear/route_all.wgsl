// All rows meet the same matrix.

fn route(group: u32, place: ptr<function, Place>) -> bool {
    (*place).row = group * ROWS;
    (*place).x_row = (*place).row;
    (*place).end = p.rows;
    return true;
}
