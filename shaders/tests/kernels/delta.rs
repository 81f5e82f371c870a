use treillage_shaders::Specialization;

use crate::harness::{
    Device, Params, Random, assert_close, bytes, constant, device, specializations,
};

/// Tokens of a delta rule, and what it has of its own.
struct Case {
    key_heads: usize,
    group: usize,
    key_dim: usize,
    value_dim: usize,
    kernel: usize,
    qkvz: Vec<f32>,
    ba: Vec<f32>,
    tail: Vec<f32>,
    taps: Vec<f32>,
    rates: Vec<f32>,
    norm: Vec<f32>,
    state: Vec<f32>,
}

/// What a case gives: queries, keys and values; decay, β and products; the output; the state; the tail.
#[derive(Default)]
struct Expected {
    mixed: Vec<f64>,
    gates: Vec<f64>,
    out: Vec<f64>,
    state: Vec<f64>,
    tail: Vec<f64>,
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

impl Case {
    fn new([rows, key_heads, group, kernel]: [usize; 4], [key_dim, value_dim]: [usize; 2]) -> Self {
        let mut random = Random::new(21);
        let heads = key_heads * group;
        let channels = 2 * key_dim + group * value_dim;
        // From hardly any decay to nearly all at once, and biases for which a softplus is next to nothing.
        let rates =
            (0..heads).flat_map(|h| [-0.05 * 9f32.powi(h as i32 % 4), 2.0 - 4.0 * h as f32]);
        Self {
            qkvz: random.values(rows * key_heads * (channels + group * value_dim)),
            ba: random.values(rows * 2 * heads),
            tail: random.values((kernel - 1).max(1) * key_heads * channels),
            taps: random.values(key_heads * kernel * channels),
            rates: rates.collect(),
            norm: random.values(value_dim),
            state: random.values(heads * key_dim * value_dim),
            key_heads,
            group,
            key_dim,
            value_dim,
            kernel,
        }
    }

    fn channels(&self) -> usize {
        2 * self.key_dim + self.group * self.value_dim
    }

    fn width(&self) -> usize {
        self.channels() + self.group * self.value_dim
    }

    fn rows(&self) -> usize {
        self.qkvz.len() / (self.key_heads * self.width())
    }

    /// The definitions, in f64.
    fn expected(&self) -> Expected {
        let (dk, dv, channels) = (self.key_dim, self.value_dim, self.channels());
        let past = self.kernel - 1;
        // A token's input to the convolution, counted from the first of the tail.
        let seen = |token: usize, head: usize, channel: usize| {
            f64::from(match token.checked_sub(past) {
                None => self.tail[(token * self.key_heads + head) * channels + channel],
                Some(row) => self.qkvz[(row * self.key_heads + head) * self.width() + channel],
            })
        };
        let mut given = Expected {
            state: wide(&self.state),
            ..Expected::default()
        };
        for row in 0..self.rows() {
            for head in 0..self.key_heads {
                let mut mixed: Vec<f64> = (0..channels)
                    .map(|channel| {
                        let taps = (0..self.kernel).map(|tap| {
                            let at = (head * self.kernel + tap) * channels + channel;
                            seen(row + tap, head, channel) * f64::from(self.taps[at])
                        });
                        silu(taps.sum())
                    })
                    .collect();
                for (part, scale) in [(0, (dk as f64).sqrt()), (dk, 1.0)] {
                    let part = &mut mixed[part..part + dk];
                    let squares: f64 = part.iter().map(|x| x * x).sum();
                    part.iter_mut()
                        .for_each(|x| *x /= (squares + 1e-6).sqrt() * scale);
                }
                let (q, rest) = mixed.split_at(dk);
                let (k, values) = rest.split_at(dk);
                let overlap: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                for (member, v) in values.chunks_exact(dv).enumerate() {
                    let value_head = head * self.group + member;
                    let at = (row * self.key_heads + head) * 2 * self.group + member;
                    let [b, a] = [at, at + self.group].map(|at| f64::from(self.ba[at]));
                    let [rate, bias] = [0, 1].map(|i| f64::from(self.rates[2 * value_head + i]));
                    let decay = (rate * (a + bias).exp().ln_1p()).exp();
                    let beta = 1.0 / (1.0 + (-b).exp());
                    given.gates.extend([decay, beta, overlap, 0.0]);
                    let state = &mut given.state[value_head * dk * dv..][..dk * dv];
                    let mut out = vec![0.0; dv];
                    for (column, out) in out.iter_mut().enumerate() {
                        let rows = || (0..dk).map(|i| i * dv + column);
                        rows().for_each(|at| state[at] *= decay);
                        let predicted: f64 = rows().zip(k).map(|(at, k)| k * state[at]).sum();
                        let written = beta * (v[column] - predicted);
                        rows().zip(k).for_each(|(at, k)| state[at] += k * written);
                        *out = rows().zip(q).map(|(at, q)| q * state[at]).sum();
                    }
                    let squares: f64 = out.iter().map(|x| x * x).sum();
                    let length = (squares / dv as f64 + 1e-3).sqrt();
                    let z = (row * self.key_heads + head) * self.width() + channels + member * dv;
                    given.out.extend(out.iter().enumerate().map(|(i, x)| {
                        x / length * f64::from(self.norm[i]) * silu(self.qkvz[z + i].into())
                    }));
                }
                given.mixed.extend(mixed);
            }
        }
        for token in self.rows()..self.rows() + past {
            for head in 0..self.key_heads {
                given
                    .tail
                    .extend((0..channels).map(|c| seen(token, head, c)));
            }
        }
        given
    }

    fn prepare(&self, device: &Device, specialization: &Specialization) -> [Vec<f32>; 2] {
        let params = Params::default()
            .u(self.key_heads)
            .u(self.key_dim)
            .u(self.value_dim)
            .u(self.group)
            .u(self.kernel);
        let (rows, heads) = (self.rows(), self.key_heads * self.group);
        let results = device.run(
            "delta_prepare",
            specialization,
            &[
                bytes(&self.qkvz),
                bytes(&self.ba),
                bytes(&self.tail),
                bytes(&self.taps),
                bytes(&self.rates),
                vec![0; 4 * rows * self.key_heads * self.channels()],
                vec![0; 16 * rows * heads],
            ],
            params.bytes(),
            [self.key_heads, rows, 1],
        );
        [5, 6].map(|binding| results.of(binding))
    }
}

const SHAPES: [[usize; 4]; 4] = [[1, 2, 1, 4], [9, 1, 3, 4], [2, 2, 2, 4], [40, 1, 2, 1]];

#[test]
fn tokens_are_convolved_and_made_units() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "delta_prepare") {
        for shape in SHAPES {
            let case = Case::new(shape, [20, 12]);
            let [mixed, gates] = case.prepare(device, &specialization);
            let expected = case.expected();
            assert_close("mixed", &mixed, &expected.mixed, 2e-6);
            assert_close("gates", &gates, &expected.gates, 2e-6);
        }
    }
}

#[test]
fn the_delta_rule_is_its_definition() {
    let Some(device) = device() else { return };
    let prepare = &specializations(device, "delta_prepare")[0];
    for specialization in specializations(device, "delta_rule") {
        let dims = ["KEY_DIM", "VALUE_DIM"].map(|name| constant(&specialization, name));
        for shape in SHAPES {
            let case = Case::new(shape, dims);
            let [mixed, gates] = case.prepare(device, prepare);
            let params = Params::default()
                .u(case.rows())
                .u(case.key_heads)
                .u(case.group)
                .u(case.kernel)
                .f(1e-3);
            let heads = case.key_heads * case.group;
            let results = device.run(
                "delta_rule",
                &specialization,
                &[
                    bytes(&mixed),
                    bytes(&gates),
                    bytes(&case.qkvz),
                    bytes(&case.norm),
                    bytes(&case.state),
                    bytes(&case.tail),
                    vec![0; 4 * case.rows() * heads * case.value_dim],
                ],
                params.bytes(),
                [heads, 1, 1],
            );
            let expected = case.expected();
            let what = format!("{shape:?} {:?}", specialization.constants());
            assert_close(&what, &results.of::<f32>(6), &expected.out, 2e-5);
            assert_close(&what, &results.of::<f32>(4), &expected.state, 1e-5);
            let tail = &results.of::<f32>(5)[..expected.tail.len()];
            assert_close(&what, tail, &expected.tail, 0.0);
        }
    }
}
