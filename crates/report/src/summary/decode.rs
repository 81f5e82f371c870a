use serde::Serialize;

use crate::{
    evidence::{Decoded, Evidence},
    figure::{Figure, per_cent},
    results::{Device, Path, Spread},
};

/// The presets of the design, and one more model that exists.
const PRESETS: [&str; 3] = ["glm47_moe", "qwen3_coder_next", "qwen3_30b_a3b"];

/// A model, decoding, on one device: the plain path against the one that is taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecodeRow {
    /// Name of the model's sizes.
    pub preset: String,
    /// What computed.
    pub device: Device,
    /// The same in the backend's words, where it was measured.
    pub device_name: Option<String>,
    /// How bits are spread.
    pub bits: Spread,
    /// Bits per weight, in words, where it was measured.
    pub bpw: Option<String>,
    /// Which part of the model was measured, if not all of it.
    pub cut: Option<String>,
    /// How linears were multiplied on the optimized path.
    pub arithmetic: Option<String>,
    /// How they were on the baseline.
    pub baseline_arithmetic: Option<String>,
    /// The plain path.
    pub baseline: Speed,
    /// The path that is taken.
    pub optimized: Speed,
    /// What the second takes more than the first, milliseconds a token.
    pub delta_ms: Figure,
    /// What it gives more, tokens a second.
    pub delta_tokens_per_second: Figure,
    /// The same in per cent of the first.
    pub per_cent: Figure,
    /// The optimized path against that of an earlier run, if one was given.
    pub earlier: Option<Earlier>,
}

/// How fast a model writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Milliseconds of the median token.
    pub ms_per_token: Figure,
    /// Tokens a second of the median run.
    pub tokens_per_second: Figure,
}

/// An earlier run of the same work on the same device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Earlier {
    /// How fast it was.
    pub speed: Speed,
    /// What the new one takes more, milliseconds a token.
    pub delta_ms: Figure,
    /// What it gives more, tokens a second.
    pub delta_tokens_per_second: Figure,
    /// The same in per cent of the earlier.
    pub per_cent: Figure,
}

impl Speed {
    fn of(decoded: &Decoded) -> Self {
        let result = &decoded.result;
        Self {
            ms_per_token: Figure::Measured(1e3 * result.token_seconds_median),
            tokens_per_second: Figure::Measured(result.decode_tokens_per_second),
        }
    }

    fn unavailable(reason: &str) -> Self {
        Self {
            ms_per_token: Figure::unavailable(reason),
            tokens_per_second: Figure::unavailable(reason),
        }
    }

    /// From one to the other: milliseconds, tokens a second, the latter in per cent.
    fn change(&self, to: &Self) -> [Figure; 3] {
        let (rate, to_rate) = (&self.tokens_per_second, &to.tokens_per_second);
        [
            self.ms_per_token.with(&to.ms_per_token, |a, b| b - a),
            rate.with(to_rate, |a, b| b - a),
            rate.with(to_rate, per_cent),
        ]
    }
}

/// A row for everything that was measured, and for everything that should have been.
pub(super) fn rows(evidence: &Evidence, against: Option<&Evidence>) -> Vec<DecodeRow> {
    let mut presets: Vec<&str> = PRESETS.to_vec();
    for decoded in &evidence.decoded {
        if !presets.contains(&&*decoded.settings.preset) {
            presets.push(&decoded.settings.preset);
        }
    }
    let mut rows = Vec::new();
    for preset in presets {
        for device in [Device::Cpu, Device::Gpu] {
            for bits in [Spread::Uniform, Spread::Mixed] {
                let of_it = evidence.decoded.iter().filter(|decoded| {
                    decoded.settings.preset == preset
                        && decoded.device == device
                        && decoded.result.bits == bits
                });
                let of_it: Vec<&Decoded> = of_it.collect();
                let cell = Cell {
                    evidence,
                    against,
                    preset,
                    device,
                    bits,
                };
                cell.rows(&of_it, &mut rows);
            }
        }
    }
    rows
}

/// One model on one device with one spread of bits.
struct Cell<'e> {
    evidence: &'e Evidence,
    against: Option<&'e Evidence>,
    preset: &'e str,
    device: Device,
    bits: Spread,
}

impl Cell<'_> {
    fn rows(&self, decoded: &[&Decoded], rows: &mut Vec<DecodeRow>) {
        let (optimized, baseline): (Vec<&Decoded>, Vec<&Decoded>) = decoded
            .iter()
            .partition(|decoded| decoded.result.path == Path::Optimized);
        for run in &optimized {
            rows.push(self.row(Some(run), baseline_of(run, &baseline)));
        }
        let alone = |run: &&&Decoded| {
            let work = run.work();
            !optimized.iter().any(|optimized| optimized.work() == work)
        };
        for run in baseline.iter().filter(alone) {
            rows.push(self.row(None, Some(run)));
        }
        if decoded.is_empty() {
            rows.push(self.row(None, None));
        }
    }

    fn row(&self, optimized: Option<&Decoded>, baseline: Option<&Decoded>) -> DecodeRow {
        let speed = |decoded: Option<&Decoded>, path| match decoded {
            Some(decoded) => Speed::of(decoded),
            None => Speed::unavailable(&self.reason(path)),
        };
        let either = optimized.or(baseline);
        let (optimized_speed, baseline_speed) = (
            speed(optimized, Path::Optimized),
            speed(baseline, Path::Baseline),
        );
        let [delta_ms, delta_tokens_per_second, per_cent] = baseline_speed.change(&optimized_speed);
        let arithmetic = |decoded: Option<&Decoded>| decoded?.result.arithmetic.clone();
        let earlier = self.against.map(|against| {
            let speed = match optimized {
                Some(run) => earlier(run, against),
                None => Speed::unavailable(&self.reason(Path::Optimized)),
            };
            let [delta_ms, delta_tokens_per_second, per_cent] = speed.change(&optimized_speed);
            Earlier {
                speed,
                delta_ms,
                delta_tokens_per_second,
                per_cent,
            }
        });
        DecodeRow {
            preset: self.preset.to_owned(),
            device: self.device,
            device_name: either.map(|run| run.result.device.clone()),
            bits: self.bits,
            bpw: either.map(Decoded::bpw),
            cut: either.and_then(Decoded::cut),
            arithmetic: arithmetic(optimized),
            baseline_arithmetic: arithmetic(baseline),
            baseline: baseline_speed,
            optimized: optimized_speed,
            delta_ms,
            delta_tokens_per_second,
            per_cent,
            earlier,
        }
    }

    fn reason(&self, path: Path) -> String {
        self.evidence.reason(
            "decode",
            self.device,
            Some(self.preset),
            Some(path),
            Some(self.bits),
        )
    }
}

/// The plain run of the same work, in the same arithmetic if there is a choice.
fn baseline_of<'e>(run: &Decoded, baselines: &[&'e Decoded]) -> Option<&'e Decoded> {
    let work = run.work();
    let same_work = || baselines.iter().filter(|baseline| baseline.work() == work);
    let same = same_work().find(|b| b.result.arithmetic == run.result.arithmetic);
    same.or(same_work().next()).copied()
}

fn earlier(run: &Decoded, against: &Evidence) -> Speed {
    let work = run.work();
    let same = against.decoded.iter().rev().find(|earlier| {
        earlier.work() == work
            && earlier.result.path == run.result.path
            && earlier.result.arithmetic == run.result.arithmetic
    });
    match same {
        Some(earlier) => Speed::of(earlier),
        None => Speed::unavailable(
            "the earlier artifact has no run of the same work on the same device",
        ),
    }
}
