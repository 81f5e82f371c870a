//! A report as Markdown, with tables that a terminal shows as well.

use std::fmt::Write;

use crate::{
    sections::{headline, sections},
    summary::Summary,
    table::{Align, Table},
};

impl Summary {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# treillage: performance\n\n{}\n", escaped(&headline(self)));
        if !self.cautions.is_empty() {
            text.push_str("\nBefore you believe a number:\n\n");
        }
        // Writing to a string cannot fail, here and below.
        for caution in &self.cautions {
            _ = writeln!(text, "- {}", escaped(caution));
        }
        for section in sections(self) {
            _ = write!(
                text,
                "\n## {}\n\n{}\n",
                section.title,
                escaped(&section.about)
            );
            for table in section.tables.iter().filter(|table| !table.rows.is_empty()) {
                text.push_str(&drawn(table));
            }
        }
        text
    }
}

fn drawn(table: &Table) -> String {
    let mut text = format!("\n### {}\n\n", escaped(&table.title));
    let cells = |row: &Vec<crate::table::Cell>| -> Vec<String> {
        row.iter().map(|cell| escaped(&cell.text)).collect()
    };
    let rows: Vec<Vec<String>> = table.rows.iter().map(cells).collect();
    let names: Vec<String> = table.columns.iter().map(|c| escaped(&c.name)).collect();
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.fold(names[at].chars().count().max(3), usize::max)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut line = |cells: &[String]| {
        for ((cell, &width), column) in cells.iter().zip(&widths).zip(&table.columns) {
            _ = match column.align {
                Align::Left => write!(text, "| {cell:<width$} "),
                Align::Right => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
    };
    line(&names);
    let rule = |(column, &width): (&crate::table::Column, &usize)| match column.align {
        Align::Left => "-".repeat(width),
        Align::Right => format!("{}:", "-".repeat(width - 1)),
    };
    let rules: Vec<String> = table.columns.iter().zip(&widths).map(rule).collect();
    line(&rules);
    for row in &rows {
        line(row);
    }
    for (number, reason) in (1..).zip(&table.reasons) {
        _ = write!(text, "\n({number}) {}\n", escaped(reason));
    }
    text
}

/// Text that Markdown takes for nothing else, in a table too.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '|' | '*' | '`' | '[' | ']' => escaped.extend(['\\', character]),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_a_cell() {
        assert_eq!(escaped("a|b\n<i>*x*</i>"), r"a\|b &lt;i>\*x\*&lt;/i>");
    }
}
