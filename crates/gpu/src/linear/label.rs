//! What profiles call the kernels of linears.

use std::fmt::Write;

use treillage_shaders::linear::Route;
use treillage_shaders::trellis::Rates;

use super::kernels::Kernel;

impl Kernel {
    /// Its source, and what tells linears apart: a profile shows the experts' gate and up beside attention's output beside the head.
    pub(super) fn label(&self) -> String {
        let mut label = self.name().to_owned();
        let (rates, route, outputs, residual, rows) = match self {
            Kernel::TrellisGemv(k) => (Some(k.rates), k.route, k.outputs, k.residual, 1),
            Kernel::TrellisFew(k) => (Some(k.rates), k.route, k.outputs, k.residual, k.rows),
            Kernel::Rows(k) => (None, k.route, k.outputs, k.residual, k.rows),
            Kernel::RowsMatmul(k) => (None, k.route, k.outputs, k.residual, 1),
            Kernel::TrellisDecode(k) => (Some(Rates::one(k.bits)), k.route, 1, false, 1),
            Kernel::TrellisMatmul(k) => (Some(Rates::one(k.bits)), k.route, 1, false, k.rows),
            Kernel::Matmul(k) => (None, k.route, 1, false, 1),
            _ => return label,
        };
        for (i, bits) in rates.iter().flat_map(|rates| rates.iter()).enumerate() {
            let before = if i == 0 { " K=" } else { "," };
            _ = write!(label, "{before}{bits}");
        }
        label.push_str(match route {
            Route::All => "",
            Route::Picked => " picked",
            Route::Grouped => " grouped",
        });
        if outputs > 1 {
            _ = write!(label, " x{outputs}");
        }
        if residual {
            label.push_str(" + residual");
        }
        if rows > 1 {
            _ = write!(label, " {rows} rows");
        }
        label
    }
}
