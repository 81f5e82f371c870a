// Each row has its expert, `picks[row]`.

fn route(group: u32, place: ptr<function, Place>) -> bool {
    (*place).row = group;
    (*place).x_row = group / p.per_row;
    (*place).end = group + 1u;
    (*place).expert = picks[group];
    (*place).header += 8u * (*place).expert;
    return true;
}
