//! Routed experts.

use rayon::prelude::*;
use treillage_backend::{
    Error, LinearShape, LinearWeights, MoeLayer, RouteWeighting, Routing, SharedExpert, SwiGlu,
};
use treillage_moe::{Groups, Routes, group, route};

use crate::backend::CpuBackend;
use crate::compute::Compute;
use crate::linear::Linear;
use crate::math::sigmoid;
use crate::moments::{Moments, observe};
use crate::norm::Norm;
use crate::project::project;
use crate::swiglu::{Batches, span};
use crate::tensor::Tensor;

/// Rows that a task gathers or adds up: fewer are not worth a thread.
const MIN_ROWS: usize = 16;

/// The routed experts of one layer.
pub struct Experts {
    width: usize,
    intermediate: usize,
    networks: Vec<SwiGlu<Linear>>,
    watch: Option<Watch>,
}

/// Where the experts add what they read.
struct Watch {
    inputs: Vec<Option<Moments>>,
    downs: Vec<Option<Moments>>,
    weighting: RouteWeighting,
}

impl Experts {
    pub(crate) fn new(
        experts: Vec<SwiGlu<LinearWeights>>,
        hidden_to_intermediate: LinearShape,
    ) -> Result<Self, Error> {
        let LinearShape {
            in_features,
            out_features,
        } = hidden_to_intermediate;
        let back = LinearShape {
            in_features: out_features,
            out_features: in_features,
        };
        let networks = experts
            .into_iter()
            .map(|expert| {
                Ok(SwiGlu {
                    gate: Linear::new(expert.gate, hidden_to_intermediate)?,
                    up: Linear::new(expert.up, hidden_to_intermediate)?,
                    down: Linear::new(expert.down, back)?,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            width: in_features,
            intermediate: out_features,
            networks,
            watch: None,
        })
    }

    pub(crate) fn watch(
        &mut self,
        inputs: &[Option<Moments>],
        downs: &[Option<Moments>],
        weighting: RouteWeighting,
    ) -> Result<(), Error> {
        Error::check_shape(
            "moments of expert inputs",
            self.networks.len(),
            inputs.len(),
        )?;
        Error::check_shape("moments of expert downs", self.networks.len(), downs.len())?;
        for (network, (input, down)) in self.networks.iter().zip(inputs.iter().zip(downs)) {
            for (linear, moments) in [(&network.gate, input), (&network.down, down)] {
                if let Some(moments) = moments {
                    linear.check_input(moments.width())?;
                }
            }
        }
        self.watch = Some(Watch {
            inputs: inputs.to_vec(),
            downs: downs.to_vec(),
            weighting,
        });
        Ok(())
    }
}

/// `x + Σ_e p_e · expert_e(norm(x)) + g · shared(norm(x))`.
///
/// Each active expert's rows are gathered once; what experts give is added up token by token in the order of the token's
/// choices, so that the result does not depend on the number of threads.
pub(crate) fn moe(
    compute: Compute,
    x: &Tensor,
    norm: &Norm,
    layer: MoeLayer<'_, CpuBackend>,
    routing: &Routing,
) -> Result<Tensor, Error> {
    let MoeLayer {
        router,
        correction,
        experts,
        shared,
    } = layer;
    Error::check_shape("input of experts", experts.width, x.cols())?;
    let count = experts.networks.len();
    Error::check_shape("outputs of a router", count, router.shape().out_features)?;
    let normed = norm.apply(compute.isa, x)?;
    let [logits] = project(compute, &normed, [router])?;
    let routes = route(
        logits.values(),
        count,
        routing,
        correction.map(Tensor::values),
    )?;
    let groups = group(&routes);

    let gathered = gather(&normed, &routes, &groups);
    let active: Vec<usize> = groups.active().collect();
    let at_once = if compute.plain {
        1
    } else {
        active.len().max(1)
    };
    let mut hidden = Vec::with_capacity(routes.choices().len() * experts.intermediate);
    let mut given = vec![0.0; gathered.len()];
    for some in active.chunks(at_once) {
        let mut batches = Batches::new(experts.width, experts.intermediate);
        for &expert in some {
            batches.push(&experts.networks[expert], groups.range(expert).len())?;
        }
        // Rows of experts that are active follow each other.
        let rows = groups.range(some[0]).start..groups.range(some[some.len() - 1]).end;
        let of_these = batches.hidden(compute, &gathered[span(&rows, experts.width)]);
        batches.add_down(compute, &of_these, &mut given[span(&rows, experts.width)]);
        hidden.extend(of_these);
    }
    if let Some(watch) = &experts.watch {
        for expert in groups.active() {
            let rows = groups.range(expert);
            let input = &gathered[span(&rows, experts.width)];
            let hidden = &hidden[span(&rows, experts.intermediate)];
            watch.observe(expert, input, hidden, &routes, &groups)?;
        }
    }
    let mut sum = combine(x, &given, &routes, &groups);
    if let Some(shared) = shared {
        add_shared(compute, &normed, shared, router.watched(), &mut sum)?;
    }
    Ok(sum)
}

/// Adds what a shared expert makes of rows `x`; `seen` has gathered them already.
fn add_shared(
    compute: Compute,
    x: &Tensor,
    SharedExpert { network, gate }: SharedExpert<'_, Linear>,
    seen: Option<&Moments>,
    sum: &mut Tensor,
) -> Result<(), Error> {
    let Some(gate) = gate else {
        return add_network(compute, x, network, seen, sum);
    };
    gate.check(x.cols(), 1)?;
    let [logits] = project(compute, x, [gate])?;
    let mut given = Tensor::zeros(x.rows(), x.cols());
    add_network(compute, x, network, seen, &mut given)?;
    let width = x.cols().max(1);
    let sums = sum.values_mut().chunks_exact_mut(width);
    let given = given.values().chunks_exact(width);
    for ((sum, given), logit) in sums.zip(given).zip(logits.values()) {
        let factor = sigmoid(*logit);
        for (sum, given) in sum.iter_mut().zip(given) {
            *sum += factor * given;
        }
    }
    Ok(())
}

/// Rows of `x`, expert by expert.
fn gather(x: &Tensor, routes: &Routes, groups: &Groups) -> Vec<f32> {
    let width = x.cols();
    let mut gathered = vec![0.0; routes.choices().len() * width];
    gathered
        .par_chunks_exact_mut(width.max(1))
        .zip(groups.choices())
        .with_min_len(MIN_ROWS)
        .for_each(|(row, &choice)| {
            row.copy_from_slice(x.row(choice as usize / routes.top_k()));
        });
    gathered
}

/// `x` plus what its experts gave, expert by expert, times their weights.
fn combine(x: &Tensor, given: &[f32], routes: &Routes, groups: &Groups) -> Tensor {
    let width = x.cols();
    let mut sum = x.clone();
    sum.values_mut()
        .par_chunks_exact_mut(width.max(1))
        .enumerate()
        .with_min_len(MIN_ROWS)
        .for_each(|(token, sum)| {
            for (choice, &place) in routes.token(token).iter().zip(groups.places(token)) {
                let given = &given[place as usize * width..][..width];
                for (sum, given) in sum.iter_mut().zip(given) {
                    *sum += choice.weight * given;
                }
            }
        });
    sum
}

impl Watch {
    fn observe(
        &self,
        expert: usize,
        x: &[f32],
        hidden: &[f32],
        routes: &Routes,
        groups: &Groups,
    ) -> Result<(), Error> {
        let weights: Vec<f32> = groups.choices()[groups.range(expert)]
            .iter()
            .map(|&choice| match self.weighting {
                RouteWeighting::Uniform => 1.0,
                RouteWeighting::Squared => routes.choices()[choice as usize].weight.powi(2),
            })
            .collect();
        for (moments, x) in [(&self.inputs[expert], x), (&self.downs[expert], hidden)] {
            if let Some(moments) = moments {
                moments.lock().update_weighted(x, &weights)?;
            }
        }
        Ok(())
    }
}

/// `x + swiglu(norm(x))`.
pub(crate) fn mlp(
    compute: Compute,
    x: &Tensor,
    norm: &Norm,
    network: &SwiGlu<Linear>,
) -> Result<Tensor, Error> {
    let normed = norm.apply(compute.isa, x)?;
    let mut sum = x.clone();
    add_network(compute, &normed, network, None, &mut sum)?;
    Ok(sum)
}

/// Adds what `network` makes of rows `x`; `seen` has gathered them already.
fn add_network(
    compute: Compute,
    x: &Tensor,
    network: &SwiGlu<Linear>,
    seen: Option<&Moments>,
    sum: &mut Tensor,
) -> Result<(), Error> {
    let SwiGlu { gate, up, down } = network;
    let mut batches = Batches::new(x.cols(), gate.shape().out_features);
    batches.push(network, x.rows())?;
    let inputs = [gate, up].into_iter().filter_map(|l| l.watched());
    let unseen = inputs.filter(|moments| !seen.is_some_and(|seen| seen.is(moments)));
    observe(x.values(), unseen)?;
    let hidden = batches.hidden(compute, x.values());
    observe(&hidden, down.watched().into_iter())?;
    batches.add_down(compute, &hidden, sum.values_mut());
    Ok(())
}
