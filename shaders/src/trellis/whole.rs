//! Trellis kernels around a product with many rows: matrices are decoded once, as `linear/matmul` reads them.

use std::fmt::Write;

use super::{COMPONENTS, Codebook, four, state, straddling, unscaled};
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
    words.collect::<String>() + &straddling(bits, 4) + "\n"
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
            ("x", "read", "f16"),
        ];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "f32"));
        let each_tile = |line: &dyn Fn(usize) -> String| lines((0..self.rows / 16).map(line));
        let (scale, offset) = self.codebook.affine();
        Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("PAIR_FOURS", (32 * self.bits).to_string()),
            ("BINDINGS", declare(&buffers)),
            (
                "ACCUMULATORS",
                each_tile(&|m| format!("var sums{m} = coop_mat16x16<f32, C>();")),
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
                each_tile(&|m| {
                    format!(
                        "let to{m} = to + {}u * width;\n\
                         let done{m} = sums{m};\n\
                         coopStoreT(done{m}, &out0[to{m}], width);",
                        16 * m
                    )
                }),
            ),
        ])
    }

    /// Asks for the activations of a row of tiles of each team, where there are registers for them: they come while weights are
    /// decoded.
    fn ahead(&self, row: usize) -> String {
        match self.rows > 32 {
            true => String::new(),
            false => lines((0..Self::TEAMS).map(|step| self.load(row, step))),
        }
    }

    fn load(&self, row: usize, step: usize) -> String {
        // By name: naga does not see to it that an index in the call is computed before.
        lines((0..self.rows / 16).map(|m| {
            let name = format!("{row}_{step}_{m}");
            format!(
                "let at{name} = rows + min({step}u, steps - 1u) * (32u * ROWS) + {}u;\n\
                 let rows{name} = coopLoadT<coop_mat16x16<f16, A>>(&x[at{name}], across);",
                16 * self.rows * row + 256 * m
            )
        }))
    }

    /// Multiplies with what all teams decoded of a row of tiles.
    fn multiply(&self, row: usize) -> String {
        lines((0..Self::TEAMS).map(|step| {
            let load = match self.rows > 32 {
                true => self.load(row, step),
                false => String::new(),
            };
            let sums = lines((0..self.rows / 16).map(|m| {
                format!("sums{m} = coopMultiplyAdd(rows{row}_{step}_{m}, columns{step}, sums{m});")
            }));
            format!(
                "{load}\n\
                 let b{step} = TILE * ({}u + team);\n\
                 let columns{step} = coopLoad<coop_mat16x16<f16, B>>(&decoded[b{step}], pitch);\n\
                 {sums}",
                8 * step
            )
        }))
    }

    /// A row of tiles to workgroup memory.
    fn decode(&self, row: usize) -> String {
        let mut text = String::new();
        for tile in 0..2 {
            for half in 0..2 {
                for q in 0..4 {
                    let run = 2 * row + tile;
                    let values = weights(&mut text, self.bits, self.codebook, run, half, q);
                    let four = format!("four{run}_{half}_{q}");
                    let values = values.join(", ");
                    let _ = writeln!(
                        text,
                        "let {four} = vec4<f16>(fma(vec4<f32>({values}), scale, offset));"
                    );
                    for (place, of) in COMPONENTS.iter().enumerate() {
                        let to = Self::PITCH * (64 * tile + 8 * half) + 4 * q + place;
                        let _ = writeln!(text, "decoded[near + {to}u] = {four}.{of};");
                    }
                }
            }
        }
        text
    }

    /// Teams of a workgroup.
    const TEAMS: usize = 8;
    /// Workgroup memory that it takes: what a device must have.
    pub const WORKGROUP_BYTES: u32 = 8 * 8 * 16 * 2 * Self::PITCH as u32 + 4;
    /// Halves from a decoded column to the next in workgroup memory: four more than there are, so that neighbours lie in
    /// different banks.
    const PITCH: usize = 20;
}
