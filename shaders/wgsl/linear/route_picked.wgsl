// Each row has its expert, `picks[row]`.

fn route(group: u32, place: ptr<function, Place>) -> bool {
    let row = p.pick + group;
    (*place).row = row;
    (*place).x_row = row / p.per_row;
    (*place).end = row + 1u;
    (*place).expert = picks[row];
    (*place).header += 8u * (*place).expert;
    return true;
}
