// Before the gated delta rule (arXiv 2412.06464): the causal depthwise convolution over time and SiLU of queries, keys and values, lengths
// of queries and keys, and what each value head forgets and writes. A workgroup for each key head and token.
//
// bindings   0 qkvz: f32 [rows, key_heads, channels + group·value_dim]: a query, a key, `group` values, and their gates; `channels` of them
//            are convolved; 1 ba: f32 [rows, key_heads, 2, group]; 2 tail: f32 [kernel - 1, key_heads, channels], what the convolution
//            saw last; 3 taps: f32 [key_heads, kernel, channels], the last for the newest token; 4 rates: f32 [value_heads, 2], −e^log_rate
//            and time_bias; 5 mixed: f32 [rows, key_heads, channels], of unit queries over √key_dim, unit keys, and values;
//            6 gates: f32 [rows, value_heads, 4], e^g, β and the product of query and key
// grid       x: key_heads; y: rows
// constants  WG: workgroup size, a power of two; REDUCE: subgroup | workgroup

//!use common/reduce4_{{REDUCE}}

struct Params {
    key_heads: u32,
    key_dim: u32,
    value_dim: u32,
    group: u32,
    kernel: u32,
}

@group(0) @binding(0) var<storage, read> qkvz: array<f32>;
@group(0) @binding(1) var<storage, read> ba: array<f32>;
@group(0) @binding(2) var<storage, read> tail: array<f32>;
@group(0) @binding(3) var<storage, read> taps: array<f32>;
@group(0) @binding(4) var<storage, read> rates: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(6) var<storage, read_write> gates: array<vec4<f32>>;
var<immediate> p: Params;

// Under the root of the length that queries and keys are divided by.
const EPSILON = 1e-6;

fn convolved(head: u32, row: u32, channel: u32) -> f32 {
    let values = p.group * p.value_dim;
    let channels = 2u * p.key_dim + values;
    let past = p.kernel - 1u;
    var sum = 0.0;
    for (var tap = 0u; tap < p.kernel; tap += 1u) {
        // Counted from the first of the tail.
        let token = row + tap;
        var x: f32;
        if token < past {
            x = tail[(token * p.key_heads + head) * channels + channel];
        } else {
            x = qkvz[((token - past) * p.key_heads + head) * (channels + values) + channel];
        }
        sum += x * taps[(head * p.kernel + tap) * channels + channel];
    }
    return sum / (1.0 + exp(-sum));
}

// ln(1 + eˣ), also where eˣ is lost beside 1.
fn softplus(x: f32) -> f32 {
    if x > 20.0 {
        return x;
    }
    let e = exp(x);
    if e < 0.02 {
        return e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - 0.25 * e)));
    }
    return log(1.0 + e);
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let head = group.x;
    let row = group.y;
    let values = p.group * p.value_dim;
    let start = (row * p.key_heads + head) * (2u * p.key_dim + values);
    var products = vec4(0.0);
    for (var i = l.lane; i < p.key_dim; i += {{WG}}u) {
        let query = convolved(head, row, i);
        let key = convolved(head, row, p.key_dim + i);
        products += vec4(query * query, key * key, query * key, 0.0);
        mixed[start + i] = query;
        mixed[start + p.key_dim + i] = key;
    }
    products = workgroup_sum4(products, l);
    let of_query = 1.0 / sqrt((products.x + EPSILON) * f32(p.key_dim));
    let of_key = 1.0 / sqrt(products.y + EPSILON);
    // Each lane scales what it wrote.
    for (var i = l.lane; i < p.key_dim; i += {{WG}}u) {
        mixed[start + i] *= of_query;
        mixed[start + p.key_dim + i] *= of_key;
    }
    for (var i = 2u * p.key_dim + l.lane; i < 2u * p.key_dim + values; i += {{WG}}u) {
        mixed[start + i] = convolved(head, row, i);
    }
    for (var i = l.lane; i < p.group; i += {{WG}}u) {
        let at = (row * p.key_heads + head) * 2u * p.group + i;
        let rate = rates[head * p.group + i];
        let decay = exp(rate.x * softplus(ba[at + p.group] + rate.y));
        let beta = 1.0 / (1.0 + exp(-ba[at]));
        let overlap = products.z * of_query * of_key;
        gates[(row * p.key_heads + head) * p.group + i] = vec4(decay, beta, overlap, 0.0);
    }
}
