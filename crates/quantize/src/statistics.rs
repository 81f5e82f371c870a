use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use nalgebra::DMatrix;
use treillage_backend::Quantization;
use treillage_linalg::Hessian;
use treillage_model::{BlockMoments, plan::Input};

use crate::{Error, ExpertTokens};

/// What the watched inputs of a block have gathered, and what becomes of it for an expert.
pub(crate) struct Statistics {
    gathered: BTreeMap<Input, Hessian>,
    /// All experts' [`Input::ExpertDown`] together: what theirs are drawn toward.
    all_downs: Option<Hessian>,
    experts: ExpertTokens,
}

/// The Hessian that linears with one input are encoded with.
#[derive(Clone)]
pub(crate) struct Calibration {
    /// `E[x xᵀ]`; `None` if no token came by.
    pub(crate) hessian: Option<Arc<DMatrix<f32>>>,
    /// Tokens that this input itself saw.
    pub(crate) tokens: u64,
    /// Share of the Hessian that is the layer's, where experts are drawn toward it.
    pub(crate) shrinkage: Option<f64>,
}

impl Statistics {
    /// Takes from `moments` what `inputs` need.
    pub(crate) fn take<B: Quantization>(
        backend: &B,
        moments: &BlockMoments<B::Moments>,
        inputs: impl IntoIterator<Item = Input>,
        experts: ExpertTokens,
    ) -> Result<Self, Error> {
        let mut statistics = Self {
            gathered: BTreeMap::new(),
            all_downs: None,
            experts,
        };
        for input in inputs {
            statistics.add::<B>(backend, moments, input)?;
            if let Input::Expert(_) = input {
                statistics.add::<B>(backend, moments, Input::FeedForward)?;
            }
        }
        statistics.sum_downs()?;
        Ok(statistics)
    }

    fn sum_downs(&mut self) -> Result<(), Error> {
        let mut downs = self
            .gathered
            .iter()
            .filter(|(input, _)| matches!(input, Input::ExpertDown(_)))
            .map(|(_, hessian)| hessian);
        if let Some(first) = downs.next() {
            let mut all = first.clone();
            downs.try_for_each(|hessian| all.merge(hessian))?;
            self.all_downs = Some(all);
        }
        Ok(())
    }

    /// Adds what `others` have gathered of the same inputs.
    pub(crate) fn merge(&mut self, others: Self) -> Result<(), Error> {
        for (input, other) in others.gathered {
            match self.gathered.entry(input) {
                Entry::Occupied(mut own) => {
                    own.get_mut().merge(&other)?;
                    own.get_mut().flush();
                }
                Entry::Vacant(none) => _ = none.insert(other),
            }
        }
        self.sum_downs()
    }

    /// Tokens that `input` itself saw.
    pub(crate) fn tokens(&self, input: Input) -> u64 {
        self.gathered.get(&input).map_or(0, Hessian::rows)
    }

    /// How much the tokens that `input` itself saw count together: each one, or the square of its routing weight.
    pub(crate) fn weight(&self, input: Input) -> f64 {
        self.gathered.get(&input).map_or(0.0, Hessian::count)
    }

    /// What `input` itself saw, undrawn; `None` if that is nothing.
    pub(crate) fn own(&self, input: Input) -> Option<DMatrix<f32>> {
        let own = self.gathered.get(&input)?;
        (own.count() > 0.0).then(|| own.mean())
    }

    fn add<B: Quantization>(
        &mut self,
        backend: &B,
        moments: &BlockMoments<B::Moments>,
        input: Input,
    ) -> Result<(), Error> {
        if let (false, Some(moments)) = (self.gathered.contains_key(&input), moments.get(input)) {
            let mut hessian = backend.take_moments(moments)?;
            hessian.flush();
            self.gathered.insert(input, hessian);
        }
        Ok(())
    }

    /// What to encode the linears that read `input` with.
    pub(crate) fn of(&self, input: Input) -> Result<Calibration, Error> {
        let own = self.gathered.get(&input);
        let tokens = own.map_or(0, Hessian::rows);
        let layer = match input {
            Input::Expert(_) => self.gathered.get(&Input::FeedForward),
            Input::ExpertDown(_) => self.all_downs.as_ref(),
            _ => None,
        };
        Ok(match (own, layer, self.experts) {
            (Some(_), Some(layer), ExpertTokens::All) if matches!(input, Input::Expert(_)) => {
                Calibration::new(layer, tokens, None)
            }
            (Some(own), Some(layer), ExpertTokens::Routed { shrinkage, .. }) => {
                let tau = shrinkage * own.features() as f64;
                let shrunk = own.shrink_toward(layer, tau)?;
                let share = (shrunk.count() > 0.0).then(|| tau / shrunk.count());
                Calibration::new(&shrunk, tokens, share)
            }
            (Some(own), _, _) => Calibration::new(own, tokens, None),
            (None, _, _) => Calibration {
                hessian: None,
                tokens,
                shrinkage: None,
            },
        })
    }
}

impl Calibration {
    pub(crate) fn new(hessian: &Hessian, tokens: u64, shrinkage: Option<f64>) -> Self {
        Self {
            hessian: (hessian.count() > 0.0).then(|| Arc::new(hessian.mean())),
            tokens,
            shrinkage,
        }
    }
}
