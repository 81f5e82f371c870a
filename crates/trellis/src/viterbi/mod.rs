//! Tail-biting Viterbi search: the closed walk whose weights lie nearest to a tile of 256 targets.
//!
//! A walk is tail-biting, so its first register depends on its last. Two passes settle that, as in QTIP (arXiv 2406.11235,
//! §3.2): the first starts halfway round with every register free and yields the register at the seam, the second
//! starts and ends there. Each pass is 256 steps over all 65,536 states, 131,072 evaluations per weight whatever the
//! rate; with less [`Effort`] the first is shorter.
//!
//! | module | |
//! |---|---|
//! | `effort` | how far the first pass looks |
//! | `graph` | which register leads to which |
//! | `metric` | path costs: 16-bit fixed point for K ≤ 4, f32 above |
//! | `reference` | the slow and obvious search over any metric |
//! | `whole` | the metric of GPUs up to K = 4 |
//! | `search` | two passes over a kernel, the walk back through kept costs |
//! | `narrow`, `wide` | the kernels: one step of all registers, for few and for many bits |

mod effort;
mod graph;
mod metric;
mod narrow;
mod reference;
mod search;
mod whole;
mod wide;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use crate::{Bits, Codebook, SimdLevel, TILE_WEIGHTS};
use metric::{Exact, Fixed};
use search::{Scratch, Search};

pub use effort::{Effort, Window};
pub use reference::encode_tile_reference;
pub use whole::{Grid, encode_tile_whole};

/// Encodes tiles at one rate with one codebook. Shared between threads; the scratch of a tile (2 to 4 MiB) is kept for
/// the next.
pub struct Encoder {
    search: Either,
    window: Window,
    spare: Mutex<Vec<Scratch>>,
}

enum Either {
    Narrow(Search<Fixed>),
    Wide(Search<Exact>),
}

impl Encoder {
    /// An encoder with the fastest instructions of this machine.
    pub fn new(bits: Bits, codebook: Codebook) -> Self {
        Self::with_level(bits, codebook, SimdLevel::best())
    }

    /// An encoder with given instructions, of which every level finds the same walks.
    ///
    /// # Panics
    /// If this machine does not have them.
    pub fn with_level(bits: Bits, codebook: Codebook, level: SimdLevel) -> Self {
        assert!(level.is_available(), "this machine has no {}", level.name());
        let search = if bits.get() <= narrow::MAX_BITS {
            Either::Narrow(Search::new(bits, codebook, narrow::kernel(bits, level)))
        } else {
            Either::Wide(Search::new(bits, codebook, wide::kernel(bits, level)))
        };
        Self {
            search,
            window: Effort::Best.window(),
            spare: Mutex::default(),
        }
    }

    /// The same with as much effort as `effort` says, which is otherwise the best.
    #[must_use]
    pub fn with_effort(self, effort: Effort) -> Self {
        let window = effort.window();
        Self { window, ..self }
    }

    /// The states of the closed walk nearest to `targets`, which are in trellis order and in units of the codebook.
    pub fn encode_tile(&self, targets: &[f32; TILE_WEIGHTS]) -> [u16; TILE_WEIGHTS] {
        let mut scratch = self.spare().pop().unwrap_or_default();
        let states = match &self.search {
            Either::Narrow(search) => search.encode(targets, self.window, &mut scratch),
            Either::Wide(search) => search.encode(targets, self.window, &mut scratch),
        };
        self.spare().push(scratch);
        states
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Scratch>> {
        // A panic elsewhere leaves whole buffers, whose contents nobody reads before writing.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Encodes any number of tiles in parallel: `targets` and the states are `[tiles, 256]`, see [`Encoder::encode_tile`].
///
/// # Panics
/// If `targets` is not a whole number of tiles.
pub fn encode_tiles(targets: &[f32], bits: Bits, codebook: Codebook) -> Vec<[u16; TILE_WEIGHTS]> {
    let (tiles, rest) = targets.as_chunks::<TILE_WEIGHTS>();
    assert!(rest.is_empty(), "a tile is {TILE_WEIGHTS} targets");
    let encoder = Encoder::new(bits, codebook);
    tiles
        .par_iter()
        .map(|tile| encoder.encode_tile(tile))
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::tile;

    fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
        // Box–Muller.
        let (a, b): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    fn gaussian_tiles(count: usize, seed: u64) -> Vec<[f32; TILE_WEIGHTS]> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| std::array::from_fn(|_| gaussian(&mut rng)))
            .collect()
    }

    fn reference(
        targets: &[f32; TILE_WEIGHTS],
        bits: Bits,
        codebook: Codebook,
    ) -> [u16; TILE_WEIGHTS] {
        if bits.get() <= narrow::MAX_BITS {
            reference::encode::<Fixed>(targets, bits, codebook, Effort::Best.window())
        } else {
            reference::encode::<Exact>(targets, bits, codebook, Effort::Best.window())
        }
    }

    /// Squared error over squared size, of unit Gaussians encoded at `scale`.
    fn relative_error(
        tiles: &[[f32; TILE_WEIGHTS]],
        scale: f32,
        codebook: Codebook,
        encode: impl Fn(&[f32; TILE_WEIGHTS]) -> [u16; TILE_WEIGHTS],
    ) -> f64 {
        let (mut error, mut size) = (0.0, 0.0);
        for tile in tiles {
            let states = encode(&tile.map(|weight| weight * scale));
            for (&state, &weight) in states.iter().zip(tile) {
                error += f64::from(codebook.table()[usize::from(state)] / scale - weight).powi(2);
                size += f64::from(weight).powi(2);
            }
        }
        error / size
    }

    #[test]
    fn every_level_finds_the_walk_of_the_reference() {
        let tiles = gaussian_tiles(8, 1);
        for (bits, tile) in Bits::all().zip(&tiles) {
            let codebook = Codebook::ALL[bits.get() % 3];
            let expected = reference(tile, bits, codebook);
            assert!(tile::is_closed_walk(&expected, bits));
            for level in SimdLevel::available() {
                let found = Encoder::with_level(bits, codebook, level).encode_tile(tile);
                assert!(found == expected, "K = {bits}, {}", level.name());
            }
        }
    }

    #[test]
    fn walks_close_whatever_the_targets() {
        let mut spikes = gaussian_tiles(1, 2)[0];
        spikes.iter_mut().step_by(37).for_each(|t| *t *= 1e6);
        let flat = |value| [value; TILE_WEIGHTS];
        let jumps = std::array::from_fn(|i| if i % 2 == 0 { 9.0 } else { -9.0 });
        let all = [
            flat(0.0),
            flat(3.3),
            flat(-1e30),
            flat(f32::NAN),
            jumps,
            spikes,
        ];
        for bits in Bits::all() {
            for level in SimdLevel::available() {
                let encoder = Encoder::with_level(bits, Codebook::Mul1, level);
                for targets in &all {
                    let states = encoder.encode_tile(targets);
                    assert!(
                        tile::is_closed_walk(&states, bits),
                        "K = {bits}, {}",
                        level.name()
                    );
                }
            }
            if bits.get() <= 4 {
                let expected = reference(&jumps, bits, Codebook::Mul1);
                assert_eq!(
                    Encoder::new(bits, Codebook::Mul1).encode_tile(&jumps),
                    expected
                );
            }
        }
    }

    #[test]
    fn decodable_targets_come_back_exactly() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for bits in Bits::all() {
            let words: Vec<u16> = (0..bits.words_per_tile()).map(|_| rng.random()).collect();
            let states = tile::unpack_states(&words, bits);
            let weights = states.map(|s| Codebook::Mcg.table()[usize::from(s)]);
            let found = Encoder::new(bits, Codebook::Mcg).encode_tile(&weights);
            assert_eq!(
                found.map(|s| Codebook::Mcg.table()[usize::from(s)]),
                weights
            );
        }
    }

    #[test]
    fn gaussian_errors_are_near_the_bound() {
        // Rate K, best scale, error that must not be exceeded; the bound of any code is 4^-K.
        let tiles = gaussian_tiles(96, 4);
        for (k, scale, limit) in [(2, 0.99, 0.0685), (3, 0.95, 0.0175), (4, 0.91, 0.0045)] {
            let encoder = Encoder::new(Bits::new(k).unwrap(), Codebook::Mul1);
            let error = relative_error(&tiles, scale, Codebook::Mul1, |t| encoder.encode_tile(t));
            assert!(error <= limit, "K = {k}: {error}");
            assert!(error > 0.25f64.powi(k as i32), "K = {k}: {error}");
        }
    }

    #[test]
    fn fixed_point_costs_next_to_nothing() {
        let tiles = gaussian_tiles(3, 5);
        for bits in Bits::all().take(narrow::MAX_BITS) {
            let encoder = Encoder::new(bits, Codebook::Mul1);
            let fixed = relative_error(&tiles, 0.95, Codebook::Mul1, |t| encoder.encode_tile(t));
            let exact = relative_error(&tiles, 0.95, Codebook::Mul1, |t| {
                encode_tile_reference(t, bits, Codebook::Mul1)
            });
            assert!(fixed < 1.01 * exact, "K = {bits}: {fixed} against {exact}");
        }
    }

    #[test]
    fn less_effort_costs_little() {
        let tiles = gaussian_tiles(96, 7);
        for (k, scale) in [(2, 0.98), (3, 0.945), (4, 0.905)] {
            let error = |effort| {
                let encoder = Encoder::new(Bits::new(k).unwrap(), Codebook::Mul1);
                let encoder = encoder.with_effort(effort);
                relative_error(&tiles, scale, Codebook::Mul1, |t| encoder.encode_tile(t))
            };
            let [fast, normal, best] = Effort::ALL.map(error);
            assert!(normal < 1.005 * best, "K = {k}: {normal} against {best}");
            assert!(fast < 1.025 * best, "K = {k}: {fast} against {best}");
            assert!(best < fast, "K = {k}: {best} against {fast}");
        }
    }

    #[test]
    fn tiles_are_encoded_each_by_itself() {
        let tiles = gaussian_tiles(3, 6);
        let bits = Bits::new(3).unwrap();
        let all = encode_tiles(tiles.as_flattened(), bits, Codebook::Mul1);
        let encoder = Encoder::new(bits, Codebook::Mul1);
        let each: Vec<_> = tiles.iter().map(|t| encoder.encode_tile(t)).collect();
        assert_eq!(all, each);
    }
}
