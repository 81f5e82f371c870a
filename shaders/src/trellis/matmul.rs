//! Trellis kernels for matrix units.

use std::fmt::Write;

use super::{COMPONENTS, Codebook, state, straddling, unscaled};
use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, lines, store};

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

/// A kernel `linear/trellis_matmul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisMatmul {
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether subgroups multiply matrices.
    pub matrices: bool,
}

/// A kernel `linear/trellis_finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisFinish {
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added.
    pub residual: bool,
    /// Teams of 32 lanes, dividing [`TrellisMatmul::ROWS`].
    pub teams: usize,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl TrellisDecode {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_decode";

    /// The constants that make [`TrellisDecode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let buffers = bindings(&["weights", "codes"], self.route, false, 1, &[]);
        // It reads no activations.
        let buffers = buffers
            .replace(
                "@group(0) @binding(2) var<storage, read> x: array<f32>;\n",
                "",
            )
            .replace("@binding(3)", "@binding(2)")
            .replace("@binding(4)", "@binding(3)")
            .replace("out0: array<f32>", "out0: array<vec4<u32>>");
        Specialization::new([
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROWS", TrellisMatmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("PAIR_FOURS", (32 * self.bits).to_string()),
            ("BINDINGS", buffers),
            (
                "SKIP",
                match self.route {
                    Route::Grouped => "if picks[expert] == picks[expert + 1u] {
        return;
    }"
                    .to_owned(),
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
                    let _ = writeln!(
                        text,
                        "out0[first + {}u * stride + {}u] = vec4<u32>({});",
                        64 * tile + 8 * half,
                        2 * row + i,
                        words.join(", ")
                    );
                }
            }
        }
        text
    }
}

impl TrellisMatmul {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_matmul";
    /// Rows of a workgroup.
    pub const ROWS: usize = 64;

    /// The constants that make [`TrellisMatmul::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let picks = match self.route {
            Route::All => 2,
            _ => 3,
        };
        let buffers = bindings(&["weights"], self.route, false, 1, &[])
            .replace("x: array<f32>", "x: array<f16>")
            .replace(
                &format!("@group(0) @binding({picks}) var<storage, read_write>"),
                &format!(
                    "@group(0) @binding({picks}) var<storage, read> decoded: array<f16>;\n\
                     @group(0) @binding({}) var<storage, read_write>",
                    picks + 1
                ),
            );
        let text = |matrices: String, lanes: String| match self.matrices {
            true => matrices,
            false => lanes,
        };
        let tiles = Self::ROWS / 16;
        let each = |line: &dyn Fn(usize, usize) -> String| {
            lines(
                (0..tiles)
                    .flat_map(|m| (0..2).map(move |n| (m, n)))
                    .map(|(m, n)| line(m, n)),
            )
        };
        let each_row = |line: &dyn Fn(usize) -> String| lines((0..Self::ROWS).map(line));
        Specialization::new([
            ("ROWS", Self::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("BINDINGS", buffers),
            (
                "ENABLE",
                text("enable wgpu_cooperative_matrix;".to_owned(), String::new()),
            ),
            // Of a subgroup, or of a lane.
            ("COLUMN", text("32u * team".to_owned(), "at".to_owned())),
            (
                "ACCUMULATORS",
                text(
                    each(&|m, n| format!("var sums{m}_{n} = coop_mat16x16<f32, C>();")),
                    each_row(&|r| format!("var sum{r} = 0.0;")),
                ),
            ),
            (
                "MULTIPLY",
                text(self.multiply(), {
                    let rows = each_row(&|r| {
                        format!("sum{r} = fma(f32(x[a + {r}u * stride + i]), w, sum{r});")
                    });
                    format!(
                        "for (var i = 0u; i < 16u; i += 1u) {{\nlet w = f32(decoded[b + i]);\n{rows}\n}}"
                    )
                }),
            ),
            (
                "STORE_SUMS",
                text(
                    each(&|m, n| {
                        // By name: naga does not see to it that an index in the call is computed before.
                        format!(
                            "let to{m}_{n} = to + {}u * width + {}u;\n\
                             let done{m}_{n} = sums{m}_{n};\n\
                             coopStoreT(done{m}_{n}, &out0[to{m}_{n}], width);",
                            16 * m,
                            16 * n
                        )
                    }),
                    each_row(&|r| format!("out0[to + {r}u * width] = sum{r};")),
                ),
            ),
        ])
    }

    fn multiply(&self) -> String {
        let mut text = String::new();
        for n in 0..2 {
            let column = 16 * n;
            let _ = writeln!(
                text,
                "let b{n} = coopLoad<coop_mat16x16<f16, B>>(&decoded[b + {column}u * stride], stride);"
            );
        }
        for m in 0..Self::ROWS / 16 {
            let row = 16 * m;
            let _ = writeln!(
                text,
                "let a{m} = coopLoadT<coop_mat16x16<f16, A>>(&x[a + {row}u * stride], stride);"
            );
            for n in 0..2 {
                let _ = writeln!(
                    text,
                    "sums{m}_{n} = coopMultiplyAdd(a{m}, b{n}, sums{m}_{n});"
                );
            }
        }
        text
    }
}

impl TrellisFinish {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_finish";

    /// The constants that make [`TrellisFinish::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        Specialization::new([
            ("ROWS", TrellisMatmul::ROWS.to_string()),
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
