//! How often the calibration rows go through a block, so that what is gathered of them fits into memory.

use std::collections::BTreeSet;

use treillage_model::plan::{BlockPlan, Input, LinearPlan};

use crate::Error;

/// Matrices that there are of an input at a time: its second moment as it is gathered and the rows that wait for that; what was
/// taken of it, of the rows that are held back too; drawn toward the layer's.
const COPIES: u64 = 5;
/// Bytes of a block's weight: in f32, while it is encoded.
const WEIGHT: u64 = 4;

/// Memory for one block, beside what is needed however it is gone about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Bytes; `None` is as many as it takes.
    left: Option<u64>,
    limit: u64,
}

impl Room {
    /// What is left of `limit` bytes beside the weights of `block` and `activations` bytes.
    pub(crate) fn new(limit: Option<u64>, block: &BlockPlan, activations: usize) -> Self {
        let weights: usize = block.linears.iter().map(|l| l.shape.weights()).sum();
        let fixed = WEIGHT * weights as u64 + activations as u64;
        Self {
            left: limit.map(|limit| limit.saturating_sub(fixed)),
            limit: limit.unwrap_or(u64::MAX),
        }
    }

    /// `linears` in as few parts as each may gather what it reads at once. What experts' gates and ups read is most of it by far,
    /// and all that is put off: the first part has everything else.
    ///
    /// # Errors
    /// [`Error::Memory`] if not even that, with one expert, fits.
    pub(crate) fn passes<'p>(
        &self,
        linears: Vec<&'p LinearPlan>,
    ) -> Result<Vec<Vec<&'p LinearPlan>>, Error> {
        let Some(left) = self.left else {
            return Ok(vec![linears]);
        };
        let (experts, mut pass): (Vec<_>, Vec<_>) = linears
            .into_iter()
            .partition(|linear| matches!(linear.input(), Input::Expert(_)));
        let mut used = gathered(&pass);
        let mut passes = Vec::new();
        let mut least = used;
        for expert in experts.chunk_by(|a, b| a.input() == b.input()) {
            let more = gathered(expert);
            if used + more > left && !pass.is_empty() {
                passes.push(std::mem::take(&mut pass));
                used = 0;
            }
            least = least.max(used + more);
            pass.extend(expert);
            used += more;
        }
        passes.push(pass);
        match least > left {
            true => Err(Error::Memory {
                needed: self.limit.saturating_add(least - left),
                limit: self.limit,
            }),
            false => Ok(passes),
        }
    }
}

/// Bytes of what is gathered for `linears`.
fn gathered(linears: &[&LinearPlan]) -> u64 {
    let inputs = linears.iter();
    let inputs = inputs.map(|linear| (linear.input(), linear.shape.in_features as u64));
    let matrices = inputs.collect::<BTreeSet<_>>().into_iter();
    matrices.map(|(_, width)| COPIES * 4 * width * width).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use treillage_backend::LinearShape;
    use treillage_checkpoint::ModelConfig;
    use treillage_model::plan::plan;

    fn block() -> BlockPlan {
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fixtures/micro-qwen3_moe/config.json"
        );
        let json = std::fs::read_to_string(fixture).unwrap();
        let config = ModelConfig::from_json(&serde_json::from_str(&json).unwrap()).unwrap();
        plan(&config).blocks.remove(1)
    }

    #[test]
    fn experts_wait_and_nothing_is_left_out() {
        let block = block();
        let all: Vec<&LinearPlan> = block.linears.iter().collect();
        let names = |linears: &[&LinearPlan]| -> BTreeSet<String> {
            linears.iter().map(|linear| linear.prefix.clone()).collect()
        };
        let once = Room::new(None, &block, 0).passes(all.clone()).unwrap();
        assert_eq!((once.len(), names(&once[0])), (1, names(&all)));
        let experts = all
            .iter()
            .filter(|linear| matches!(linear.input(), Input::Expert(_)))
            .count();
        let mut last = usize::MAX;
        let fixed = WEIGHT * all.iter().map(|l| l.shape.weights() as u64).sum::<u64>();
        let whole = fixed + gathered(&all);
        for share in [1, 2, 4, 100] {
            let limit = fixed + gathered(&all) / share;
            let Ok(passes) = Room::new(Some(limit), &block, 0).passes(all.clone()) else {
                last = 0;
                continue;
            };
            assert!(last > 0, "less memory sufficed");
            assert_eq!(passes.len() == 1, limit == whole);
            let mut seen = BTreeSet::new();
            for pass in &passes {
                assert!(fixed + gathered(pass) <= limit);
                assert!(names(pass).is_disjoint(&seen));
                seen.extend(names(pass));
            }
            assert_eq!(seen, names(&all));
            let waiting: usize = passes[1..].iter().map(Vec::len).sum();
            assert!(waiting < experts);
        }
        assert_eq!(last, 0, "a hundredth sufficed");
        // What it says to need is enough, and no byte less is.
        let Err(Error::Memory { needed, limit }) =
            Room::new(Some(fixed), &block, 0).passes(all.clone())
        else {
            panic!("nothing sufficed");
        };
        assert_eq!(limit, fixed);
        assert!(
            Room::new(Some(needed), &block, 0)
                .passes(all.clone())
                .is_ok()
        );
        assert!(Room::new(Some(needed - 1), &block, 0).passes(all).is_err());
    }

    #[test]
    fn linears_of_one_input_count_it_once() {
        let block = block();
        let read = |input: Input| -> Vec<&LinearPlan> {
            let linears = block.linears.iter();
            linears.filter(|linear| linear.input() == input).collect()
        };
        let attention = read(Input::Attention);
        let LinearShape { in_features, .. } = attention[0].shape;
        assert_eq!(attention.len(), 3);
        assert_eq!(
            gathered(&attention),
            COPIES * 4 * (in_features as u64).pow(2)
        );
    }
}
