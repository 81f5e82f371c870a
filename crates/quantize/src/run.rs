use std::path::Path;

use treillage_backend::Quantization;
use treillage_checkpoint::{Checkpoint, Quantization as Quantized};
use treillage_gptq::Rotation;
use treillage_model::{
    Block, Embedding, Head,
    plan::{self, BlockPlan, ModelPlan},
};

use crate::{
    CalibrationTokens, Error, Event, Folded, Method, Options, Summary,
    block::stages,
    coder::Coder,
    encode::{Encoder, InputPlan},
    event::{Stage, timed},
    passes::Room,
    preflight,
    rates::{self, Rates},
    sensitivity::SensitivitySurvey,
    statistics::Calibration,
    stream::{self, Stream},
    survey::{Rotations, Survey},
    work::{Group, Work},
};

/// Quantizes the checkpoint in `source` into the folder `out`.
///
/// Goes through the blocks in order; each is calibrated on what the blocks before it, already quantized, make of
/// `tokens`, encoded, and put on disk. Memory holds the activations of all rows and one block at a time.
///
/// If `out` holds an unfinished run with the same source, tokens and options on the same kind of device, its finished blocks are kept, and the
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
    if !matches!(source.quantization(), None | Some(Quantized::Fp8 { .. })) {
        return Err(Error::AlreadyQuantized(source.dir().display().to_string()));
    }
    let plan = plan::plan(source.config());
    let fixed_rates = fixed_rates(&plan, options)?;
    let fixed = fixed_rotations(&source, &plan, options)?;
    preflight::check(backend, &source, &plan)?;
    let activations = Stream::bytes_of(tokens, source.config().hidden_size);
    for block in &plan.blocks {
        let room = Room::new(options.memory, block, activations);
        stages(block, options.recipe.capture, &room)?;
    }
    let device = backend.encodes_as();
    let mut work = Work::open(out, &source, &plan, tokens, options, &device)?;
    if !work.is_complete() {
        announce(&work, &plan, tokens, options, events);
    }
    let rotations = match (fixed, &options.method) {
        (None, Method::MrGptq(gptq)) if !work.is_complete() => {
            let survey = Survey {
                backend,
                source: &source,
                plan: &plan,
                tokens,
                recipe: &options.recipe,
                memory: options.memory,
                options: gptq,
                config: &gptq.config(options.recipe.damping, source.config()),
            };
            work.chosen("rotations", || {
                timed(Stage::Survey, events, |events| survey.run(events))
            })?
        }
        (fixed, ..) => fixed.unwrap_or_default(),
    };
    work.set_online_rotation(rotations.online_block());
    let folded = Folded::new(&source, &plan, rotations.fold.clone())?;
    let rates = match (fixed_rates, &options.method) {
        (None, Method::Trellis(trellis)) => {
            let survey = SensitivitySurvey {
                backend,
                source: &folded,
                plan: &plan,
                tokens,
                damping: options.recipe.damping,
                memory: options.memory,
                noise: rates::error_at(trellis.bits_per_weight),
            };
            work.chosen("rates", || {
                let found = timed(Stage::Survey, events, |events| survey.run(events))?;
                Rates::least_loss(&plan, trellis, &found)
            })?
        }
        (fixed, _) => fixed.unwrap_or_default(),
    };
    let coder = Coder::new(options, source.config(), rates);
    let mut run = Run {
        encoder: Encoder::new(backend, &folded, options, &coder),
        rotations: match &options.method {
            Method::Trellis(_) => Vec::new(),
            Method::MrGptq(gptq) => rotations.online(gptq.rotation),
        },
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
        bits_per_weight: coder.bits_per_weight(),
        rows: tokens.rows().len(),
        requested_rows: tokens.requested_rows(),
        cols: tokens.cols(),
        linears: run.work.summaries()?,
    };
    let Run { work, events, .. } = run;
    timed(Stage::Assemble, events, |_| work.finish())?;
    Ok(summary)
}

/// The rates of a run, if its options settle them; none for a method that has none.
fn fixed_rates(plan: &ModelPlan, options: &Options) -> Result<Option<Rates>, Error> {
    match &options.method {
        Method::Trellis(trellis) => Rates::fixed(plan, trellis),
        Method::MrGptq(gptq) => {
            gptq.check(plan)?;
            Ok(Some(Rates::default()))
        }
    }
}

/// The rotations of a run, if its options settle them.
fn fixed_rotations(
    source: &Checkpoint,
    plan: &ModelPlan,
    options: &Options,
) -> Result<Option<Rotations>, Error> {
    let fixed = match &options.method {
        Method::Trellis(_) => Some(Rotations::default()),
        Method::MrGptq(gptq) => Rotations::fixed(gptq, plan),
    };
    if let Some(rotations) = &fixed {
        // Refused now, if it does not fit.
        Folded::new(source, plan, rotations.fold.clone())?;
    }
    Ok(fixed)
}

fn announce(
    work: &Work<'_>,
    plan: &ModelPlan,
    tokens: &CalibrationTokens,
    options: &Options,
    events: &mut dyn FnMut(Event),
) {
    let left = |block: &&BlockPlan| !work.has(Group::Block(block.index));
    let left: Vec<&BlockPlan> = plan.blocks.iter().filter(left).collect();
    let head = Some(&plan.head).filter(|_| options.method.encodes_head());
    let linears = left.iter().flat_map(|block| &block.linears).chain(head);
    events(Event::Started {
        blocks: plan.blocks.len(),
        finished: plan.blocks.len() - left.len(),
        linears: linears.clone().count(),
        weights: linears.map(|linear| linear.shape.weights() as u64).sum(),
        rows: tokens.rows().len(),
    });
}

/// A run in progress.
struct Run<'a, B> {
    encoder: Encoder<'a, B>,
    /// What linears may rotate their inputs with.
    rotations: Vec<Rotation>,
    work: Work<'a>,
    tokens: &'a CalibrationTokens,
    events: &'a mut dyn FnMut(Event),
}

impl<B: Quantization> Run<'_, B> {
    /// Takes to disk what is not there yet, group by group.
    fn model(&mut self, plan: &ModelPlan) -> Result<(), Error> {
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        let config = source.source().config();
        let embedding = Embedding::load(backend, source, config)?;
        let mut stream = Stream::embed(backend, &embedding, self.tokens, config.hidden_size)?;
        drop(embedding);
        if !self.work.has(Group::Embedding) {
            self.work.write_embedding(source)?;
        }
        for block in &plan.blocks {
            self.block(block, &mut stream)?;
        }
        match self.work.has(Group::Head) {
            true => Ok(()),
            false => self.head(plan, &stream),
        }
    }

    /// Quantizes a block, unless that was done before, and moves the stream behind it.
    fn block(&mut self, plan: &BlockPlan, stream: &mut Stream) -> Result<(), Error> {
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        let (index, group) = (plan.index, Group::Block(plan.index));
        let stages = match self.work.has(group) {
            true => Vec::new(),
            false => {
                let options = self.encoder.options;
                let room = Room::new(options.memory, plan, stream.bytes());
                stages(plan, options.recipe.capture, &room)?
            }
        };
        let captures = stages.iter().map(Vec::len).sum();
        (self.events)(Event::Block {
            index,
            passes: captures + 1,
        });
        if captures > 0 {
            let rotations = &self.rotations;
            let encoder = &mut self.encoder;
            let linears = encoder.block(index, &stages, stream, rotations, self.events)?;
            timed(Stage::Write, self.events, |_| {
                self.work.write_block(source, plan, &linears)
            })?;
            (self.events)(Event::Finished { block: index });
        }
        // From disk, so that a run that finds the block there computes the same.
        let written = self.work.written(group)?;
        let block = Block::load(backend, &written, source.source().config(), index)?;
        timed(Stage::Forward, self.events, |events| {
            stream.advance(backend, &block, index, |row| {
                events(Event::Forwarded {
                    block: index,
                    pass: captures,
                    rows: row + 1,
                });
            })
        })?;
        source.source().evict(&format!("model.layers.{index}."));
        Ok(())
    }

    /// Quantizes the head, or keeps it.
    fn head(&mut self, plan: &ModelPlan, stream: &Stream) -> Result<(), Error> {
        let (backend, source) = (self.encoder.backend, self.encoder.source);
        if !self.encoder.options.method.encodes_head() {
            return self.work.keep_head(source, &plan.head);
        }
        let index = plan.blocks.len();
        (self.events)(Event::Block { index, passes: 1 });
        let (head, moments) = Head::probe(backend, source, source.source().config())?;
        let hessian = timed(Stage::Capture, self.events, |events| {
            for (row, x) in stream.rows(backend).enumerate() {
                stream::settle(backend, &head.forward(backend, &x?)?)?;
                events(Event::Forwarded {
                    block: index,
                    pass: 0,
                    rows: row + 1,
                });
            }
            Ok::<_, Error>(backend.take_moments(&moments)?)
        })?;
        let calibration = Calibration::new(&hessian, hessian.rows(), None);
        let input = |_| {
            Ok(InputPlan {
                calibration: calibration.clone(),
                rotation: Rotation::None,
            })
        };
        let encoder = &mut self.encoder;
        let encoded = encoder.encode(index, &[&plan.head], input, self.events)?;
        timed(Stage::Write, self.events, |_| {
            self.work.write_head(source, &encoded)
        })
    }
}
