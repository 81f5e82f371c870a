//! What encoding does with whole matrices, by either method.

use bytemuck::{Pod, Zeroable};
use treillage_gptq::Rotation;

use crate::{Context, Error, Tensor};

/// Records a copy of `values`, `rows` rows of them, to the device.
pub(super) fn brought(
    context: &Context,
    rows: usize,
    width: usize,
    values: &[f32],
) -> Result<Tensor, Error> {
    let tensor = context.tensor(rows, width)?;
    context
        .recorder
        .write(&tensor.slice(), bytemuck::cast_slice(values));
    Ok(tensor)
}

/// Records the rotation of each run of a matrix's rows: `W R`.
pub(super) fn rotated(
    context: &Context,
    matrix: &Tensor,
    rotation: Rotation,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        width: u32,
        out_width: u32,
    }
    const LANES: u32 = 64;
    let Rotation::Block(block) = rotation else {
        return Ok(matrix.clone());
    };
    let (rows, width) = (matrix.rows(), matrix.width());
    let out = context.tensor(rows, width)?;
    let unused = context.tensor(1, 1)?;
    // Runs lie one behind the other, wherever rows begin: cut otherwise, grids have room for any number of rows.
    let (rows, width) = (width / block, rows * block);
    let params = Params {
        width: width as u32,
        out_width: width as u32,
    };
    let constants = [
        ("WG", LANES.into()),
        ("BLOCK", (block as u32).into()),
        ("SIDE", "none".into()),
    ];
    // What a lane holds: the kernel's B.
    let held = match block {
        16 => 4,
        32 | 64 => 8,
        _ => 16,
    };
    let slices = [&matrix.slice(), &unused.slice(), &out.slice()];
    let grid = [(width as u32).div_ceil(LANES * held), rows as u32, 1];
    context.run("hadamard", &constants, &slices, &params, grid)?;
    Ok(out)
}

/// Records a matrix turned over.
fn transposed(context: &Context, matrix: &Tensor) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        columns: u32,
    }
    let out = context.tensor(matrix.width(), matrix.rows())?;
    let params = Params {
        rows: matrix.rows() as u32,
        columns: matrix.width() as u32,
    };
    let slices = [&matrix.slice(), &out.slice()];
    let grid = [params.columns.div_ceil(16), params.rows.div_ceil(16), 1];
    context.run("quantize/transpose", &[], &slices, &params, grid)?;
    Ok(out)
}

/// Records the rotation of a matrix's columns and rows, turned over: `(R W R)ᵀ`.
pub(super) fn rotated_both(
    context: &Context,
    matrix: &Tensor,
    rotation: Rotation,
) -> Result<Tensor, Error> {
    let half = rotated(context, matrix, rotation)?;
    rotated(context, &transposed(context, &half)?, rotation)
}
