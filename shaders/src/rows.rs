//! Kernels of weights that are stored row by row.

use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, declare, store};
use crate::matmul::{Matmul, each_row};

/// The form of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weights {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Integers 0 to 3, in nibbles.
    Int2,
    /// Integers 0 to 7, in nibbles.
    Int3,
    /// Integers 0 to 15.
    Int4,
    /// Integers 0 to 255.
    Int8,
    /// FP4.
    E2m1,
}

impl Weights {
    /// Words of eight weights.
    pub fn words(self) -> usize {
        match self {
            Weights::F32 => 8,
            Weights::F16 | Weights::Bf16 => 4,
            Weights::Int8 => 2,
            _ => 1,
        }
    }

    /// The constant `WEIGHTS`, and the zero point.
    fn name(self) -> (&'static str, usize) {
        match self {
            Weights::F32 => ("f32", 0),
            Weights::F16 => ("f16", 0),
            Weights::Bf16 => ("bf16", 0),
            Weights::Int2 => ("nibble", 2),
            Weights::Int3 => ("nibble", 4),
            Weights::Int4 => ("nibble", 8),
            Weights::Int8 => ("byte", 128),
            Weights::E2m1 => ("e2m1", 0),
        }
    }
}

/// The form of group scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scales {
    /// There are none.
    None,
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// A sign, four bits of exponent, three of mantissa.
    E4m3,
    /// Powers of two.
    E8m0,
}

impl Scales {
    fn name(self) -> Option<&'static str> {
        match self {
            Scales::None => None,
            Scales::F32 => Some("f32"),
            Scales::F16 => Some("f16"),
            Scales::Bf16 => Some("bf16"),
            Scales::E4m3 => Some("e4m3"),
            Scales::E8m0 => Some("e8m0"),
        }
    }
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// The form of weights.
    pub weights: Weights,
    /// The form of group scales.
    pub scales: Scales,
    /// Weights that share a scale, a multiple of 8.
    pub group: usize,
}

impl Format {
    /// `constants`, and those of `linear/stored`.
    fn of(self, constants: Specialization) -> Specialization {
        let (weights, middle) = self.weights.name();
        let constants = constants.with("WEIGHTS", weights);
        match self.scales.name() {
            None => constants,
            Some(scales) => constants
                .with("SCALES", scales)
                .with("GROUP", self.group)
                .with("MIDDLE", middle),
        }
    }
}

/// A kernel `linear/rows_gemv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowsGemv {
    /// How matrices are stored.
    pub format: Format,
    /// Rows that share decoded weights.
    pub rows: usize,
    /// Teams of 32 lanes.
    pub teams: usize,
    /// Linears, 1 to 3.
    pub outputs: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added, to a single linear.
    pub residual: bool,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl RowsGemv {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/rows_gemv";

    /// The constants that make [`RowsGemv::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        self.format.of(Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            (
                "BINDINGS",
                bindings(&["weights"], self.route, self.residual, self.outputs, &[]),
            ),
            ("STORE", store(self.residual, self.outputs)),
        ]))
    }
}

/// A kernel `linear/rows_matmul`: [`Matmul::ROWS`] rows by [`Matmul::COLUMNS`] outputs a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowsMatmul {
    /// How matrices are stored.
    pub format: Format,
    /// Linears, 1 to 3.
    pub outputs: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added, to a single linear.
    pub residual: bool,
}

impl RowsMatmul {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/rows_matmul";

    /// The constants that make [`RowsMatmul::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        self.format.of(Specialization::new([
            ("ROWS", Matmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            (
                "BINDINGS",
                bindings(&["weights"], self.route, self.residual, self.outputs, &[]),
            ),
            ("STORE", store(self.residual, self.outputs)),
            (
                "FINISH",
                each_row(|m| format!("finish(place, ends, row + {m}u, sums[{m}], at);")),
            ),
        ]))
    }
}

/// A kernel `linear/rows_decode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowsDecode {
    /// How matrices are stored.
    pub format: Format,
    /// Whether rows are sorted by expert, and experts without rows are left out.
    pub route: Route,
}

impl RowsDecode {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/rows_decode";

    /// The constants that make [`RowsDecode::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![("weights", "read", "u32")];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "vec4<u32>"));
        self.format.of(Specialization::new([
            ("ROWS", Matmul::ROWS.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("BINDINGS", declare(&buffers)),
            ("SKIP", self.route.skip().to_owned()),
        ]))
    }
}

/// A kernel `linear/arrange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrange {
    /// Inputs that are rotated together: 1, 16, 32, 64, 128.
    pub rotation: usize,
    /// Teams of 32 lanes.
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// How teams exchange.
    pub exchange: Exchange,
}

impl Arrange {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/arrange";

    /// The constants that make [`Arrange::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let norm = (self.rotation as f64).sqrt().recip();
        Specialization::new([
            ("ROTATION", self.rotation.to_string()),
            ("NORM", format!("{norm:?}")),
            ("ROWS", "1".to_owned()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("EXCHANGE", self.exchange.name().to_owned()),
            (
                "BINDINGS",
                bindings(&["weights"], self.route, false, 1, &[]),
            ),
        ])
    }
}
