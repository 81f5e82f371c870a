//! A report as one page that needs nothing but itself: no script, no font, no picture from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    figure::Figure,
    plots::{Bar, bars, roofline, spark},
    results::Spread,
    sections::{Section, decode_words, headline, sections},
    summary::{DecodeRow, STAGES, Summary, WORKLOADS},
    table::{Align, Cell, Table, Tone},
};

const STYLE: &str = include_str!("html/style.css");

impl Summary {
    /// The report as a page.
    pub fn html(&self) -> String {
        page(self).into_string()
    }
}

fn page(summary: &Summary) -> Markup {
    let sections = sections(summary);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "treillage: performance" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "treillage" span { "performance" } }
                    p.headline { (headline(summary)) }
                    (cautions(summary))
                    (tiles(summary))
                    nav aria-label="Sections" {
                        @for section in &sections {
                            a href=(format!("#{}", section.id)) { (section.title) }
                        }
                    }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) {
                            h2 { (section.title) }
                            div.lead {
                                p.about { (section.about) }
                                @let plots = plots(summary, section.id);
                                @if !plots.0.is_empty() {
                                    div.plots { (plots) }
                                }
                            }
                            @for (number, table) in section.tables.iter().enumerate() {
                                (drawn(table, &format!("{}-{number}", section.id), &cells_beside(summary, section)))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cautions(summary: &Summary) -> Markup {
    html! {
        @if !summary.cautions.is_empty() {
            aside aria-label="Cautions" {
                strong { "Before you believe a number" }
                ul {
                    @for caution in &summary.cautions {
                        li { (caution) }
                    }
                }
            }
        }
    }
}

/// The figures that one looks for first.
fn tiles(summary: &Summary) -> Markup {
    let mut tiles: Vec<(String, String, Figure, &str)> = Vec::new();
    for row in &summary.decode {
        let rate = row.optimized.tokens_per_second.clone();
        let [preset, device, bits, what] = decode_words(row, false);
        let note = match rate {
            Figure::Measured(_) => format!("{what}, on {device}, {bits}"),
            Figure::Unavailable { ref unavailable } => unavailable.clone(),
        };
        // The best of a preset; any number is better than none.
        match tiles.iter_mut().find(|tile| tile.0 == preset) {
            Some(tile) if rate.value() > tile.2.value() => (tile.1, tile.2) = (note, rate),
            Some(_) => {}
            None => tiles.push((preset, note, rate, "tok/s")),
        }
    }
    html! {
        dl.tiles {
            @for (name, note, figure, unit) in &tiles {
                div {
                    dt { (name) }
                    dd.value {
                        @match figure {
                            Figure::Measured(value) => { (format!("{value:.1}")) small { (unit) } },
                            Figure::Unavailable { .. } => span.absent { "unavailable" },
                        }
                    }
                    dd { (note) }
                }
            }
        }
    }
}

fn plots(summary: &Summary, section: &str) -> Markup {
    match section {
        "gptq" => stages(summary),
        "decode" => speeds(summary),
        "kernels" => rooflines(summary),
        _ => html! {},
    }
}

fn figure(caption: &str, plot: &Markup) -> Markup {
    html! {
        figure {
            (plot)
            figcaption { (caption) }
        }
    }
}

fn no_plot(name: &str, reason: &str) -> Markup {
    html! { p.absent { (name) ": unavailable, " (reason) "." } }
}

/// Time by stage, stacked.
fn stages(summary: &Summary) -> Markup {
    let legend = &STAGES[..STAGES.len() - 1];
    let rows = summary.gptq.backends.chunks_exact(STAGES.len());
    let mut all = Vec::new();
    for rows in rows {
        for (device, pick) in [
            (
                "cpu",
                (|row| &row.cpu_ms) as fn(&crate::summary::BackendRow) -> &Figure,
            ),
            ("gpu", |row| &row.gpu_ms),
        ] {
            let times: Option<Vec<f64>> = rows.iter().map(|row| pick(row).value()).collect();
            if let Some(times) = times {
                all.push(Bar {
                    label: format!("{} · {} · {device}", rows[0].workload, rows[0].format),
                    parts: (1..).zip(times[..legend.len()].iter().copied()).collect(),
                    value: format!("{:.1} ms", times[legend.len()]),
                });
            }
        }
    }
    if all.is_empty() {
        let reason = format!("no times of {} or {}", WORKLOADS[0], WORKLOADS[1]);
        return no_plot("Time by stage", &reason);
    }
    let plot = bars("plot-stages", "Time of a linear by stage", legend, &all);
    figure(
        "Time of a linear by stage, milliseconds of the median run",
        &plot,
    )
}

/// Tokens a second of both paths.
fn speeds(summary: &Summary) -> Markup {
    let mut all = Vec::new();
    for row in &summary.decode {
        let speeds = [
            (1, "optimized", &row.optimized),
            (2, "baseline", &row.baseline),
        ];
        for (colour, path, speed) in speeds {
            if let Some(rate) = speed.tokens_per_second.value() {
                all.push(Bar {
                    label: speed_label(row, path),
                    parts: vec![(colour, rate)],
                    value: format!("{rate:.1} tok/s"),
                });
            }
        }
    }
    if all.is_empty() {
        return no_plot("Tokens a second", "nothing was decoded");
    }
    let plot = bars(
        "plot-speeds",
        "Tokens a second",
        &["optimized", "baseline"],
        &all,
    );
    figure("Tokens a second in decode, of the median run", &plot)
}

/// Without what all bars share, as a rule: there is not much room.
fn speed_label(row: &DecodeRow, path: &str) -> String {
    let mut parts = vec![row.preset.clone(), row.device.name().to_owned()];
    let arithmetic = match path {
        "baseline" => &row.baseline_arithmetic,
        _ => &row.arithmetic,
    };
    parts.extend(arithmetic.clone());
    if row.bits == Spread::Mixed {
        parts.push("mixed".to_owned());
    }
    let bpw = row.bpw.as_deref().unwrap_or_default();
    parts.push(bpw.split(", head").next().unwrap_or(bpw).to_owned());
    parts.extend(row.cut.clone());
    parts.join(" · ")
}

fn rooflines(summary: &Summary) -> Markup {
    html! {
        @for (number, profile) in summary.profiles.iter().enumerate() {
            @if let Some(plot) = roofline(&format!("plot-roofline-{number}"), profile) {
                (figure(
                    &format!("{}, {}: kernels by their number in the table, as large as their share of the time; what computes nothing is left out", profile.run, profile.part),
                    &plot,
                ))
            } @else {
                (no_plot(&format!("Roofline of {}, {}", profile.run, profile.part), "the device's bandwidth was not measured, or no kernel computes"))
            }
        }
    }
}

/// What stands in one more column of a section's table.
fn cells_beside(summary: &Summary, section: &Section) -> Vec<Markup> {
    if section.id != "history" {
        return Vec::new();
    }
    let values = |series: &crate::summary::Series| -> Vec<f64> {
        series.points.iter().map(|point| point.value).collect()
    };
    let series = summary.history.iter();
    series
        .map(|series| spark(&series.name, &values(series)))
        .collect()
}

/// A table; `beside` are pictures for one more column, the second, row by row.
fn drawn(table: &Table, id: &str, beside: &[Markup]) -> Markup {
    if table.rows.is_empty() {
        return html! {};
    }
    let title = format!("{id}-title");
    let mut previous = "";
    html! {
        h3 id=(title) { (table.title) }
        div.scroll role="region" aria-labelledby=(title) tabindex="0" {
            table aria-labelledby=(title) {
                thead {
                    tr {
                        @for (number, column) in table.columns.iter().enumerate() {
                            th scope="col" class=[(column.align == Align::Right).then_some("right")] { (column.name) }
                            @if number == 0 && !beside.is_empty() {
                                th scope="col" { "line" }
                            }
                        }
                    }
                }
                tbody {
                    @for (number, row) in table.rows.iter().enumerate() {
                        @let first = &*row[0].text;
                        @let again = std::mem::replace(&mut previous, first) == first;
                        tr class=[(!again).then_some("first")] {
                            th scope="row" class=[again.then_some("again")] { (first) }
                            @if let Some(picture) = beside.get(number) {
                                td { (picture) }
                            }
                            @for (cell, column) in row.iter().zip(&table.columns).skip(1) {
                                (drawn_cell(cell, column.align, &table.reasons))
                            }
                        }
                    }
                }
            }
        }
        @if !table.reasons.is_empty() {
            ol.reasons {
                @for reason in &table.reasons {
                    li { (reason) }
                }
            }
        }
    }
}

/// Letters from which a cell of words is broken into lines.
const LONG: usize = 20;

fn drawn_cell(cell: &Cell, align: Align, reasons: &[String]) -> Markup {
    let mut classes: Vec<&str> = Vec::new();
    match align {
        Align::Right => classes.push("right"),
        Align::Left if cell.text.chars().count() > LONG => classes.push("long"),
        Align::Left => {}
    }
    let mut reason = None;
    match cell.tone {
        Tone::Plain => {}
        Tone::Better => classes.push("better"),
        Tone::Worse => classes.push("worse"),
        Tone::Absent(number) => {
            classes.push("absent");
            reason = reasons.get(number);
        }
    }
    html! {
        td class=[(!classes.is_empty()).then(|| classes.join(" "))] title=[reason] { (cell.text) }
    }
}
