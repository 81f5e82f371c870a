// Costs of paths that carry the branch they came by: whole numbers from 2²³ to 2²⁴, where an f32 steps by one. Weights and targets
// are multiples of 2^⌈K/2⌉, so that squares leave the lowest K bits alone, and the branch in them goes along with a minimum.

alias Best = f32;

const BRANCH = (1u << K) - 1u;
// Of a path not begun, and the highest there is: what is beyond is hopeless, and as good as unreachable.
const BEGIN = 8388608.0;
const NEVER = {{NEVER}};

fn nobody() -> Best {
    return 3.0e38;
}

// Exact: sums stay below 2²⁴, and what does not is clamped.
fn nearer(best: Best, d: f32, before: f32, branch: f32) -> Best {
    return min(best, fma(d, d, before));
}

fn branch_of(best: Best) -> u32 {
    return bitcast<u32>(min(best, NEVER)) & BRANCH;
}

fn cost_of(best: Best) -> f32 {
    return bitcast<f32>(bitcast<u32>(min(best, NEVER)) & ~BRANCH);
}

// What others see of a register's cost: it is they who come by branch `own`.
fn shown(cost: f32, own: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(cost) | own);
}

// A weight's place on the grid.
fn on_grid(weight: f32) -> f32 {
    return {{STEP}} * round(clamp(weight, p.lowest, p.highest) * p.scale);
}
