use std::path::Path;

use treillage_backend::Quantization;
use treillage_checkpoint::{Checkpoint, Quantization as Quantized};
use treillage_model::{
    Block, Embedding, Head,
    plan::{self, BlockPlan, ModelPlan},
};

use crate::{
    CalibrationTokens, Error, Event, HeadBits, Options, Summary,
    block::stages,
    encode::Encoder,
    preflight,
    rates::Rates,
    statistics::Calibration,
    stream::Stream,
    work::{Group, Work},
};

/// Quantizes the checkpoint in `source` into the folder `out`.
///
/// Goes through the blocks in order; each is calibrated on what the blocks before it, already quantized, make of
/// `tokens`, encoded, and put on disk. Memory holds the activations of all rows and one block at a time.
///
/// If `out` holds an unfinished run with the same source, tokens and options, its finished blocks are kept, and the
/// result is the same to the last byte as that of a run which was never interrupted.
///
/// # Errors
/// Bad options or input, before anything is written; later whatever fails, leaving the finished blocks for another
/// attempt and nothing that looks like a checkpoint.
pub fn quantize<B: Quantization>(
    backend: &B,
    source: &Path,
    out: &Path,
    tokens: &CalibrationTokens,
    options: &Options,
    events: &mut dyn FnMut(Event),
) -> Result<Summary, Error> {
    options.check()?;
    let source = Checkpoint::open(source)?;
    if source.quantization() == Some(&Quantized::Exl3) {
        return Err(Error::AlreadyQuantized(source.dir().display().to_string()));
    }
    let plan = plan::plan(source.config());
    let rates = Rates::new(&plan, options)?;
    preflight::check(backend, &source, &plan)?;
    let work = Work::open(out, &source, &plan, tokens, options)?;
    let mut run = Run {
        encoder: Encoder::new(backend, &source, options, &rates),
        work,
        tokens,
        events,
    };
    if !run.work.is_complete() {
        run.model(&plan)?;
    }
    (run.events)(Event::Assembling);
    let summary = Summary {
        options: options.clone(),
        bits_per_weight: rates.average(),
        rows: tokens.rows().len(),
        requested_rows: tokens.requested_rows(),
        cols: tokens.cols(),
        linears: run.work.summaries()?,
    };
    run.work.finish()?;
    Ok(summary)
}

/// A run in progress.
struct Run<'a, B> {
    encoder: Encoder<'a, B>,
    work: Work<'a>,
    tokens: &'a CalibrationTokens,
    events: &'a mut dyn FnMut(Event),
}

impl<B: Quantization> Run<'_, B> {
    /// Takes to disk what is not there yet, group by group.
    fn model(&mut self, plan: &ModelPlan) -> Result<(), Error> {
        self.announce(plan);
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        let config = source.config();
        let embedding = Embedding::load(backend, source, config)?;
        let mut stream = Stream::embed(backend, &embedding, self.tokens, config.hidden_size)?;
        drop(embedding);
        if !self.work.has(Group::Embedding) {
            self.work.write_embedding()?;
        }
        for block in &plan.blocks {
            self.block(block, &mut stream)?;
        }
        match self.work.has(Group::Head) {
            true => Ok(()),
            false => self.head(plan, &stream),
        }
    }

    fn announce(&mut self, plan: &ModelPlan) {
        let left = |block: &&BlockPlan| !self.work.has(Group::Block(block.index));
        let left: Vec<&BlockPlan> = plan.blocks.iter().filter(left).collect();
        let head = Some(&plan.head).filter(|_| self.encoder.options.head_bits != HeadBits::Keep);
        let linears = left.iter().flat_map(|block| &block.linears).chain(head);
        (self.events)(Event::Started {
            blocks: plan.blocks.len(),
            finished: plan.blocks.len() - left.len(),
            linears: linears.clone().count(),
            weights: linears.map(|linear| linear.shape.weights() as u64).sum(),
            rows: self.tokens.rows().len(),
        });
    }

    /// Quantizes a block, unless that was done before, and moves the stream behind it.
    fn block(&mut self, plan: &BlockPlan, stream: &mut Stream) -> Result<(), Error> {
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        let (index, group) = (plan.index, Group::Block(plan.index));
        let stages = match self.work.has(group) {
            true => Vec::new(),
            false => stages(plan, self.encoder.options.recipe.capture),
        };
        let captures = stages.len();
        (self.events)(Event::Block {
            index,
            passes: captures + 1,
        });
        if captures > 0 {
            let linears = self.encoder.block(index, &stages, stream, self.events)?;
            self.work.write_block(plan, &linears)?;
            (self.events)(Event::Finished { block: index });
        }
        // From disk, so that a run that finds the block there computes the same.
        let written = self.work.written(group)?;
        let block = Block::load(backend, &written, source.config(), index)?;
        stream.advance(backend, &block, index, |row| {
            (self.events)(Event::Forwarded {
                block: index,
                pass: captures,
                rows: row + 1,
            });
        })?;
        source.evict(&format!("model.layers.{index}."));
        Ok(())
    }

    /// Quantizes the head, or keeps it.
    fn head(&mut self, plan: &ModelPlan, stream: &Stream) -> Result<(), Error> {
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        if self.encoder.options.head_bits == HeadBits::Keep {
            return self.work.keep_head(&plan.head);
        }
        let index = plan.blocks.len();
        (self.events)(Event::Block { index, passes: 1 });
        let (head, moments) = Head::probe(backend, source, source.config())?;
        for (row, x) in stream.rows(backend).enumerate() {
            head.forward(backend, &x?)?;
            (self.events)(Event::Forwarded {
                block: index,
                pass: 0,
                rows: row + 1,
            });
        }
        let hessian = backend.take_moments(&moments)?;
        let calibration = Calibration::new(&hessian, hessian.rows(), None);
        let encoded =
            self.encoder
                .encode(&[&plan.head], |_| Ok(calibration.clone()), self.events)?;
        self.work.write_head(&encoded)
    }
}
