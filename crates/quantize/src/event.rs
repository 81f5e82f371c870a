/// What a run is doing, for progress displays. Work is counted in weights encoded and calibration rows forwarded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Everything was checked, work begins.
    Started {
        /// Transformer blocks.
        blocks: usize,
        /// Blocks that an earlier, interrupted run has finished.
        finished: usize,
        /// Linears that will be encoded, the head included, those of finished blocks not.
        linears: usize,
        /// Their weights.
        weights: u64,
        /// Calibration rows.
        rows: usize,
    },
    /// A block's turn has come to be looked at, to choose rates or rotations for the whole model before any of it is encoded.
    Surveyed {
        /// Counted from 0.
        block: usize,
        /// Transformer blocks.
        blocks: usize,
    },
    /// A block's turn has come. Finished ones are only forwarded through.
    Block {
        /// Counted from 0; the head counts as the one after the last.
        index: usize,
        /// Passes over all calibration rows that it takes.
        passes: usize,
    },
    /// A calibration row went through the block.
    Forwarded {
        /// The block.
        block: usize,
        /// The pass, counted from 0.
        pass: usize,
        /// Rows of this pass that are through.
        rows: usize,
    },
    /// A linear was encoded.
    Encoded {
        /// The linear.
        prefix: String,
        /// Linears encoded in this run so far, this one included.
        linears: usize,
        /// Their weights.
        weights: u64,
    },
    /// A block is on disk: from now on an interrupted run resumes behind it.
    Finished {
        /// The block.
        block: usize,
    },
    /// All parts are encoded and become the checkpoint.
    Assembling,
}
