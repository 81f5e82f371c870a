//! What a lane does with its part of a product, as text: decodes pairs of rows of tiles, and multiplies.

use std::fmt::Write;

use super::Codebook;
use super::codes::{COMPONENTS, TINY, state, straddling, tiny_halves, unscaled, unscaled_halves};
use crate::linear::{Exchange, Route, bindings, lines, store};

/// What activations are multiplied as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32.
    Exact,
    /// Halves, two products to an operation, relative to the largest of their Hadamard block.
    Half,
    /// Sign and eight bits with a step per Hadamard block; MUL1 and one row alone.
    Sign,
}

impl Activations {
    /// The constant `ACTIVATIONS`.
    fn name(self) -> &'static str {
        match self {
            Activations::Exact => "exact",
            Activations::Half => "half",
            Activations::Sign => "sign",
        }
    }

    /// Bytes of workgroup memory for a value, and for the scales of a block.
    pub(super) fn bytes(self) -> (usize, usize) {
        match self {
            Activations::Exact => (4, 4),
            Activations::Half => (2, 8),
            Activations::Sign => (12, 12),
        }
    }
}

/// How sums come together where the input axis is cut among workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Splits {
    /// It is not cut.
    None,
    /// Each sum is exchanged for another's, two by two: soon done.
    Meet,
    /// All are left for the last workgroup: less to do for each sum.
    Count,
}

impl Splits {
    /// The constant `SPLITS`.
    fn name(self) -> &'static str {
        match self {
            Splits::None => "none",
            Splits::Meet => "meet",
            Splits::Count => "count",
        }
    }

    /// The buffers that it takes, atomic.
    fn buffers(self) -> &'static [&'static str] {
        match self {
            Splits::None => &[],
            Splits::Meet => &["meetings"],
            Splits::Count => &["partials", "counters"],
        }
    }
}

/// A lane's part of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    pub(super) codebook: Codebook,
    pub(super) activations: Activations,
    pub(super) rows: usize,
    /// Input blocks from a row's activations to the next's.
    pub(super) stride: usize,
    /// Whether halves below the normal ones are kept.
    pub(super) tiny: bool,
}

impl Lanes {
    /// The constants that all kernels have which multiply so: `teams` of them in a workgroup.
    pub(super) fn constants(
        &self,
        teams: usize,
        exchange: Exchange,
        route: Route,
        residual: bool,
        outputs: usize,
        splits: Splits,
    ) -> [(&'static str, String); 12] {
        let (scale, offset) = self.affine();
        let codes = ["weights", "codes"];
        [
            ("ACTIVATIONS", self.activations.name().to_owned()),
            ("SCALE", format!("{scale:?}")),
            ("OFFSET", format!("{offset:?}")),
            ("EXCHANGE", exchange.name().to_owned()),
            ("LANES", (32 * teams).to_string()),
            ("TEAMS", teams.to_string()),
            ("ROWS", self.rows.to_string()),
            ("SLOTS", (self.rows * self.stride).to_string()),
            ("SPLITS", splits.name().to_owned()),
            (
                "BINDINGS",
                bindings(&codes, route, residual, outputs, splits.buffers()),
            ),
            ("STORE", store(residual, outputs)),
            ("ROUTE", route.name().to_owned()),
        ]
    }

    /// Scale and offset that make weights of those that are multiplied.
    fn affine(&self) -> (f64, f64) {
        let (scale, offset) = self.codebook.affine();
        (if self.is_tiny() { TINY * scale } else { scale }, offset)
    }

    fn is_tiny(&self) -> bool {
        self.tiny && self.activations == Activations::Half && self.codebook == Codebook::Mul1
    }

    /// `text` of each row.
    pub(super) fn per_row(self, text: impl Fn(usize) -> String) -> String {
        lines((0..self.rows).map(text))
    }

    /// Whether the two halves that add up to a weight are multiplied each by itself: their sum is an operation less for each weight, but
    /// one more for each row.
    fn apart(&self) -> bool {
        self.activations == Activations::Half && self.codebook != Codebook::Mul1 && self.rows <= 4
    }

    /// Declares what row `r` adds up in.
    pub(super) fn zero(&self, r: usize) -> String {
        match self.activations {
            Activations::Exact => format!("var acc{r} = vec4<f32>();"),
            Activations::Half => {
                lines(COMPONENTS.map(|c| format!("var acc{r}_{c} = vec2<f16>();")))
            }
            Activations::Sign => format!("var acc{r} = vec4<u32>();"),
        }
    }

    /// What row `r` added up, four columns.
    pub(super) fn sums(&self, r: usize) -> String {
        match self.activations {
            Activations::Half => {
                let both = COMPONENTS.map(|c| format!("f32(acc{r}_{c}.x) + f32(acc{r}_{c}.y)"));
                format!("vec4<f32>({})", both.join(", "))
            }
            _ => format!("acc{r}"),
        }
    }

    /// Decodes a pair of rows of tiles from the words `v…`, and multiplies it with the activations `near`.
    pub(super) fn decode(&self, bits: usize) -> String {
        let mut text = straddling(bits);
        text.push('\n');
        for tile in 0..2 {
            for q in 0..4 {
                let at = 4 * tile + q;
                for r in 0..self.rows {
                    let near = format!("[near + {}u]", 32 * r * self.stride + at);
                    let _ = writeln!(text, "let a{r}_{at} = activations{near};");
                    if self.activations == Activations::Sign {
                        let _ = writeln!(text, "let m{r}_{at} = multipliers{near};");
                        let _ = writeln!(text, "let d{r}_{at} = addends{near};");
                    }
                }
                // Steps 8 q… of a run: two pairs of rows, of one column and of the one eight further on.
                let state = |place: usize, column: usize| {
                    let (c, half) = (column / 2, column % 2);
                    state(bits, COMPONENTS[2 * tile + c], 8 * q + 4 * half + place)
                };
                if self.activations == Activations::Half && !self.apart() {
                    for (pair, inputs) in ["xy", "zw"].iter().enumerate() {
                        for (column, to) in COMPONENTS.iter().enumerate() {
                            let states = [0, 1].map(|i| state(2 * pair + i, column));
                            let name = format!("w{at}_{pair}_{column}");
                            text.push_str(&match self.is_tiny() {
                                true => tiny_halves(&states, &name),
                                false => unscaled_halves(self.codebook, &states, &name),
                            });
                            self.products(&mut text, &name, at, inputs, *to);
                        }
                    }
                    continue;
                }
                for (place, from) in COMPONENTS.iter().enumerate() {
                    for (column, to) in COMPONENTS.iter().enumerate() {
                        let name = format!("w{at}_{place}_{column}");
                        self.weight(&mut text, &state(place, column), &name, at, *from, *to);
                    }
                }
            }
        }
        text
    }

    /// One weight, and its products with all rows.
    fn weight(&self, text: &mut String, state: &str, name: &str, q: usize, from: char, to: char) {
        match self.activations {
            Activations::Sign => {
                let product = format!("{state} * m0_{q}.{from} + d0_{q}.{from}");
                let _ = writeln!(text, "acc0.{to} += dot4U8Packed({product}, a0_{q}.{from});");
            }
            Activations::Half => {
                let word = self.codebook.word(state);
                let _ = writeln!(text, "let {name} = two_halves({word});");
                self.products(text, name, q, &format!("{from}{from}"), to);
            }
            Activations::Exact => {
                text.push_str(&unscaled(self.codebook, state, name));
                self.products(text, name, q, &from.to_string(), to);
            }
        }
    }

    /// Adds the products of `weight` with these `inputs` of all rows to their sums `to`.
    fn products(&self, text: &mut String, weight: &str, q: usize, inputs: &str, to: char) {
        // As `zero` declares them.
        let of = if self.activations == Activations::Half {
            '_'
        } else {
            '.'
        };
        for r in 0..self.rows {
            let sum = format!("acc{r}{of}{to}");
            let _ = writeln!(text, "{sum} = fma({weight}, a{r}_{q}.{inputs}, {sum});");
        }
    }

    /// Leaves row `r`'s totals, four columns, in `to`, vectors from an index on.
    pub(super) fn spread(r: usize, to: &str, from: &str) -> String {
        // Column 16 (4 c + lane / 8) + lane mod 8 + 8 half, as a vector and a place in it.
        lines(COMPONENTS.iter().enumerate().map(|(column, component)| {
            let (c, half) = (column / 2, column % 2);
            format!(
                "{to}[{from} + {}u + 4u * (lane >> 3u) + ((lane >> 2u) & 1u)][lane & 3u] = total{r}.{component};",
                16 * c + 2 * half
            )
        }))
    }
}
