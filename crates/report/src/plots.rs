//! Plots as SVG, drawn for a width of 360 so that their words can be read on a phone. Colours are the page's: classes, not values.

mod bars;
mod roofline;
mod spark;

pub(crate) use bars::{Bar, bars};
pub(crate) use roofline::roofline;
pub(crate) use spark::spark;

use maud::{Markup, html};

/// Units of a plot's width.
const WIDTH: f64 = 360.0;

/// A plot with the words for whoever does not see it.
fn framed(id: &str, title: &str, description: &str, height: f64, inside: &Markup) -> Markup {
    let (title_id, description_id) = (format!("{id}-title"), format!("{id}-description"));
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(format!("{title_id} {description_id}")) {
            title id=(title_id) { (title) }
            desc id=(description_id) { (description) }
            (inside)
        }
    }
}

/// Three digits and a prefix: `1.20 T`.
pub(crate) fn si(value: f64) -> String {
    let scales = [
        (1e12, " T"),
        (1e9, " G"),
        (1e6, " M"),
        (1e3, " k"),
        (1.0, ""),
    ];
    let fitting = scales.iter().find(|(scale, _)| value.abs() >= *scale);
    let (scale, prefix) = fitting.copied().unwrap_or((1.0, ""));
    let scaled = value / scale;
    let decimals = match scaled.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::si;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.25, 3.146, 42.0, 1234.0, 2.5e10, 1.2e12].map(si);
        assert_eq!(
            shown,
            ["0.00", "0.25", "3.15", "42.0", "1.23 k", "25.0 G", "1.20 T"]
        );
    }
}
