//! Rotary position embedding (RoFormer, arXiv 2104.09864).

use std::sync::{Arc, Mutex, PoisonError};

use treillage_backend::{Rope, RopePairing};

/// Cosines and sines of all angles up to some position.
#[derive(Debug)]
pub(crate) struct RopeTable {
    rope: Rope,
    positions: usize,
    /// For each position, `dims/2` cosines and then as many sines.
    values: Vec<f32>,
}

impl RopeTable {
    fn new(rope: Rope, positions: usize) -> Self {
        let half = rope.dims / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| rope.theta.powf(-2.0 * i as f64 / rope.dims as f64) as f32)
            .collect();
        let mut values = Vec::with_capacity(positions * rope.dims);
        for position in 0..positions {
            // Angles are rounded to f32, as where these models were trained.
            let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
            values.extend(angles.clone().map(|angle| angle.cos() as f32));
            values.extend(angles.map(|angle| angle.sin() as f32));
        }
        Self {
            rope,
            positions,
            values,
        }
    }

    /// Rotates one head to `position`.
    pub(crate) fn rotate(&self, head: &mut [f32], position: usize) {
        let half = self.rope.dims / 2;
        let (cos, sin) = self.values[position * 2 * half..][..2 * half].split_at(half);
        match self.rope.pairing {
            RopePairing::HalfSplit => {
                let (first, second) = head[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos[i] - b * sin[i];
                    second[i] = b * cos[i] + a * sin[i];
                }
            }
            RopePairing::Interleaved => {
                let (pairs, _) = head[..2 * half].as_chunks_mut::<2>();
                for (i, [first, second]) in pairs.iter_mut().enumerate() {
                    let (a, b) = (*first, *second);
                    *first = a * cos[i] - b * sin[i];
                    *second = b * cos[i] + a * sin[i];
                }
            }
        }
    }
}

/// Tables that all layers share, grown as positions are reached.
#[derive(Debug, Default)]
pub(crate) struct RopeTables(Mutex<Vec<Arc<RopeTable>>>);

impl RopeTables {
    /// A table of at least `positions`.
    pub(crate) fn get(&self, rope: Rope, positions: usize) -> Arc<RopeTable> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tables.iter().position(|t| t.rope == rope);
        if let Some(known) = known
            && tables[known].positions >= positions
        {
            return Arc::clone(&tables[known]);
        }
        // A power of two, so that a table is made anew only when its length has doubled.
        let table = Arc::new(RopeTable::new(rope, positions.next_power_of_two().max(256)));
        match known {
            Some(known) => tables[known] = Arc::clone(&table),
            None => tables.push(Arc::clone(&table)),
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROPE: Rope = Rope {
        theta: 10_000.0,
        dims: 8,
        pairing: RopePairing::HalfSplit,
    };

    #[test]
    fn pairs_rotate_by_their_angles_and_the_rest_stays() {
        let table = RopeTables::default().get(ROPE, 100);
        let mut head: Vec<f32> = (0..10).map(|i| i as f32 + 1.0).collect();
        let before = head.clone();
        table.rotate(&mut head, 77);
        for i in 0..4 {
            let angle = 77.0 * 10_000f64.powf(-0.25 * i as f64);
            let (a, b) = (f64::from(before[i]), f64::from(before[i + 4]));
            let expected = [
                a * angle.cos() - b * angle.sin(),
                b * angle.cos() + a * angle.sin(),
            ];
            assert!((f64::from(head[i]) - expected[0]).abs() < 1e-4);
            assert!((f64::from(head[i + 4]) - expected[1]).abs() < 1e-4);
        }
        assert_eq!(head[8..], before[8..]);
    }

    #[test]
    fn a_longer_table_replaces_a_shorter_one() {
        let tables = RopeTables::default();
        let short = tables.get(ROPE, 10);
        assert!(Arc::ptr_eq(&short, &tables.get(ROPE, 256)));
        let long = tables.get(ROPE, 257);
        assert_eq!(long.positions, 512);
        assert_eq!(long.values[..short.values.len()], short.values);
        assert!(Arc::ptr_eq(&long, &tables.get(ROPE, 10)));
        let other = Rope { theta: 1e6, ..ROPE };
        assert_ne!(tables.get(other, 10).values, short.values);
    }
}
