//! Many rows without matrix units.

use std::fmt::Write;

use super::{Codebook, PARTIAL, arrive, leave, partial_names, state, straddling, unscaled};
use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, lines, store};

/// A kernel `linear/trellis_gemm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisGemm {
    /// Bits per weight, 1 to 8.
    pub bits: usize,
    /// How states become weights.
    pub codebook: Codebook,
    /// Rows that share decoded weights: 16, 32 or 48.
    pub rows: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added.
    pub residual: bool,
    /// Whether the input axis is cut.
    pub split: bool,
    /// How teams exchange.
    pub exchange: Exchange,
}

/// A kernel `linear/trellis_rotate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisRotate {
    /// Rows of a workgroup.
    pub rows: usize,
    /// Teams of 32 lanes.
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl TrellisGemm {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_gemm";

    /// The constants that make [`TrellisGemm::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let bits = self.bits;
        let fetch = |j: usize| {
            let (word, lane) = match j {
                0 => (bits - 1, "before"),
                _ => (j - 1, "lane"),
            };
            format!(
                "n{j} = weights[word + {}u + 4u * {lane} + team];",
                128 * word
            )
        };
        let partial = partial_names(self.split);
        let buffers = bindings(&["weights"], self.route, self.residual, 1, partial);
        Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            ("LANES", "128".to_owned()),
            ("PAIR_WORDS", (128 * bits).to_string()),
            (
                "BINDINGS",
                buffers.replace("x: array<f32>", "x: array<f16>"),
            ),
            ("STORE", store(self.residual, 1)),
            (
                "GATHER",
                match self.split {
                    true => PARTIAL.to_owned(),
                    false => String::new(),
                },
            ),
            (
                "ACCUMULATORS",
                lines((0..self.rows).map(|r| format!("var sum{r} = 0.0;"))),
            ),
            (
                "AHEAD",
                lines((0..=bits).map(|j| format!("var {}", fetch(j)))),
            ),
            ("FETCH_AHEAD", lines((0..=bits).map(fetch))),
            ("DECODE", self.decode()),
            ("MULTIPLY", self.multiply()),
            ("SUM_UP", self.sum_up()),
        ])
    }

    fn decode(&self) -> String {
        let (scale, offset) = self.codebook.affine();
        let mut text = lines((0..=self.bits).map(|j| format!("let v{j} = vec2<u32>(n{j}, 0u);")));
        text.push('\n');
        text += &straddling(self.bits, 2);
        text.push('\n');
        for q in 0..4 {
            for half in 0..2 {
                for place in 0..4 {
                    let name = format!("w{q}_{half}_{place}");
                    let state = state(self.bits, 'x', 8 * q + 4 * half + place);
                    text += &unscaled(self.codebook, &state, &name);
                    // The second column is eight further on.
                    let to = 8 * STRIDE * half + 4 * q + place;
                    let _ = writeln!(
                        text,
                        "decoded[to + {to}u] = f16(fma({name}, {scale:?}, {offset:?}));"
                    );
                }
            }
        }
        text
    }

    fn multiply(&self) -> String {
        let rows = (0..self.rows)
            .map(|r| format!("sum{r} = fma(f32(x[inputs + {r}u * x_stride + k]), w, sum{r});"));
        format!(
            "for (var k = 0u; k < 32u; k += 1u) {{
let w = f32(decoded[step + STRIDE * at + k]);
{}
}}",
            lines(rows)
        )
    }

    fn sum_up(&self) -> String {
        let mut text = String::new();
        for m in 0..self.rows / 16 {
            if m > 0 {
                text += "workgroupBarrier();\n";
            }
            for r in 0..16 {
                let row = 132 * r;
                let _ = writeln!(text, "stage[{row}u + at] = sum{};", 16 * m + r);
            }
            text += "workgroupBarrier();
for (var r = team; r < 16u; r += TEAMS) {
let here = 132u * r + 4u * lane;
let y = vec4<f32>(stage[here], stage[here + 1u], stage[here + 2u], stage[here + 3u]);
";
            let row = format!("{}u + r", 16 * m);
            text += &match self.split {
                true => leave(&row),
                false => format!("finish(place, ends, {row}, y, at);\n"),
            };
            text += "}\n";
        }
        if self.split {
            text += &arrive(self.rows, 4);
        }
        text
    }
}

/// Halves from a decoded column to the next, as in the source.
const STRIDE: usize = 40;

impl TrellisRotate {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_rotate";

    /// The constants that make [`TrellisRotate::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let buffers = bindings(&["weights"], self.route, false, 1, &[]);
        Specialization::new([
            ("ROWS", self.rows.to_string()),
            (
                "ROWS_UP",
                self.rows.next_multiple_of(self.teams).to_string(),
            ),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            (
                "BINDINGS",
                buffers.replace("out0: array<f32>", "out0: array<vec2<u32>>"),
            ),
        ])
    }
}
