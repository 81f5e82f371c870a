use std::{fmt, str::FromStr};

use crate::{Error, TILE_WEIGHTS};

/// How thoroughly walks are searched for: how much of a tile the first pass sees, which tells where the ring closes.
///
/// Measured over 131,072 Gaussian weights at 2 to 4 bits. What the second pass does is not worth saving at: one that keeps the 2048 best
/// registers of every step, a quarter of those at 3 bits, adds another 1 to 2 % to the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Effort {
    /// A quarter: five eighths of the work, and 1.3 to 1.7 % more error.
    Fast,
    /// Three quarters: seven eighths of the work, and 0.1 to 0.2 % more error.
    Normal,
    /// All of it.
    #[default]
    Best,
}

impl Effort {
    /// All of them, the quickest first.
    pub const ALL: [Effort; 3] = [Effort::Fast, Effort::Normal, Effort::Best];

    /// The name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Fast => "fast",
            Effort::Normal => "normal",
            Effort::Best => "best",
        }
    }

    /// What the first pass sees.
    pub fn window(self) -> Window {
        let steps = match self {
            Effort::Fast => TILE_WEIGHTS / 8,
            Effort::Normal => 3 * TILE_WEIGHTS / 8,
            Effort::Best => TILE_WEIGHTS / 2,
        };
        Window {
            before: steps,
            after: steps,
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Effort {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = Effort::ALL.into_iter();
        all.find(|effort| effort.name() == name)
            .ok_or_else(|| Error::UnknownEffort(name.to_owned()))
    }
}

/// The steps that the first pass takes to learn the register at the seam: `before` of them ahead of it, at the tile's end, and
/// `after` behind it, at the tile's beginning; each at most half of the tile, and a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Steps that forget that any register may come first.
    pub before: usize,
    /// Steps that forget that any register may come last.
    pub after: usize,
}

impl Window {
    /// Its steps.
    pub fn steps(self) -> usize {
        self.before + self.after
    }

    /// What its steps see of a tile.
    pub(super) fn of<T: Copy>(self, tile: &[T; TILE_WEIGHTS]) -> Vec<T> {
        let tail = &tile[TILE_WEIGHTS - self.before..];
        [tail, &tile[..self.after]].concat()
    }
}
