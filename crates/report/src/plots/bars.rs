use maud::{Markup, html};

use super::{WIDTH, framed};

/// A bar, of one or more parts that add up.
pub(crate) struct Bar {
    pub(crate) label: String,
    /// Colour, from 1, and length of each.
    pub(crate) parts: Vec<(usize, f64)>,
    /// What stands at its end.
    pub(crate) value: String,
}

/// Room for a value at the end of the longest bar.
const VALUE: f64 = 70.0;
const LEGEND: f64 = 24.0;
const ROW: f64 = 36.0;
/// Letters of a label that fit.
const LETTERS: usize = 58;

/// Bars from the left, each under its label; `legend` names the colours, from 1.
pub(crate) fn bars(id: &str, title: &str, legend: &[&str], bars: &[Bar]) -> Markup {
    let length = |bar: &Bar| bar.parts.iter().map(|(_, part)| part).sum::<f64>();
    let longest = bars.iter().map(length).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - VALUE) / longest;
    let spoken: Vec<String> = bars
        .iter()
        .map(|bar| format!("{}: {}", bar.label, bar.value))
        .collect();
    // A letter of the legend takes 6 units.
    let entry = |name: &&str| 24.0 + 6.0 * name.chars().count() as f64;
    let places = starts(legend.iter().map(entry));
    let inside = html! {
        @for ((name, x), colour) in legend.iter().zip(&places).zip(1..) {
            rect class=(format!("c{colour}")) x=(x) y="2" width="10" height="10" rx="2" {}
            text x=(x + 14.0) y="11" { (name) }
        }
        @for (number, bar) in bars.iter().enumerate() {
            @let top = LEGEND + ROW * number as f64;
            text class="ink" x="0" y=(top + 11.0) { (shortened(&bar.label)) }
            @for (colour, x, width) in parts(bar, scale) {
                rect class=(format!("c{colour}")) x=(round(x)) y=(top + 16.0) width=(round(width)) height="12" {
                    title { (bar.label) ": " (bar.value) }
                }
            }
            text x=(round(length(bar) * scale + 5.0)) y=(top + 26.0) { (bar.value) }
        }
    };
    let height = LEGEND + ROW * bars.len() as f64;
    framed(id, title, &spoken.join("; "), height, &inside)
}

/// Colour, start and width.
fn parts(bar: &Bar, scale: f64) -> Vec<(usize, f64, f64)> {
    let width = |part: &(usize, f64)| part.1 * scale;
    let starts = starts(bar.parts.iter().map(width));
    let parts = bar.parts.iter().zip(starts);
    parts
        .map(|(part, start)| (part.0, start, width(part)))
        .collect()
}

/// Where each of `lengths` begins when they follow each other.
fn starts(lengths: impl Iterator<Item = f64>) -> Vec<f64> {
    let start = |end: &mut f64, length| {
        let start = *end;
        *end += length;
        Some(start)
    };
    lengths.scan(0.0, start).collect()
}

fn shortened(label: &str) -> String {
    match label.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &label[..end]),
        None => label.to_owned(),
    }
}

/// A hundredth of a unit is finer than any screen.
fn round(value: f64) -> f64 {
    (100.0 * value).round() / 100.0
}
