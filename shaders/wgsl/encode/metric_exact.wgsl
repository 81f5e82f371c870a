// Costs of paths in f32, and beside them the branch by which they came.

alias Best = vec2<f32>;

const BEGIN = 0.0;
// More than any path costs, and so much that its extensions are equal.
const NEVER = 1.0e30;

fn nobody() -> Best {
    return vec2(3.0e38, 0.0);
}

fn nearer(best: Best, d: f32, before: f32, branch: f32) -> Best {
    let cost = fma(d, d, before);
    return select(best, vec2(cost, branch), cost < best.x);
}

fn branch_of(best: Best) -> u32 {
    return u32(best.y);
}

fn cost_of(best: Best) -> f32 {
    return min(best.x, NEVER);
}

fn shown(cost: f32, own: u32) -> f32 {
    return cost;
}

fn on_grid(weight: f32) -> f32 {
    return clamp(weight, p.lowest, p.highest) * p.scale;
}
