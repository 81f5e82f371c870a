//! From the group of each input to an order in which groups are runs.

use crate::{Dtype, Result, TensorError, TensorView};

use super::expect_dtype;

/// The order in which the inputs of `g_idx`, `[in]`, stand group by group, each group's in their own order; `None` if
/// that is how they stand already.
///
/// Some writers leave `−1` everywhere in a tensor that they do not use: this, too, is no order.
pub(super) fn from_groups(
    g_idx: &TensorView<'_>,
    in_features: usize,
    groups: usize,
) -> Result<Option<Vec<u32>>> {
    expect_dtype(g_idx, &[Dtype::I32], "I32")?;
    g_idx.expect_shape(&[in_features])?;
    let values = g_idx.values::<i32>(0..in_features);
    let values = (*values).as_ref();
    if values.iter().all(|&group| group == -1) {
        return Ok(None);
    }
    let size = in_features / groups;
    let mut counts = vec![0_usize; groups];
    for (input, &group) in values.iter().enumerate() {
        match usize::try_from(group).ok().and_then(|g| counts.get_mut(g)) {
            Some(count) => *count += 1,
            None => {
                return Err(g_idx.error(TensorError::GroupIndex {
                    input,
                    group,
                    groups,
                }));
            }
        }
    }
    if let Some(group) = counts.iter().position(|&count| count != size) {
        return Err(g_idx.error(TensorError::GroupSize {
            group,
            found: counts[group],
            expected: size,
        }));
    }
    if values.is_sorted() {
        return Ok(None);
    }
    // The header's limits and the model's keep widths far below 2³².
    let mut order: Vec<u32> = (0..in_features as u32).collect();
    order.sort_by_key(|&input| values[input as usize]);
    Ok(Some(order))
}

/// `rows` of codes, a byte each, with their inputs in `order`.
pub(super) fn apply(codes: Vec<u8>, order: Option<&[u32]>) -> Vec<u8> {
    let Some(order) = order else {
        return codes;
    };
    let rows = codes.chunks_exact(order.len());
    rows.flat_map(|row| order.iter().map(|&input| row[input as usize]))
        .collect()
}
