//! Trellis kernels around a product with many rows: matrices are decoded once, as `linear/matmul` reads them.

use std::fmt::Write;

use super::Codebook;
use super::codes::{COMPONENTS, four, halves, state, straddling, unscaled};
use crate::Specialization;
use crate::linear::{Route, declare, lines};
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

/// A kernel `linear/trellis_matmul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrellisMatmul {
    /// Bits per weight, 1 to 8.
    pub bits: usize,
    /// How states become weights.
    pub codebook: Codebook,
    /// Rows of a workgroup: a multiple of 16, up to 64.
    pub rows: usize,
    /// Teams of 32 lanes, 4 or 8, that share the eight column tiles of a workgroup.
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
}

impl TrellisDecode {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_decode";

    /// The constants that make [`TrellisDecode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![("weights", "read", "u32"), ("codes", "read", "vec4<u32>")];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "vec4<u32>"));
        Specialization::new([
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROWS", Matmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("PAIR_FOURS", (32 * self.bits).to_string()),
            ("BINDINGS", declare(&buffers)),
            ("SKIP", self.route.skip().to_owned()),
            ("DECODE", self.decode()),
        ])
    }

    fn decode(&self) -> String {
        let mut text = fetch(self.bits);
        for run in 0..4 {
            // Tiles of the first row and of the second, each first and then four further on.
            let (row, tile) = (run / 2, run % 2);
            // A lane has two columns of a tile, eight apart, in two vectors each.
            for half in 0..2 {
                let mut words = Vec::new();
                for q in 0..4 {
                    let weights = weights(&mut text, self.bits, self.codebook, run, half, q);
                    let (scale, offset) = self.codebook.affine();
                    let [a, b, c, d] =
                        weights.map(|weight| format!("fma({weight}, {scale:?}, {offset:?})"));
                    for pair in [format!("{a}, {b}"), format!("{c}, {d}")] {
                        words.push(format!("pack2x16float(vec2<f32>({pair}))"));
                    }
                }
                for (i, words) in words.chunks(4).enumerate() {
                    let to = 256 * row + 128 * tile + 16 * half + i;
                    let words = words.join(", ");
                    let _ = writeln!(text, "out0[first + {to}u] = vec4<u32>({words});");
                }
            }
        }
        text
    }
}

/// Fetches a lane's words of a pair of rows of tiles, and makes those across two.
fn fetch(bits: usize) -> String {
    let words = (0..=bits).map(|j| format!("let v{j} = {};\n", four(bits, j)));
    words.collect::<String>() + &straddling(bits) + "\n"
}

/// Decodes what run `run` has of its tile's column `half` for inputs `4 q…`, in f32, before the codebook's scale and offset: their
/// names.
fn weights(
    text: &mut String,
    bits: usize,
    codebook: Codebook,
    run: usize,
    half: usize,
    q: usize,
) -> [String; 4] {
    [0, 1, 2, 3].map(|place| {
        let name = format!("w{run}_{half}_{q}_{place}");
        let state = state(bits, COMPONENTS[run], 8 * q + 4 * half + place);
        text.push_str(&unscaled(codebook, &state, &name));
        name
    })
}

impl TrellisMatmul {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/trellis_matmul";

    /// The constants that make [`TrellisMatmul::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![
            ("weights", "read", "u32"),
            ("codes", "read", "vec4<u32>"),
            ("x", "read", "vec4<f16>"),
        ];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "f32"));
        let (scale, offset) = self.codebook.affine_of_halves();
        Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("PAIR_FOURS", (32 * self.bits).to_string()),
            ("BINDINGS", declare(&buffers)),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("COLUMNS", self.columns().to_string()),
            ("PITCH", Self::PITCH.to_string()),
            ("FOURS", Self::fours(self.teams).to_string()),
            (
                "ACCUMULATORS",
                self.each_sum(|m, c| format!("var sums{m}_{c} = coop_mat16x16<f32, C>();")),
            ),
            ("SCALE", format!("{scale:?}")),
            ("OFFSET", format!("{offset:?}")),
            ("FETCH", fetch(self.bits)),
            ("DECODE_FIRST", self.decode(0)),
            ("DECODE_SECOND", self.decode(1)),
            ("AHEAD_FIRST", self.ahead(0)),
            ("AHEAD_SECOND", self.ahead(1)),
            ("MULTIPLY_FIRST", self.multiply(0)),
            ("MULTIPLY_SECOND", self.multiply(1)),
            (
                "STORE_SUMS",
                self.each_sum(|m, c| {
                    format!(
                        "let to{m}_{c} = to + {}u * width + {}u;\n\
                         let done{m}_{c} = sums{m}_{c};\n\
                         coopStoreT(done{m}_{c}, &out0[to{m}_{c}], width);",
                        16 * m,
                        16 * c
                    )
                }),
            ),
        ])
    }

    /// Column tiles that a team multiplies.
    fn columns(&self) -> usize {
        8 / self.teams
    }

    /// `text` of each 16 rows and of each of a team's column tiles.
    fn each_sum(&self, text: impl Fn(usize, usize) -> String) -> String {
        let each = (0..self.rows / 16).flat_map(|m| (0..self.columns()).map(move |c| (m, c)));
        lines(each.map(|(m, c)| text(m, c)))
    }

    /// Asks for the activations of a row of tiles of each team, where there are registers for them: they come while weights are
    /// decoded.
    fn ahead(&self, row: usize) -> String {
        match self.rows > 32 {
            true => String::new(),
            false => lines((0..self.teams).map(|step| self.load(row, step))),
        }
    }

    fn load(&self, row: usize, step: usize) -> String {
        // By name: naga does not see to it that an index in the call is computed before.
        lines((0..self.rows / 16).map(|m| {
            let name = format!("{row}_{step}_{m}");
            format!(
                "let at{name} = rows + min({step}u, steps - 1u) * (8u * ROWS) + {}u;\n\
                 let rows{name} = coopLoadT<coop_mat16x16<f16, A>>(&x[at{name}], across);",
                4 * self.rows * row + 64 * m
            )
        }))
    }

    /// Multiplies with what all teams decoded of a row of tiles.
    fn multiply(&self, row: usize) -> String {
        lines((0..self.teams).map(|step| {
            let mut text = match self.rows > 32 {
                true => self.load(row, step) + "\n",
                false => String::new(),
            };
            for c in 0..self.columns() {
                let name = format!("{step}_{c}");
                let _ = writeln!(
                    text,
                    "let b{name} = near_columns + TILE * {}u;\n\
                     let columns{name} = coopLoad<coop_mat16x16<f16, B>>(&decoded[b{name}], pitch);",
                    8 * step + c
                );
                for m in 0..self.rows / 16 {
                    let _ = writeln!(
                        text,
                        "sums{m}_{c} = coopMultiplyAdd(rows{row}_{step}_{m}, columns{name}, sums{m}_{c});"
                    );
                }
            }
            text
        }))
    }

    /// A row of tiles to workgroup memory.
    fn decode(&self, row: usize) -> String {
        let mut text = String::new();
        for tile in 0..2 {
            for half in 0..2 {
                for q in 0..4 {
                    let run = 2 * row + tile;
                    let pairs = [0, 2].map(|first| {
                        let states = [first, first + 1]
                            .map(|i| state(self.bits, COMPONENTS[run], 8 * q + 4 * half + i));
                        let name = format!("w{run}_{half}_{q}_{first}");
                        text.push_str(&halves(self.codebook, &states, &name));
                        format!("fma({name}, scale, offset)")
                    });
                    let to = Self::PITCH * (64 * tile + 8 * half) + q;
                    let [a, b] = pairs;
                    let _ = writeln!(text, "decoded[near + {to}u] = vec4<f16>({a}, {b});");
                }
            }
        }
        text
    }

    /// Fours of halves that `teams` teams decode to.
    const fn fours(teams: usize) -> usize {
        // What would pad the last column is beyond 48 KiB, all that many devices have.
        8 * 16 * teams * Self::PITCH - 2
    }

    /// Workgroup memory that it takes at the most: what a device must have.
    pub const WORKGROUP_BYTES: u32 = 8 * Self::fours(8) as u32 + 4;
    /// Fours of halves from a decoded column to the next in workgroup memory: two more than there are, so that the eight columns that
    /// are written or read at a time lie in different banks, and each begins where sixteen bytes can be read at once.
    const PITCH: usize = 6;
}
