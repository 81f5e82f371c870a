// The closed walks nearest to tiles of 256 weights: tail-biting Viterbi in two passes, as `treillage_trellis::viterbi` describes it. A
// workgroup takes some tiles at a time, and goes through them step by step.
//
// Registers are the 16 − K bits that a state hands on. A lane holds the costs of RUN neighbouring ones, or of several such runs,
// LANES · RUN apart. A step shows all of them to the others, some at a time, and extends what they show: state q · 2^(16−K) + e
// enters register e from register q · 2^(16−2K) + e / 2^K. By which branch it came is not noted. Costs are kept every few steps
// instead, and the walk back tries all ways from kept ones to where it is, which is little beside 65,536 states a step.
//
// Bindings: weights, eight halves to a vector, [vectors, LANES], in the order that lanes take them, on the metric's grid; values
//     f32 [65536], those of states; targets f32 [tiles, 256], in the order of a walk, which become what was found;
//     kept [workgroups, 256 / KEPT_STEPS, HELD, LANES], costs; words u32 [linears, down, across, 8 K]; queue: 0 before and after.
// Grid: x workgroups, as many as there is room for in `kept`.
// Scalars: tiles `first` to `tiles`; a tile is of linear tile / across, in its row of tiles `row` of `down`; a workgroup
//     searches `most` times; the first pass begins `before` steps ahead of the
//     seam and ends `after` steps behind it, both 1 to 128; lowest, highest and scale map targets to the grid.

struct Params {
    first: u32,
    tiles: u32,
    across: u32,
    down: u32,
    row: u32,
    most: u32,
    before: u32,
    after: u32,
    lowest: f32,
    highest: f32,
    scale: f32,
}
var<immediate> p: Params;

const K = {{K}}u;
const LANES = {{LANES}}u;
const RUN = {{RUN}}u;
const HELD = {{HELD}}u;
const KEPT_STEPS = {{KEPT_STEPS}}u;
// After how many steps the least cost is taken off all: by then all registers have been reached.
const INTERVAL = 16u;
// From kept costs to the next.
const WAYS = 1u << (K * KEPT_STEPS);

//!use encode/numbers_{{NUMBERS}}

// Of two tiles, one beside the other.
alias Cost = vec2<Number>;
const TILES = 2u;
// The highest cost: its extensions are as good as equal to it.
const NEVER = {{NEVER}};

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> targets: array<f32>;
@group(0) @binding(3) var<storage, read_write> kept: array<Cost>;
@group(0) @binding(4) var<storage, read_write> words: array<u32>;
@group(0) @binding(5) var<storage, read_write> queue: array<atomic<u32>, 2>;

// Costs shown.
var<workgroup> costs: array<Cost, {{ROOM}}>;
// The states of each tile's walk.
var<workgroup> states: array<u32, 256u * TILES>;
// The registers at which walks close.
var<workgroup> seams: array<u32, TILES>;
// The least of what lanes put there, of each tile: three by turns, so that one barrier is enough. The next has been read by all when this
// one is put to, and is made ready.
var<workgroup> cells: array<atomic<u32>, 3u * TILES>;
const NOTHING = 0xFFFFFFFFu;
var<workgroup> taken: u32;

// Lanes that walk back for each tile.
const WALKERS = LANES / TILES;

// What is left at `turn` of what any lane puts to cell `which`.
fn put(value: u32, turn: u32, which: u32) {
    atomicMin(&cells[turn % 3u * TILES + which], value);
    atomicStore(&cells[(turn + 1u) % 3u * TILES + which], NOTHING);
}

fn got(turn: u32, which: u32) -> u32 {
    return atomicLoad(&cells[turn % 3u * TILES + which]);
}

// Costs are not negative, and order as their bits do.
fn put_costs(costs: Cost, turn: u32) {
    put(bitcast<u32>(f32(costs.x)), turn, 0u);
    put(bitcast<u32>(f32(costs.y)), turn, 1u);
}

fn got_costs(turn: u32) -> Cost {
    return Cost(vec2<f32>(bitcast<f32>(got(turn, 0u)), bitcast<f32>(got(turn, 1u))));
}

fn extended(d: Cost, before: Cost) -> Cost {
    return fma(d, d, before);
}

fn possible(costs: Cost) -> Cost {
    return {{POSSIBLE}};
}

// A cost's order, above the number of a way.
fn ordered(cost: f32) -> u32 {
    return {{ORDERED}};
}

fn on_grid(weight: f32) -> f32 {
    return {{ON_GRID}}(clamp(weight, p.lowest, p.highest) * p.scale);
}

// The last may be alone: it is then searched for twice.
fn both_from(tile: u32) -> vec2<u32> {
    return min(vec2<u32>(tile, tile + 1u), vec2<u32>(p.tiles - 1u));
}

fn wanted_at(tiles: vec2<u32>, step: u32) -> Cost {
    let at = 256u * tiles + step;
    return Cost(vec2<f32>(on_grid(targets[at.x]), on_grid(targets[at.y])));
}

// The costs before the first step of a register, where walks that are `tied` begin at the seam.
fn begun(e: u32, tied: bool) -> Cost {
    let elsewhere = vec2<u32>(e) != vec2<u32>(seams[0], seams[1]);
    return select(Cost(), Cost(NEVER), vec2<bool>(tied) & elsewhere);
}

// The cost of register `e` of tile `which` that was kept in place `number`.
fn kept_cost(slot: u32, number: u32, e: u32, which: u32) -> f32 {
    let run = e / RUN;
    let held = run / LANES * RUN + e % RUN;
    let costs = kept[slot + (number * HELD + held) * LANES + run % LANES];
    return f32(select(costs.x, costs.y, which == 1u));
}

// Whether a walk that began at `start` can be in register `e` before `step`: what is left of `start` is on top.
fn reached(start: u32, step: u32, e: u32) -> bool {
    let shifted = min(step * K, 16u - K);
    return (e >> shifted) == (start & ((1u << (16u - K - shifted)) - 1u));
}

// The branch that way `way` takes in the last step but `back - 1`, in its place in a state: the first ways differ in the first steps.
fn branch(way: u32, back: u32) -> u32 {
    return ((way >> (K * (KEPT_STEPS - back))) & ((1u << K) - 1u)) << (16u - K);
}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let slot = group.x * (256u / KEPT_STEPS * HELD * LANES);
    let which = lane / WALKERS;
    {{PLACES}}
    var turn = 0u;
    for (var at = lane; at < 3u * TILES; at += LANES) {
        atomicStore(&cells[at], NOTHING);
    }
    workgroupBarrier();
    for (var searched = 0u; searched < p.most; searched += 1u) {
        // The next that nobody has taken, however long others take.
        if lane == 0u {
            taken = atomicAdd(&queue[0], TILES);
        }
        let tile = p.first + workgroupUniformLoad(&taken);
        if tile >= p.tiles {
            break;
        }
        let both = both_from(tile);
        let mine = select(both.x, both.y, which == 1u);
        for (var pass_ = 0u; pass_ < 2u; pass_ += 1u) {
            let tied = pass_ == 1u;
            let first = select(256u - p.before, 0u, tied);
            let steps = select(p.before + p.after, 256u, tied);
            let begin = select(p.before, 0u, tied);
            {{BEGIN}}
            var ahead = wanted_at(both, first % 256u);
            for (var step = 0u; step < steps; step += 1u) {
                let wanted = ahead;
                ahead = wanted_at(both, (first + step + 1u) % 256u);
                if step % INTERVAL == 0u && step > 0u {
                    put_costs({{LEAST}}, turn);
                    workgroupBarrier();
                    let surplus = got_costs(turn);
                    turn += 1u;
                    {{SUBTRACT}}
                }
                if step >= begin && (step - begin) % KEPT_STEPS == 0u {
                    let to = slot + (step - begin) / KEPT_STEPS * (HELD * LANES) + lane;
                    {{SAVE}}
                }
                {{EXTEND}}
                {{KEEP}}
            }
            // Where the walk ends; the first of equals.
            var e = seams[which];
            if !tied {
                put_costs({{LEAST}}, turn);
                workgroupBarrier();
                let least = got_costs(turn);
                turn += 1u;
                var at = vec2<u32>(NOTHING);
                {{CHEAPEST}}
                put(at.x, turn, 0u);
                put(at.y, turn, 1u);
                workgroupBarrier();
                e = got(turn, which);
                turn += 1u;
            }
            // What all lanes kept, all read.
            storageBarrier();
            workgroupBarrier();
            for (var end = steps - begin; end > 0u; end -= KEPT_STEPS) {
                let start = end - KEPT_STEPS;
                var found = NOTHING;
                for (var way = lane % WALKERS; way < WAYS; way += WALKERS) {
                    var before_ = e;
                    var cost = 0.0;
                    for (var back = 1u; back <= KEPT_STEPS; back += 1u) {
                        let state = branch(way, back) | before_;
                        let target_ = targets[mine * 256u + (first + begin + end - back) % 256u];
                        let d = on_grid(target_) - on_grid(values[state]);
                        cost = fma(d, d, cost);
                        before_ = state >> K;
                    }
                    cost = min(cost + kept_cost(slot, start / KEPT_STEPS, before_, which), f32(NEVER));
                    if !tied || reached(seams[which], start, before_) {
                        found = min(found, ordered(cost) | way);
                    }
                }
                put(found, turn, which);
                workgroupBarrier();
                let way = got(turn, which) & 255u;
                turn += 1u;
                for (var back = 1u; back <= KEPT_STEPS; back += 1u) {
                    let state = branch(way, back) | e;
                    if lane % WALKERS == 0u {
                        states[which * 256u + end - back] = state;
                    }
                    e = state >> K;
                }
            }
            if lane % WALKERS == 0u {
                seams[which] = e;
            }
            workgroupBarrier();
            storageBarrier();
        }
        for (var at = lane; at < 8u * K * TILES; at += LANES) {
            let word = at % (8u * K);
            let states_at = at / (8u * K) * 256u;
            var bits = 0u;
            for (var step = 32u * word / K; step * K < 32u * (word + 1u); step += 1u) {
                let fresh = states[states_at + step] & ((1u << K) - 1u);
                let end = (step + 1u) * K;
                let stop = 32u * (word + 1u);
                bits |= select(fresh >> ((end - stop) % 32u), fresh << ((stop - end) % 32u), end <= stop);
            }
            let own = select(both.x, both.y, at >= 8u * K);
            let place = (own / p.across * p.down + p.row) * p.across + own % p.across;
            words[place * 8u * K + word] = bits;
        }
        for (var step = lane % WALKERS; step < 256u; step += WALKERS) {
            targets[mine * 256u + step] = values[states[which * 256u + step]];
        }
        storageBarrier();
        workgroupBarrier();
    }
    // The last to be done makes the queue ready for the next dispatch.
    if lane == 0u && atomicAdd(&queue[1], 1u) + 1u == groups.x {
        atomicStore(&queue[0], 0u);
        atomicStore(&queue[1], 0u);
    }
}
