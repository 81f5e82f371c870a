use treillage_trellis::lanes::Isa;

use crate::backend::Arithmetic;

/// How ops are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compute {
    /// The instructions of this machine.
    pub(crate) isa: Isa,
    /// How packed linears are multiplied.
    pub(crate) arithmetic: Arithmetic,
    /// One linear at a time, and one expert at a time.
    pub(crate) plain: bool,
}
