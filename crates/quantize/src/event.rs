use std::time::{Duration, Instant};

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
    /// A stage of the work is over.
    Took {
        /// The stage.
        stage: Stage,
        /// How long it took.
        time: Duration,
    },
}

/// What a run spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking at the whole model, to choose rates or rotations.
    Survey,
    /// Sending calibration rows through a block that gathers the Hessians of its inputs.
    Capture,
    /// Trying rotations on a block's inputs.
    Trial,
    /// Encoding a few linears.
    Encode,
    /// Putting a block on disk.
    Write,
    /// Sending calibration rows through the block as it was written.
    Forward,
    /// Making the checkpoint of its parts.
    Assemble,
}

impl Stage {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Survey => "survey",
            Stage::Capture => "capture",
            Stage::Trial => "trial",
            Stage::Encode => "encode",
            Stage::Write => "write",
            Stage::Forward => "forward",
            Stage::Assemble => "assemble",
        }
    }
}

/// Does `work` and tells how long it took.
pub(crate) fn timed<T>(
    stage: Stage,
    events: &mut dyn FnMut(Event),
    work: impl FnOnce(&mut dyn FnMut(Event)) -> T,
) -> T {
    let start = Instant::now();
    let done = work(events);
    let time = start.elapsed();
    events(Event::Took { stage, time });
    done
}
