//! Rows in and out of tensors.

use bytemuck::{Pod, Zeroable};
use treillage_backend::Error;

use super::WORKGROUP;
use crate::context::flat_grid;
use crate::{Context, Slice, Tensor};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    per: u32,
}

/// Brings rows of `width` values from the host.
pub(crate) fn upload(context: &Context, values: &[f32], width: usize) -> Result<Tensor, Error> {
    let rows = values.len() / width.max(1);
    Error::check_shape("values of whole rows", rows * width, values.len())?;
    let tensor = context.tensor(rows, width)?;
    if !values.is_empty() {
        let bytes = bytemuck::cast_slice(values);
        context.recorder.write(&tensor.slice(), bytes);
    }
    Ok(tensor)
}

/// Rows `rows` of `x`.
pub(crate) fn select(context: &Context, x: &Tensor, rows: &[usize]) -> Result<Tensor, Error> {
    if let Some(&row) = rows.iter().find(|&&row| row >= x.rows()) {
        return Err(Error::Shape {
            what: "row to select, at most".to_owned(),
            expected: x.rows().saturating_sub(1),
            found: row,
        });
    }
    // Neighbours stay where they are: the last row of a prompt, the only one of a token.
    if let Some(&first) = rows.first()
        && rows.iter().copied().eq(first..first + rows.len())
        && let Some(window) = x.window(first, rows.len())
    {
        return Ok(window);
    }
    let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    let index = context.bring(&index)?;
    gather(context, x, &index.slice(), rows.len(), 1)
}

/// Row `index[r] / per` of `x` for each of `rows` rows.
pub(crate) fn gather(
    context: &Context,
    x: &Tensor,
    index: &Slice,
    rows: usize,
    per: usize,
) -> Result<Tensor, Error> {
    let out = context.tensor(rows, x.width())?;
    let params = Params {
        width: x.width() as u32,
        per: per as u32,
    };
    context.run(
        "gather_rows",
        &[("WG", WORKGROUP.into())],
        &[&x.slice(), index, &out.slice()],
        &params,
        [params.width.div_ceil(WORKGROUP), rows as u32, 1],
    )?;
    Ok(out)
}

/// Pieces of `from` values of each row, cut or padded with zeros to `to` values.
pub(crate) fn resize(
    context: &Context,
    x: &Tensor,
    from: usize,
    to: usize,
) -> Result<Tensor, Error> {
    let out = context.tensor(x.rows(), x.width() / from * to)?;
    resize_into(context, x, from, to, &out)?;
    Ok(out)
}

/// As [`resize`], into `out`.
pub(crate) fn resize_into(
    context: &Context,
    x: &Tensor,
    from: usize,
    to: usize,
    out: &Tensor,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        from: u32,
        to: u32,
        count: u32,
    }
    let params = Params {
        from: from as u32,
        to: to as u32,
        count: out.len() as u32,
    };
    context.run(
        "resize_pieces",
        &[("WG", WORKGROUP.into())],
        &[&x.slice(), &out.slice()],
        &params,
        flat_grid(out.len().div_ceil(WORKGROUP.into())),
    )?;
    Ok(())
}
