//! Trellis kernels around a product with many rows: matrices are decoded once, as `linear/matmul` reads them.

use std::fmt::Write;

use super::{COMPONENTS, Codebook, state, straddling, unscaled};
use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, declare, store};
use crate::matmul::Matmul;

/// A kernel `linear/trellis_decode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisDecode {
    /// Bits per weight, 1 to 8.
    pub bits: usize,
    /// How states become weights.
    pub codebook: Codebook,
    /// Teams of 32 lanes.
    pub teams: usize,
    /// Whether rows are sorted by expert, and experts without rows are left out.
    pub route: Route,
}

/// A kernel `linear/trellis_rotate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisRotate {
    /// Teams of 32 lanes, dividing [`Matmul::ROWS`].
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// How teams exchange.
    pub exchange: Exchange,
}

/// A kernel `linear/trellis_finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisFinish {
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added.
    pub residual: bool,
    /// Teams of 32 lanes, dividing [`Matmul::ROWS`].
    pub teams: usize,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl TrellisDecode {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_decode";

    /// The constants that make [`TrellisDecode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![("weights", "read", "u32"), ("codes", "read", "vec4<u32>")];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "vec4<u32>"));
        let skip = "if picks[expert] == picks[expert + 1u] {\nreturn;\n}";
        Specialization::new([
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROWS", Matmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("PAIR_FOURS", (32 * self.bits).to_string()),
            ("BINDINGS", declare(&buffers)),
            (
                "SKIP",
                match self.route {
                    Route::Grouped => skip.to_owned(),
                    _ => String::new(),
                },
            ),
            ("DECODE", self.decode()),
        ])
    }

    fn decode(&self) -> String {
        let (scale, offset) = self.codebook.affine();
        let mut text = String::new();
        for j in 0..=self.bits {
            let (word, lane) = match j {
                0 => (self.bits - 1, "before"),
                _ => (j - 1, "lane"),
            };
            let _ = writeln!(text, "let v{j} = codes[word + {}u + {lane}];", 32 * word);
        }
        text += &straddling(self.bits, 4);
        text.push('\n');
        let weight = |name: &str| format!("fma({name}, {scale:?}, {offset:?})");
        for (run, of) in COMPONENTS.iter().enumerate() {
            // Tiles of the first row and of the second, each first and then four further on.
            let (row, tile) = (run / 2, run % 2);
            // A lane has two columns of a tile, eight apart, in two vectors each.
            for half in 0..2 {
                let mut words = Vec::new();
                for q in 0..4 {
                    let name = |place: usize| format!("w{run}_{half}_{q}_{place}");
                    for place in 0..4 {
                        let state = state(self.bits, *of, 8 * q + 4 * half + place);
                        text += &unscaled(self.codebook, &state, &name(place));
                    }
                    for place in [0, 2] {
                        words.push(format!(
                            "pack2x16float(vec2<f32>({}, {}))",
                            weight(&name(place)),
                            weight(&name(place + 1))
                        ));
                    }
                }
                for (i, words) in words.chunks(4).enumerate() {
                    let to = 256 * row + 128 * tile + 16 * half + i;
                    let _ = writeln!(
                        text,
                        "out0[first + {to}u] = vec4<u32>({});",
                        words.join(", ")
                    );
                }
            }
        }
        text
    }
}

impl TrellisRotate {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_rotate";

    /// The constants that make [`TrellisRotate::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![("weights", "read", "u32"), ("x", "read", "f32")];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "vec2<u32>"));
        Specialization::new([
            ("ROWS", Matmul::ROWS.to_string()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            ("BINDINGS", declare(&buffers)),
        ])
    }
}

impl TrellisFinish {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_finish";

    /// The constants that make [`TrellisFinish::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        Specialization::new([
            ("ROWS", Matmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            (
                "BINDINGS",
                bindings(&["weights"], self.route, self.residual, 1, &[]),
            ),
            ("STORE", store(self.residual, 1)),
        ])
    }
}
