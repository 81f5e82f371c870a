//! A table that knows nothing of how it is drawn.

use crate::figure::Figure;

/// Rows under names, with a title and the reasons why cells are empty.
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Of cells that have no number; they are numbered from 1.
    pub(crate) reasons: Vec<String>,
}

pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) align: Align,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words, which begin at the left.
    Left,
    /// Numbers, which end at the right.
    Right,
}

pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

/// What a cell says beyond its text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Better,
    Worse,
    /// There is no number, for the reason of this index.
    Absent(usize),
}

/// Whether more of something is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Good {
    More,
    Less,
}

impl Table {
    /// No rows yet. Words come first and begin at the left, numbers end at the right.
    pub(crate) fn new(title: impl Into<String>, words: &[&str], numbers: &[&str]) -> Self {
        let column = |align| {
            move |name: &&str| Column {
                name: (*name).to_owned(),
                align,
            }
        };
        let words = words.iter().map(column(Align::Left));
        Self {
            title: title.into(),
            columns: words
                .chain(numbers.iter().map(column(Align::Right)))
                .collect(),
            rows: Vec::new(),
            reasons: Vec::new(),
        }
    }

    /// A row that begins with `words`; the cells of its numbers are pushed next.
    pub(crate) fn row<const N: usize>(&mut self, words: [&str; N]) -> Row<'_> {
        let plain = |text: &str| Cell {
            text: text.to_owned(),
            tone: Tone::Plain,
        };
        self.rows.push(words.map(plain).into());
        Row(self)
    }

    fn push(&mut self, text: String, tone: Tone) {
        let row = self.rows.last_mut();
        // `Row` comes from `row`, which pushes one.
        row.into_iter().for_each(|row| {
            row.push(Cell {
                text: text.clone(),
                tone,
            });
        });
    }

    /// The number, counted from 1, of a reason that may be there already.
    fn reason(&mut self, reason: &str) -> usize {
        let known = self.reasons.iter().position(|known| known == reason);
        known.unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        }) + 1
    }
}

/// The last row of a table, to be filled from left to right.
pub(crate) struct Row<'t>(&'t mut Table);

impl Row<'_> {
    pub(crate) fn text(self, text: impl Into<String>) -> Self {
        self.0.push(text.into(), Tone::Plain);
        self
    }

    /// A number with so many decimals.
    pub(crate) fn number(self, figure: &Figure, decimals: usize) -> Self {
        self.figure(figure, |value| (format!("{value:.decimals$}"), Tone::Plain))
    }

    /// A number with a unit behind it.
    pub(crate) fn with_unit(self, figure: &Figure, decimals: usize, unit: &str) -> Self {
        self.figure(figure, |value| {
            (format!("{value:.decimals$}{unit}"), Tone::Plain)
        })
    }

    /// A difference that is neither good nor bad.
    pub(crate) fn difference(self, figure: &Figure, decimals: usize) -> Self {
        self.figure(figure, |value| (signed(value, decimals), Tone::Plain))
    }

    /// A difference: signed, and better or worse.
    pub(crate) fn change(self, figure: &Figure, decimals: usize, unit: &str, good: Good) -> Self {
        self.figure(figure, |value| {
            let text = signed(value, decimals);
            let tone = match text.trim_start_matches(['+', '−']).parse() {
                Ok(0.0) => Tone::Plain,
                _ if (value > 0.0) == (good == Good::More) => Tone::Better,
                _ => Tone::Worse,
            };
            (text + unit, tone)
        })
    }

    fn figure(self, figure: &Figure, show: impl FnOnce(f64) -> (String, Tone)) -> Self {
        let (text, tone) = match figure {
            Figure::Measured(value) => show(*value),
            Figure::Unavailable { unavailable } => {
                let number = self.0.reason(unavailable);
                (format!("unavailable ({number})"), Tone::Absent(number - 1))
            }
        };
        self.0.push(text, tone);
        self
    }
}

/// With a sign, a real minus, and none for what rounds to nothing.
pub(crate) fn signed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let nothing = text.chars().all(|c| c == '0' || c == '.');
    match (nothing, value < 0.0) {
        (true, _) => text,
        (false, true) => format!("−{text}"),
        (false, false) => format!("+{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_signed_and_judged() {
        let mut table = Table::new("t", &["what"], &["a", "b", "c", "d"]);
        let row = table.row(["x"]);
        let row = row.change(&Figure::Measured(1.26), 1, " ms", Good::Less);
        let row = row.change(&Figure::Measured(-3.0), 0, " %", Good::Less);
        let row = row.change(&Figure::Measured(-0.01), 1, "", Good::Less);
        row.change(&Figure::unavailable("no GPU"), 1, "", Good::More);
        let cells = &table.rows[0];
        let shown: Vec<&str> = cells.iter().map(|cell| &*cell.text).collect();
        assert_eq!(shown, ["x", "+1.3 ms", "−3 %", "0.0", "unavailable (1)"]);
        assert!(cells[1].tone == Tone::Worse && cells[2].tone == Tone::Better);
        assert!(cells[3].tone == Tone::Plain && cells[4].tone == Tone::Absent(0));
        assert_eq!(table.reasons, ["no GPU"]);
    }
}
