use treillage_shaders::Specialization;

use crate::harness::{Device, Params, Random, bytes, device, specializations};

const CHUNK: usize = 4096;

fn scan(device: &Device, logits: &[f32], rows: usize, vocabulary: usize) -> Vec<u32> {
    let specialization = &specializations(device, "sample_scan")[0];
    let chunks = vocabulary.div_ceil(CHUNK);
    let params = Params::default().u(vocabulary).u(logits.len() / rows);
    let results = device.run(
        "sample_scan",
        specialization,
        &[bytes(logits), vec![0xff; 8 * rows * chunks]],
        params.bytes(),
        [chunks, rows, 1],
    );
    results.of(1)
}

fn greedy(device: &Device, logits: &[f32], rows: usize, vocabulary: usize) -> (Vec<u32>, Vec<u32>) {
    let maxima = scan(device, logits, rows, vocabulary);
    let specialization = &specializations(device, "sample_greedy")[0];
    let params = Params::default().u(maxima.len() / 2 / rows).u(1);
    let results = device.run(
        "sample_greedy",
        specialization,
        &[bytes(&maxima), vec![0xff; 4 * rows], vec![0; 12]],
        params.bytes(),
        [rows, 1, 1],
    );
    (results.of(1), results.of(2))
}

#[test]
fn greedy_takes_the_lowest_of_the_largest() {
    let Some(device) = device() else { return };
    for (rows, vocabulary, stride) in [(1, 1, 4), (3, 5000, 5120), (2, 20_000, 20_000)] {
        let mut random = Random::new(20);
        // Few values, all negative: what is behind the vocabulary is larger.
        let mut logits: Vec<f32> = (0..rows * stride)
            .map(|_| -((random.below(40) + 1) as f32))
            .collect();
        let mut expected = Vec::new();
        for row in logits.chunks_exact_mut(stride) {
            row[vocabulary..].fill(0.0);
            let largest = row[..vocabulary].iter().copied().fold(f32::MIN, f32::max);
            expected.push(row.iter().position(|&x| x == largest).unwrap() as u32);
        }
        let (tokens, flags) = greedy(device, &logits, rows, vocabulary);
        assert_eq!((tokens, flags), (expected, vec![0, 0, 0]));
    }
    assert_eq!(greedy(device, &[-1.0, -0.0, 0.0], 1, 3).0, [1]);
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
        let mut logits = vec![0.0; 5000];
        logits[4700] = bad;
        assert_eq!(greedy(device, &logits, 1, 5000), (vec![0], vec![0, 1, 0]));
    }
    let none = [f32::NEG_INFINITY; 7];
    assert_eq!(greedy(device, &none, 1, 7), (vec![0], vec![0, 1, 0]));
}

#[derive(Clone, Copy, Debug)]
struct Options {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
}

impl Options {
    fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// Logits and, for each chunk, what the first two kernels make of them.
struct Prepared<'a> {
    device: &'a Device,
    logits: &'a [f32],
    options: Options,
    maxima: Vec<u32>,
    bins: Vec<u32>,
    sums: Vec<u32>,
}

impl<'a> Prepared<'a> {
    fn new(
        device: &'a Device,
        specialization: &Specialization,
        logits: &'a [f32],
        options: Options,
    ) -> Self {
        let maxima = scan(device, logits, 1, logits.len());
        let chunks = maxima.len() / 2;
        let params = Params::default()
            .u(logits.len())
            .f(1.0 / options.temperature)
            .f(options.min_p);
        let results = device.run(
            "sample_histogram",
            specialization,
            &[
                bytes(logits),
                bytes(&maxima),
                vec![0xff; 8 * 256 * chunks],
                vec![0xff; 16 * chunks],
            ],
            params.bytes(),
            [chunks, 1, 1],
        );
        let (bins, sums) = (results.of(2), results.of(3));
        Self {
            device,
            logits,
            options,
            maxima,
            bins,
            sums,
        }
    }

    /// The token, and the flags.
    fn draw(&self, draw: f32) -> (u32, Vec<u32>) {
        let options = self.options;
        let common = Params::default()
            .u(self.logits.len())
            .u(self.maxima.len() / 2);
        let mut buffers = vec![bytes(self.logits), bytes(&self.maxima)];
        let (name, params) = if options.filters() {
            buffers.push(bytes(&self.bins));
            let params = common
                .u(options.top_k)
                .u(1)
                .f(1.0 / options.temperature)
                .f(options.top_p)
                .f(options.min_p)
                .f(draw);
            ("sample_filtered", params)
        } else {
            let params = common.u(1).f(1.0 / options.temperature).f(draw);
            ("sample_all", params)
        };
        buffers.extend([bytes(&self.sums), vec![0xff; 4], vec![0; 12]]);
        let specialization = &specializations(self.device, name)[0];
        let token = buffers.len() - 2;
        let results = self
            .device
            .run(name, specialization, &buffers, params.bytes(), [1, 1, 1]);
        (results.of(token)[0], results.of(token + 1))
    }
}

/// What `treillage_model::Sampler` draws from, in f64: weights and ids in the order in which they are laid end to end.
fn line(logits: &[f32], options: Options) -> Vec<(f64, usize)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| {
        let gap = f64::from(logit) - f64::from(largest);
        (gap / f64::from(options.temperature)).exp()
    };
    let mut all: Vec<(f64, usize)> = logits.iter().map(|&x| weight(x)).zip(0..).collect();
    if !options.filters() {
        return all;
    }
    all.sort_by(|a, b| logits[b.1].total_cmp(&logits[a.1]).then(a.1.cmp(&b.1)));
    if options.top_k > 0 {
        all.truncate(options.top_k);
    }
    let total: f64 = all.iter().map(|t| t.0).sum();
    let enough = match options.top_p == 1.0 {
        true => f64::INFINITY,
        false => f64::from(options.top_p) * total,
    };
    let mut mass = 0.0;
    let mut kept = 0;
    while kept < all.len() && mass < enough && all[kept].0 >= f64::from(options.min_p) {
        mass += all[kept].0;
        kept += 1;
    }
    all.truncate(kept);
    all
}

/// Asserts that a draw is right to rounding: the target lies in the token's share, or as near as f32 can tell.
fn check(prepared: &Prepared<'_>, draw: f32) {
    let line = line(prepared.logits, prepared.options);
    let total: f64 = line.iter().map(|t| t.0).sum();
    let target = f64::from(draw) * total;
    let (token, flags) = prepared.draw(draw);
    assert_eq!(flags, [0, 0, 0]);
    let what = format!(
        "{:?}, {} tokens, {draw}",
        prepared.options,
        prepared.logits.len()
    );
    let place = line.iter().position(|t| t.1 == token as usize);
    let place = place.unwrap_or_else(|| panic!("{what}: {token} is not kept"));
    let before: f64 = line[..place].iter().map(|t| t.0).sum();
    let slack = 4e-6 * total;
    let after = before + line[place].0;
    assert!(
        line[place].0 > 0.0 && before <= target + slack && target < after + slack,
        "{what}: {token} covers {before} to {after}, not {target} of {total}"
    );
}

#[test]
fn draws_are_those_of_the_sorted_softmax() {
    let Some(device) = device() else { return };
    let mut random = Random::new(21);
    let mut spread: Vec<f32> = random.values(9001).iter().map(|x| x * 12.0).collect();
    spread[17] = f32::NEG_INFINITY;
    // So close that all are in one bin or two, and so coarse that many are equal.
    let close: Vec<f32> = random.values(6000).iter().map(|x| 3.0 + x * 0.05).collect();
    let coarse: Vec<f32> = (0..5000).map(|_| random.below(3) as f32 * 0.25).collect();
    let cases = [spread, close, coarse, vec![0.5], vec![1.0, 3.0, 2.0, 3.0]];
    let keep = |top_k, top_p, min_p| Options {
        temperature: 0.8,
        top_k,
        top_p,
        min_p,
    };
    let all_options = [
        keep(0, 1.0, 0.0),
        keep(1, 1.0, 0.0),
        keep(40, 0.95, 0.0),
        keep(0, 0.5, 0.0),
        keep(0, 1.0, 0.1),
        keep(1200, 0.9, 0.02),
        keep(0, 1.0, 1.0),
        Options {
            temperature: 1.7,
            ..keep(0, 0.999, 0.0)
        },
    ];
    let twins = specializations(device, "sample_histogram");
    for logits in &cases {
        for (i, options) in all_options.into_iter().enumerate() {
            let prepared = Prepared::new(device, &twins[i % twins.len()], logits, options);
            for draw in [
                0.0,
                random.value().abs(),
                random.value().abs(),
                0.999_999_94,
            ] {
                check(&prepared, draw);
            }
        }
    }
}

#[test]
fn a_whole_vocabulary_is_drawn_from() {
    let Some(device) = device() else { return };
    let mut random = Random::new(22);
    // Flat enough that every bin has more tokens than are ranked by counting.
    let logits: Vec<f32> = random.values(151_936).iter().map(|x| x * 3.0).collect();
    let twin = &specializations(device, "sample_histogram")[0];
    for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (50_000, 0.9, 0.001)] {
        let options = Options {
            temperature: 1.0,
            top_k,
            top_p,
            min_p,
        };
        let prepared = Prepared::new(device, twin, &logits, options);
        for draw in [0.0, 0.37, 0.999_999_94] {
            check(&prepared, draw);
        }
    }
}

#[test]
fn draws_flag_what_is_not_finite() {
    let Some(device) = device() else { return };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut logits = vec![0.0; 4100];
        logits[4099] = bad;
        for (top_k, top_p) in [(0, 1.0), (5, 0.9)] {
            let options = Options {
                temperature: 1.0,
                top_k,
                top_p,
                min_p: 0.0,
            };
            let twin = &specializations(device, "sample_histogram")[0];
            let prepared = Prepared::new(device, twin, &logits, options);
            assert_eq!(prepared.draw(0.3), (0, vec![0, 1, 0]));
        }
    }
}
