//! Products of matrices in tiles of half precision.
//!
//! Both sides come in tiles of 16 by 16, each tile and each step along the inputs contiguous, so that whatever reads them reads whole
//! lines: for each group of [`Matmul::ROWS`] rows (or [`Matmul::COLUMNS`] columns), for each 16 inputs, tiles of 16 rows (columns) by
//! 16 inputs. Which input is which does not matter as long as both sides agree. [`MatmulInputs`] makes tiles of rows; of columns, whatever
//! decodes a format; and [`MatmulOutputs`] makes outputs of the sums.

use std::fmt::Write;

mod ends;

pub use ends::{Basis, MatmulInputs, MatmulOutputs};

use crate::Specialization;
use crate::linear::{Route, declare, lines};

/// A kernel `linear/matmul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether subgroups multiply matrices, or lanes multiply numbers.
    pub matrices: bool,
}

/// Rows and columns of tiles of a subgroup.
const TILES: (usize, usize) = (4, 2);
/// Steps along the inputs that a subgroup loads at once: all of them are on the way before the first is used.
const STEPS: usize = 2;
/// Rows and columns of a lane, without matrix units.
const LANE: (usize, usize) = (8, 4);

impl Matmul {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/matmul";
    /// Rows of a workgroup.
    pub const ROWS: usize = 64;
    /// Columns of a workgroup.
    pub const COLUMNS: usize = 128;

    /// The constants that make [`Matmul::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        // Matrix units take single halves, lanes take eight at a time.
        let of = match self.matrices {
            true => "f16",
            false => "vec4<u32>",
        };
        let mut buffers = vec![("weights", "read", "u32"), ("x", "read", of)];
        buffers.extend(self.route.picks());
        buffers.extend([("decoded", "read", of), ("out0", "read_write", "f32")]);
        let constants = Specialization::new([
            ("ROWS", Self::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("BINDINGS", declare(&buffers)),
        ]);
        match self.matrices {
            true => constants
                .with("PRODUCT", "matrices")
                .with("ENABLE", "enable f16;\nenable wgpu_cooperative_matrix;")
                .with("LANES", 32 * Self::COLUMNS / (16 * TILES.1))
                .with(
                    "ACCUMULATORS",
                    each_tile(|m, n| format!("var sums{m}_{n} = coop_mat16x16<f32, C>();")),
                )
                .with("MULTIPLY", by_matrices())
                // By name: naga does not see to it that an index in the call is computed before.
                .with(
                    "STORE_SUMS",
                    each_tile(|m, n| {
                        format!(
                            "let to{m}_{n} = to + {}u * width + {}u;\n\
                             let done{m}_{n} = sums{m}_{n};\n\
                             coopStoreT(done{m}_{n}, &out0[to{m}_{n}], width);",
                            16 * m,
                            16 * n
                        )
                    }),
                ),
            false => {
                constants
                    .with("PRODUCT", "lanes")
                    .with("ENABLE", "")
                    .with("LANES", Self::ROWS * Self::COLUMNS / (LANE.0 * LANE.1))
                    .with(
                        "STORE_SUMS",
                        each_row(|m| {
                            lines((0..LANE.1).map(|c| {
                                format!("out0[to + {m}u * width + {c}u] = sums[{m}][{c}];")
                            }))
                        }),
                    )
            }
        }
    }
}

fn each_tile(line: impl Fn(usize, usize) -> String) -> String {
    let tiles = (0..TILES.0).flat_map(|m| (0..TILES.1).map(move |n| (m, n)));
    lines(tiles.map(|(m, n)| line(m, n)))
}

/// `line` for each row of a lane of `linear/product`.
pub(crate) fn each_row(line: impl Fn(usize) -> String) -> String {
    lines((0..LANE.0).map(line))
}

fn by_matrices() -> String {
    let mut text = String::new();
    for step in 0..STEPS {
        for (side, tiles, group, load) in [
            (
                "a",
                TILES.0,
                Matmul::ROWS,
                "coopLoadT<coop_mat16x16<f16, A>>(&x",
            ),
            (
                "b",
                TILES.1,
                Matmul::COLUMNS,
                "coopLoad<coop_mat16x16<f16, B>>(&decoded",
            ),
        ] {
            for tile in 0..tiles {
                let ahead = 16 * group * step + 256 * tile;
                let name = format!("{side}{step}_{tile}");
                let _ = writeln!(
                    text,
                    "let at_{name} = {side} + {ahead}u;\nlet {name} = {load}[at_{name}], across);"
                );
            }
        }
    }
    for step in 0..STEPS {
        text += &each_tile(|m, n| {
            format!("sums{m}_{n} = coopMultiplyAdd(a{step}_{m}, b{step}_{n}, sums{m}_{n});")
        });
        text.push('\n');
    }
    text
}
