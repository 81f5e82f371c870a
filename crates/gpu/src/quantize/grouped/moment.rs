//! The second moment of rows.

use bytemuck::{Pod, Zeroable};

use crate::{Context, Error, Tensor, Work};

/// Records the mean second moment `E[x xᵀ]` of the rows of `x`, `[tokens, width]`: `[width, width]`, both triangles. Rows are
/// taken as they are; one that is not finite makes a moment that is not.
///
/// # Errors
/// If the device has no memory left.
pub fn second_moment(context: &Context, x: &Tensor) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        width: u32,
        scale: f32,
    }
    let (rows, width) = (x.rows(), x.width());
    let moment = context.tensor(width, width)?;
    let params = Params {
        rows: rows as u32,
        width: width as u32,
        scale: 1.0 / rows.max(1) as f32,
    };
    let tiles = width.div_ceil(super::TILE) as u32;
    let work = Work {
        bytes: 4 * (x.len() + moment.len()),
        operations: rows as u64 * moment.len(),
    };
    let slices = [&x.slice(), &moment.slice()];
    context.run_for(
        work,
        "quantize/syrk",
        &[],
        &slices,
        &params,
        [tiles, tiles, 1],
    )?;
    Ok(moment)
}
