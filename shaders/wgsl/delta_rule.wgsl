// The gated delta rule (arXiv 2412.06464) token by token, a workgroup for each value head, which holds the head's state in registers:
// S becomes e^g S, then S + k uᵀ with u = β (v − Sᵀk); the output is rms_norm(Sᵀq) ∘ silu(z). What the convolution saw last is kept for
// the next call.
//
// bindings   0 mixed, 1 gates, 2 qkvz: 5, 6 and 0 of delta_prepare; 3 norm: f32 [VALUE_DIM]; 4 state: f32 [value_heads, KEY_DIM, VALUE_DIM],
//            in fours; 5 tail: 2 of delta_prepare; 6 out: f32 [rows, value_heads, VALUE_DIM]
// grid       x: value_heads
// constants  KEY_DIM; VALUE_DIM: a multiple of 4, at most 4 WG; WG
//
// A lane holds four columns of every so many rows of the state. What is read of it before a token changes it gives both the prediction
// and the output, Sᵀq + (k·q) u, so that lanes exchange values once a token.

const KEY_DIM = {{KEY_DIM}}u;
const VALUE_DIM = {{VALUE_DIM}}u;
const LANES = {{WG}}u;
const QUADS = VALUE_DIM / 4u;
const SLICES = LANES / QUADS;
// Rows of a lane, side by side.
const OWN = (KEY_DIM + SLICES - 1u) / SLICES;
const ROWS = OWN * SLICES;
// Values of queries and keys that a lane fetches.
const FETCHED = (2u * ROWS + LANES - 1u) / LANES;

struct Params {
    rows: u32,
    key_heads: u32,
    group: u32,
    kernel: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> mixed: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> qkvz: array<f32>;
@group(0) @binding(3) var<storage, read> norm: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> tail: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

// Of this token and the next: a query, zeros, a key, zeros.
var<workgroup> vectors: array<f32, 4u * ROWS>;
// What slices predict, and what they read.
var<workgroup> predicted: array<vec4<f32>, LANES>;
var<workgroup> readings: array<vec4<f32>, LANES>;

// Value i of a token's query, zeros, key, zeros.
fn fetch(start: u32, i: u32) -> f32 {
    let channel = i % ROWS;
    if channel < KEY_DIM && i < 2u * ROWS {
        return mixed[start + i / ROWS * KEY_DIM + channel];
    }
    return 0.0;
}

fn value_of(at: u32) -> vec4<f32> {
    return vec4(mixed[at], mixed[at + 1u], mixed[at + 2u], mixed[at + 3u]);
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.x;
    let key_head = head / p.group;
    let member = head % p.group;
    let values = p.group * VALUE_DIM;
    let channels = 2u * KEY_DIM + values;
    let heads = p.key_heads * p.group;
    let quad = lane % QUADS;
    let slice = lane / QUADS;
    let is_used = slice < SLICES;
    let value_at = 2u * KEY_DIM + member * VALUE_DIM + 4u * quad;

    var own: array<vec4<f32>, OWN>;
    for (var i = 0u; i < OWN; i += 1u) {
        let row = slice * OWN + i;
        own[i] = vec4(0.0);
        if is_used && row < KEY_DIM {
            own[i] = state[(head * KEY_DIM + row) * QUADS + quad];
        }
    }
    var start = key_head * channels;
    for (var i = lane; i < 2u * ROWS; i += LANES) {
        vectors[i] = fetch(start, i);
    }
    var value = value_of(start + value_at);
    var gate = gates[head];
    workgroupBarrier();

    for (var token = 0u; token < p.rows; token += 1u) {
        // The next token's are on their way while this one is computed.
        let next = min(token + 1u, p.rows - 1u);
        start = (next * p.key_heads + key_head) * channels;
        var fetched: array<f32, FETCHED>;
        for (var i = 0u; i < FETCHED; i += 1u) {
            fetched[i] = fetch(start, i * LANES + lane);
        }
        let next_value = value_of(start + value_at);
        let next_gate = gates[next * heads + head];

        let query = token % 2u * 2u * ROWS + min(slice, SLICES - 1u) * OWN;
        let key = query + ROWS;
        var prediction = vec4(0.0);
        var result = vec4(0.0);
        for (var i = 0u; i < OWN; i += 1u) {
            prediction += vectors[key + i] * own[i];
            result += vectors[query + i] * own[i];
        }
        predicted[lane] = prediction;
        readings[lane] = result;
        workgroupBarrier();
        prediction = vec4(0.0);
        for (var s = 0u; s < SLICES; s += 1u) {
            prediction += predicted[s * QUADS + quad];
        }
        let written = gate.y * (value - gate.x * prediction);
        if slice == 0u {
            result = vec4(0.0);
            for (var s = 0u; s < SLICES; s += 1u) {
                result += readings[s * QUADS + quad];
            }
            result = gate.x * result + gate.z * written;
            let to = (token * heads + head) * VALUE_DIM + 4u * quad;
            for (var c = 0u; c < 4u; c += 1u) {
                out[to + c] = result[c];
            }
        }
        for (var i = 0u; i < OWN; i += 1u) {
            own[i] = gate.x * own[i] + vectors[key + i] * written;
        }
        for (var i = 0u; i < FETCHED; i += 1u) {
            if i * LANES + lane < 2u * ROWS {
                vectors[(token + 1u) % 2u * 2u * ROWS + i * LANES + lane] = fetched[i];
            }
        }
        value = next_value;
        gate = next_gate;
        workgroupBarrier();
    }

    for (var i = 0u; i < OWN; i += 1u) {
        let row = slice * OWN + i;
        if is_used && row < KEY_DIM {
            state[(head * KEY_DIM + row) * QUADS + quad] = own[i];
        }
    }

    // Norms and gates, a token a slice.
    storageBarrier();
    for (var base = 0u; base < p.rows; base += SLICES) {
        let token = min(base + slice, p.rows - 1u);
        let at = (token * heads + head) * VALUE_DIM + 4u * quad;
        let result = vec4(out[at], out[at + 1u], out[at + 2u], out[at + 3u]);
        workgroupBarrier();
        predicted[lane] = result * result;
        workgroupBarrier();
        var squares = vec4(0.0);
        for (var i = 0u; i < QUADS; i += 1u) {
            squares += predicted[min(slice, SLICES - 1u) * QUADS + i];
        }
        let mean = dot(squares, vec4(1.0)) / f32(VALUE_DIM);
        let factor = 1.0 / sqrt(mean + p.epsilon);
        if is_used && base + slice < p.rows {
            let z = (token * p.key_heads + key_head) * (channels + values) + channels +
                member * VALUE_DIM + 4u * quad;
            for (var c = 0u; c < 4u; c += 1u) {
                let gate = qkvz[z + c];
                out[at + c] = result[c] * factor * norm[4u * quad + c] * gate / (1.0 + exp(-gate));
            }
        }
    }

    // The convolution's last inputs: a head's own values, and with its key head's first the query and the key.
    let past = p.kernel - 1u;
    let count = VALUE_DIM + select(0u, 2u * KEY_DIM, member == 0u);
    for (var i = lane; i < count; i += LANES) {
        var channel = 2u * KEY_DIM + member * VALUE_DIM + i;
        if i >= VALUE_DIM {
            channel = i - VALUE_DIM;
        }
        // Places are read before they are written: what moves, moves to the front.
        for (var t = 0u; t < past; t += 1u) {
            let from_first = p.rows + t;
            var x: f32;
            if from_first < past {
                x = tail[(from_first * p.key_heads + key_head) * channels + channel];
            } else {
                let token = from_first - past;
                x = qkvz[(token * p.key_heads + key_head) * (channels + values) + channel];
            }
            tail[(t * p.key_heads + key_head) * channels + channel] = x;
        }
    }
}
