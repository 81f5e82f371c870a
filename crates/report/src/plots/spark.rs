use maud::{Markup, html};

/// Values as a line without axes, the last one marked. A single value is a dot.
pub(crate) fn spark(name: &str, values: &[f64]) -> Markup {
    const WIDTH: f64 = 110.0;
    const HEIGHT: f64 = 26.0;
    const EDGE: f64 = 4.0;
    let (low, high) = values
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), &value| {
            (low.min(value), high.max(value))
        });
    let steps = (values.len().max(2) - 1) as f64;
    let place = |(number, value): (usize, &f64)| {
        // What never moved lies in the middle.
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.5
        };
        let x = EDGE + (WIDTH - 2.0 * EDGE) * number as f64 / steps;
        (x, HEIGHT - EDGE - (HEIGHT - 2.0 * EDGE) * share)
    };
    let places: Vec<(f64, f64)> = values.iter().enumerate().map(place).collect();
    let points: Vec<String> = places
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    html! {
        svg class="spark" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(format!("{name}: from {low:.1} to {high:.1}")) {
            @if points.len() > 1 {
                polyline class="line" points=(points.join(" ")) {}
            }
            @if let Some((x, y)) = places.last() {
                circle class="c1" cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="3" {}
            }
        }
    }
}
