//! Which rotation, as asked for and as written down.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use treillage_gptq::Rotation;

use crate::Error;

/// Which rotation of their inputs linears get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RotationRule {
    /// Whichever makes the least error on calibration tokens that were held back while it was chosen; none is one of
    /// them. See [`crate::Fold`] for where the choice is one for the whole model.
    #[default]
    Auto,
    /// This one, everywhere.
    Fixed(Rotation),
}

impl fmt::Display for RotationRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RotationRule::Auto => f.pad("auto"),
            RotationRule::Fixed(Rotation::None) => f.pad("none"),
            RotationRule::Fixed(Rotation::Block(block)) => f.pad(&block.to_string()),
        }
    }
}

impl FromStr for RotationRule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "auto" => Ok(RotationRule::Auto),
            "none" => Ok(RotationRule::Fixed(Rotation::None)),
            block => match block.parse() {
                Ok(block) if Rotation::BLOCKS.contains(&block) => {
                    Ok(RotationRule::Fixed(Rotation::Block(block)))
                }
                _ => Err(Error::UnknownRotation(name.to_owned())),
            },
        }
    }
}

impl TryFrom<String> for RotationRule {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<RotationRule> for String {
    fn from(rule: RotationRule) -> String {
        rule.to_string()
    }
}

/// Values that `rotation` mixes with each other: 1 without one.
pub(crate) fn block(rotation: Rotation) -> usize {
    match rotation {
        Rotation::None => 1,
        Rotation::Block(block) => block,
    }
}

/// The rotation that mixes so many values.
pub(crate) fn of_block(block: usize) -> Rotation {
    match block {
        1 => Rotation::None,
        block => Rotation::Block(block),
    }
}

/// The rotations of `width` values: none, and each that fits.
pub(crate) fn candidates(width: usize) -> Vec<Rotation> {
    let fitting = Rotation::BLOCKS
        .into_iter()
        .filter(|block| width.is_multiple_of(*block))
        .map(Rotation::Block);
    [Rotation::None].into_iter().chain(fitting).collect()
}

/// Refuses a rotation that does not fit the `width` inputs that `linear` reads together.
pub(crate) fn check(rotation: Rotation, linear: &str, width: usize) -> Result<(), Error> {
    let block = block(rotation);
    match width.is_multiple_of(block) {
        true => Ok(()),
        false => Err(Error::Rotation {
            linear: linear.to_owned(),
            block,
            width,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names() {
        for name in ["auto", "none", "16", "32", "64", "128"] {
            assert_eq!(name.parse::<RotationRule>().unwrap().to_string(), name);
        }
        for name in ["", "8", "256", "1", "Auto"] {
            assert!(name.parse::<RotationRule>().is_err(), "{name}");
        }
    }

    #[test]
    fn candidates_fit() {
        let blocks = |width| candidates(width).into_iter().map(block).collect::<Vec<_>>();
        assert_eq!(blocks(96), [1, 16, 32]);
        assert_eq!(blocks(1536), [1, 16, 32, 64, 128]);
        assert_eq!(blocks(100), [1]);
    }
}
