use std::ops::RangeInclusive;

use maud::{Markup, html};

use super::{WIDTH, framed, si};
use crate::summary::{KernelRow, Profile};

const HEIGHT: f64 = 250.0;
/// Room for the names of the axes and their ticks.
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 24.0;
const RIGHT: f64 = 16.0;

/// Decades from one power of ten to another.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// The whole decades around `values`.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        Self {
            low,
            high: high.max(low + 1.0),
        }
    }

    /// Where `value` is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }

    /// Powers of ten, not more than a plot has room for.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let decades: RangeInclusive<i32> = self.low as i32..=self.high as i32;
        let step = (decades.clone().count() / 6 + 1) as i32;
        let first = self.low as i32;
        decades
            .filter(move |decade| (decade - first) % step == 0)
            .map(|decade| 10f64.powi(decade))
    }
}

/// Kernels by operations a byte and operations a second, under what the device can do. Those that compute nothing have no place there.
/// `None` if the device was not measured, or no kernel computes.
pub(crate) fn roofline(id: &str, profile: &Profile) -> Option<Markup> {
    let bandwidth = profile.bytes_per_second.value()?;
    let rate = profile.operations_per_second.value();
    let placed: Vec<(usize, &KernelRow, f64, f64)> = (1..)
        .zip(&profile.kernels)
        .filter_map(|(number, row)| {
            let kernel = &row.kernel;
            let (x, y) = (
                kernel.operations / kernel.bytes,
                kernel.operations / kernel.seconds,
            );
            (kernel.operations > 0.0 && x.is_finite() && y.is_finite())
                .then_some((number, row, x, y))
        })
        .collect();
    if placed.is_empty() {
        return None;
    }
    let ridge = rate.map(|rate| rate / bandwidth);
    let across = Axis::around(placed.iter().map(|p| p.2).chain(ridge));
    let roof = |x: f64| (bandwidth * x).min(rate.unwrap_or(f64::MAX));
    let ends = [10f64.powf(across.low), 10f64.powf(across.high)];
    let up = Axis::around(placed.iter().map(|p| p.3).chain(ends.map(roof)));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * across.share(value);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * up.share(value);
    let corners = [Some(ends[0]), ridge, Some(ends[1])];
    let points: Vec<String> = corners
        .into_iter()
        .flatten()
        .map(|at| format!("{:.1},{:.1}", x(at), y(roof(at))))
        .collect();
    let radius = |row: &KernelRow| 4.0 + 10.0 * row.share.sqrt();
    let spoken: Vec<String> = placed
        .iter()
        .map(|(number, row, _, y)| format!("{number}, {}: {}op/s", row.kernel.kernel, si(*y)))
        .collect();
    let inside = html! {
        @for tick in across.ticks() {
            line class="grid" x1=(px(x(tick))) x2=(px(x(tick))) y1=(TOP) y2=(HEIGHT - BOTTOM) {}
            text x=(px(x(tick))) y=(HEIGHT - BOTTOM + 13.0) text-anchor="middle" { (power(tick)) }
        }
        @for tick in up.ticks() {
            line class="grid" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(y(tick))) y2=(px(y(tick))) {}
            text x=(LEFT - 5.0) y=(px(y(tick) + 4.0)) text-anchor="end" { (power(tick)) }
        }
        text x=(WIDTH - RIGHT) y=(HEIGHT - 4.0) text-anchor="end" { "operations a byte" }
        text x="0" y="9" { "op/s" }
        polyline class="roof" points=(points.join(" ")) {}
        @for (number, row, at, height) in placed.iter().rev() {
            circle class="dot" cx=(px(x(*at))) cy=(px(y(*height))) r=(px(radius(row))) {
                title { (number) ": " (row.kernel.kernel) ", " (si(*height)) "op/s" }
            }
        }
        @for (number, _, at, height) in placed.iter().rev() {
            text class="number" x=(px(x(*at))) y=(px(y(*height) + 3.5)) text-anchor="middle" { (number) }
        }
    };
    let title = format!("Roofline of {}, {}", profile.run, profile.part);
    Some(framed(id, &title, &spoken.join("; "), HEIGHT, &inside))
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// A power of ten as an axis has it.
fn power(value: f64) -> String {
    match value {
        1.0.. => si(value).replace(".00", "").replace(".0", ""),
        _ => format!("{value}"),
    }
}
