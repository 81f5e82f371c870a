//! Rotary position embedding (RoFormer, arXiv 2104.09864).

use std::sync::{Mutex, PoisonError};

use treillage_backend::{Error, Rope, RopePairing};

use crate::context::Constant;
use crate::{Context, Slice};

/// Cosines and sines of all angles up to some position, `[positions, dims]` on the device: for each position `dims/2`
/// cosines and then as many sines.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    rope: Rope,
    positions: usize,
    pub(crate) turns: Slice,
}

/// Tables that all layers share.
#[derive(Debug, Default)]
pub(crate) struct RopeTables(Mutex<Vec<RopeTable>>);

impl RopeTables {
    /// A table of at least `positions`.
    pub(crate) fn get(
        &self,
        context: &Context,
        rope: Rope,
        positions: usize,
    ) -> Result<RopeTable, Error> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.iter().find(|t| t.rope == rope)
            && table.positions >= positions
        {
            return Ok(table.clone());
        }
        let positions = positions.next_power_of_two().max(256);
        let turns = turns(rope, positions);
        let table = RopeTable {
            rope,
            positions,
            turns: context
                .slabs
                .put("positions", bytemuck::cast_slice(&turns))?,
        };
        tables.retain(|t| t.rope != rope);
        tables.push(table.clone());
        Ok(table)
    }
}

/// Which values rotate together, for kernels.
pub(super) fn pairing(rope: Rope) -> Constant {
    match rope.pairing {
        RopePairing::HalfSplit => "half_split".into(),
        RopePairing::Interleaved => "interleaved".into(),
    }
}

fn turns(rope: Rope, positions: usize) -> Vec<f32> {
    let frequencies: Vec<f32> = (0..rope.dims / 2)
        .map(|i| rope.theta.powf(-2.0 * i as f64 / rope.dims as f64) as f32)
        .collect();
    let mut values = Vec::with_capacity(positions * rope.dims);
    for position in 0..positions {
        // Angles are rounded to f32, as where these models were trained.
        let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
        values.extend(angles.clone().map(|angle| angle.cos() as f32));
        values.extend(angles.map(|angle| angle.sin() as f32));
    }
    values
}
