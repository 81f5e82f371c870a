//! Limits beyond which a number in a configuration is a mistake or an attack; each is an order of magnitude above the
//! largest published model. Their products fit in 64 bits.

pub(super) const HIDDEN: usize = 1 << 18;
pub(super) const INTERMEDIATE: usize = 1 << 20;
pub(super) const VOCABULARY: usize = 1 << 23;
pub(super) const LAYERS: usize = 1 << 12;
pub(super) const HEADS: usize = 1 << 12;
pub(super) const HEAD_DIM: usize = 1 << 12;
pub(super) const EXPERTS: usize = 1 << 14;
pub(super) const POSITIONS: usize = 1 << 30;
pub(super) const KERNEL: usize = 1 << 8;
