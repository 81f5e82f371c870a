//! What goes before and after a product in tiles: inputs to tiles, sums to outputs.

use crate::Specialization;
use crate::linear::{Exchange, Route, bindings, declare, store};

/// What matrices are multiplied with, and what makes outputs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// Inputs and outputs are scaled and rotated in blocks of 128, as of trellis codes, by teams of 32 lanes that exchange so.
    Rotated(Exchange),
    /// The input as it is; sums times the factor of a matrix that is stored row by row.
    Plain,
}

impl Basis {
    /// `constants`, and those of the basis.
    fn of(self, constants: Specialization) -> Specialization {
        match self {
            Basis::Rotated(exchange) => constants
                .with("BASIS", "rotated")
                .with("EXCHANGE", exchange.name()),
            Basis::Plain => constants.with("BASIS", "plain"),
        }
    }
}

/// A kernel `linear/matmul_inputs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulInputs {
    /// Rows of a group: those of a workgroup of the product.
    pub rows: usize,
    /// Teams of 32 lanes, dividing `rows`.
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// What matrices are multiplied with.
    pub basis: Basis,
}

/// A kernel `linear/matmul_outputs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatmulOutputs {
    /// Rows of a group: those of a workgroup of the product.
    pub rows: usize,
    /// Teams of 32 lanes, dividing `rows`.
    pub teams: usize,
    /// Which rows meet which expert.
    pub route: Route,
    /// Whether a residual is added.
    pub residual: bool,
    /// What matrices were multiplied with.
    pub basis: Basis,
}

impl MatmulInputs {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/matmul_inputs";

    /// The constants that make [`MatmulInputs::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        let mut buffers = vec![("weights", "read", "u32"), ("x", "read", "f32")];
        buffers.extend(self.route.picks());
        buffers.push(("out0", "read_write", "vec2<u32>"));
        self.basis.of(Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("BINDINGS", declare(&buffers)),
        ]))
    }
}

impl MatmulOutputs {
    /// The kernel's source.
    pub const SOURCE: &str = "linear/matmul_outputs";

    /// The constants that make [`MatmulOutputs::SOURCE`] this kernel.
    pub fn specialization(&self) -> Specialization {
        self.basis.of(Specialization::new([
            ("ROWS", self.rows.to_string()),
            ("ROUTE", self.route.name().to_owned()),
            ("TEAMS", self.teams.to_string()),
            ("LANES", (32 * self.teams).to_string()),
            (
                "BINDINGS",
                bindings(&["weights"], self.route, self.residual, 1, &[]),
            ),
            ("STORE", store(self.residual, 1)),
        ]))
    }
}
