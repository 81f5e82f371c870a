//! What can be found wrong before the work begins.

use treillage_backend::Inference;
use treillage_checkpoint::{Checkpoint, StoredLinear};
use treillage_model::{
    Block, Embedding, Head,
    plan::{LinearPlan, ModelPlan},
};

use crate::Error;

/// Checks that every tensor of the model is there, fits, and is finite: a long run must not end at its last block for
/// what could be known at the start. Reads the whole checkpoint once, a block at a time.
pub(crate) fn check<B: Inference>(
    backend: &B,
    source: &Checkpoint,
    plan: &ModelPlan,
) -> Result<(), Error> {
    let config = source.config();
    Embedding::load(backend, source, config)?;
    Head::load(backend, source, config)?;
    check_finite(source, &plan.kept)?;
    if source.has_linear(&plan.head.prefix) {
        check_linear(source, &plan.head)?;
    }
    for block in &plan.blocks {
        Block::load(backend, source, config, block.index)?;
        check_finite(source, &block.kept)?;
        for linear in &block.linears {
            check_linear(source, linear)?;
        }
        source.evict(&format!("model.layers.{}.", block.index));
    }
    Ok(())
}

fn check_finite(source: &Checkpoint, names: &[String]) -> Result<(), Error> {
    for name in names {
        source.dense(name)?.check_finite()?;
    }
    Ok(())
}

fn check_linear(source: &Checkpoint, plan: &LinearPlan) -> Result<(), Error> {
    let shape = plan.shape;
    let stored = source.linear(&plan.prefix, shape.in_features, shape.out_features)?;
    match stored {
        StoredLinear::Dense { weight, .. } => Ok(weight.check_finite()?),
        _ => Err(Error::AlreadyQuantized(plan.prefix.clone())),
    }
}
