//! SwiGLU networks: one for all tokens, and routed experts.

use treillage_gptq::{Format, IntBits, Rotation};
use treillage_trellis::Codebook;

use super::grouped::Make;
use super::layer::{Layer, Storage, shape};
use super::noise::Noise;
use super::reference::{Matrix, rms_norm, route, sigmoid};
use super::{Failure, compare};
use crate::{
    Error, GroupLimit, Inference, LinearShape, MoeLayer, Routing, Scoring, SharedExpert, SwiGlu,
};

const EPSILON: f32 = 1e-6;
const TRELLIS: Storage = Storage::Trellis(3, Codebook::Mul1);
const INT4: Storage = Storage::Grouped(Make::new(Format::Int(IntBits::Four)));
const NVFP4: Storage = Storage::Grouped(Make::new(Format::NvFp4));

/// Sizes that no kernel likes.
const ODD: LinearShape = shape(150, 200);
/// Sizes that groups and rotations divide.
const EVEN: LinearShape = shape(160, 192);
const PREPARED: Storage = Storage::Grouped(Make {
    reordered: true,
    rotation: Rotation::Block(32),
    ..Make::new(Format::Int(IntBits::Four))
});

fn network<B: Inference>(
    backend: &B,
    tolerance: f64,
    storage: Storage,
    size: LinearShape,
) -> Result<(), Failure> {
    let width = size.in_features;
    let mut noise = Noise::new(30);
    let network = SwiGlu::random(&mut noise, storage, size)?;
    let loaded = network.load(backend)?;
    let weight = noise.scales(width);
    let norm = backend.load_norm(weight.clone(), EPSILON)?;
    for tokens in [1, 6, 70] {
        let x = noise.values(tokens * width);
        let expected = Matrix::new(&x, width)
            .map_rows(|x| plus(x, &network.apply(&rms_norm(x, &weight, EPSILON))));
        let found = backend.mlp(&backend.upload(&x, width)?, &norm, &loaded)?;
        compare(
            format!("network in {storage:?}, {tokens} tokens"),
            &expected.values,
            &backend.read(&found)?,
            tolerance,
        )?;
    }
    Ok(())
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// A network of dense linears.
pub fn dense_networks<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    network(backend, tolerance, Storage::Bf16, ODD)
}

/// A network of packed linears, padded on both axes.
pub fn trellis_networks<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    network(backend, tolerance, TRELLIS, ODD)
}

/// Networks of grouped linears, of groups that no vector is a multiple of, and of such as reorder and rotate what they read, too.
pub fn grouped_networks<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    network(backend, tolerance, INT4, ODD)?;
    network(backend, tolerance, NVFP4, ODD)?;
    network(backend, tolerance, NVFP4, EVEN)?;
    network(backend, tolerance, PREPARED, EVEN)
}

/// Routed experts of one layer, with the norm before and the router.
pub(super) struct Routed {
    pub(super) width: usize,
    pub(super) intermediate: usize,
    pub(super) norm: Vec<f32>,
    pub(super) router: Layer,
    pub(super) experts: Vec<SwiGlu<Layer>>,
    pub(super) routing: Routing,
    correction: Vec<f32>,
    pub(super) shared: Option<Shared>,
}

/// An expert that sees every token, and its gate.
pub(super) struct Shared {
    pub(super) network: SwiGlu<Layer>,
    gate: Option<Layer>,
}

impl Routed {
    pub(super) fn new(storage: Storage, count: usize, routing: Routing) -> Result<Self, Error> {
        let (width, intermediate) = (150, 90);
        let mut noise = Noise::new(31);
        Ok(Self {
            width,
            intermediate,
            norm: noise.scales(width),
            router: Layer::new(&mut noise, Storage::F32, shape(width, count), false)?,
            experts: (0..count)
                .map(|_| SwiGlu::random(&mut noise, storage, shape(width, intermediate)))
                .collect::<Result<_, _>>()?,
            routing,
            correction: Vec::new(),
            shared: None,
        })
    }

    /// The same, with random corrections of scores.
    fn corrected(mut self) -> Self {
        self.correction = Noise::new(32).values(self.experts.len());
        self
    }

    /// The same, with a shared expert `intermediate` wide, and its gate if that is stored.
    pub(super) fn shared(
        mut self,
        storage: Storage,
        intermediate: usize,
        gate: Option<Storage>,
    ) -> Result<Self, Error> {
        let mut noise = Noise::new(33);
        let network = SwiGlu::random(&mut noise, storage, shape(self.width, intermediate))?;
        let gate = gate.map(|storage| Layer::new(&mut noise, storage, shape(self.width, 1), false));
        self.shared = Some(Shared {
            network,
            gate: gate.transpose()?,
        });
        Ok(self)
    }

    pub(super) fn load<B: Inference>(&self, backend: &B) -> Result<B::Experts, Error> {
        backend.load_experts(
            self.experts.iter().map(SwiGlu::weights).collect(),
            shape(self.width, self.intermediate),
        )
    }

    pub(super) fn run<B: Inference>(
        &self,
        backend: &B,
        x: &[f32],
        experts: &B::Experts,
    ) -> Result<Vec<f32>, Error> {
        let shared = match &self.shared {
            Some(shared) => Some(shared.network.load(backend)?),
            None => None,
        };
        self.run_beside(backend, x, experts, shared.as_ref())
    }

    /// As [`run`](Self::run), with the shared network as it was loaded.
    pub(super) fn run_beside<B: Inference>(
        &self,
        backend: &B,
        x: &[f32],
        experts: &B::Experts,
        shared: Option<&SwiGlu<B::Linear>>,
    ) -> Result<Vec<f32>, Error> {
        let norm = backend.load_norm(self.norm.clone(), EPSILON)?;
        let router = self.router.load(backend)?;
        let correction = match &self.correction[..] {
            [] => None,
            correction => Some(backend.upload(correction, correction.len())?),
        };
        let gate = match self.shared.as_ref().and_then(|shared| shared.gate.as_ref()) {
            Some(gate) => Some(gate.load(backend)?),
            None => None,
        };
        let layer = MoeLayer {
            router: &router,
            correction: correction.as_ref(),
            experts,
            shared: shared.map(|network| SharedExpert {
                network,
                gate: gate.as_ref(),
            }),
        };
        let x = backend.upload(x, self.width)?;
        backend.read(&backend.moe(&x, &norm, layer, &self.routing)?)
    }

    /// The normed row, and its experts with their weights.
    pub(super) fn route(&self, x: &[f64]) -> (Vec<f64>, Vec<(usize, f64)>) {
        let normed = rms_norm(x, &self.norm, EPSILON);
        let routes = route(&self.router.apply(&normed), &self.routing, &self.correction);
        (normed, routes)
    }

    fn expected(&self, x: &[f32]) -> Matrix {
        let scaled =
            |y: Vec<f64>, factor: f64| -> Vec<f64> { y.iter().map(|y| factor * y).collect() };
        Matrix::new(x, self.width).map_rows(|x| {
            let (normed, routes) = self.route(x);
            let mut sum = routes.iter().fold(x.to_vec(), |sum, &(expert, weight)| {
                plus(&sum, &scaled(self.experts[expert].apply(&normed), weight))
            });
            if let Some(Shared { network, gate }) = &self.shared {
                let factor = gate.as_ref().map_or(1.0, |g| sigmoid(g.apply(&normed)[0]));
                sum = plus(&sum, &scaled(network.apply(&normed), factor));
            }
            sum
        })
    }

    fn check<B: Inference>(
        &self,
        backend: &B,
        tolerance: f64,
        tokens: usize,
    ) -> Result<(), Failure> {
        let experts = self.load(backend)?;
        let x = Noise::new(tokens as u64).values(tokens * self.width);
        let expected = self.expected(&x).values;
        let what = format!("{} experts, {tokens} tokens", self.experts.len());
        let found = self.run(backend, &x, &experts)?;
        compare(what.clone(), &expected, &found, tolerance)?;
        let Some(Shared { network, .. }) = &self.shared else {
            return Ok(());
        };
        let (experts, shared) = backend.load_experts_and_shared(
            self.experts.iter().map(SwiGlu::weights).collect(),
            shape(self.width, self.intermediate),
            network.weights(),
            network.gate.shape,
        )?;
        let found = self.run_beside(backend, &x, &experts, Some(&shared))?;
        compare(
            format!("{what}, loaded with the shared one"),
            &expected,
            &found,
            tolerance,
        )
    }
}

fn routing(top_k: usize, normalize: bool) -> Routing {
    Routing::softmax(top_k, normalize)
}

/// Dense experts, weights as the softmax gives them.
pub fn dense_experts<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    Routed::new(Storage::Bf16, 6, routing(2, false))?.check(backend, tolerance, 40)
}

/// Packed experts, weights that sum to one.
pub fn trellis_experts<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    Routed::new(TRELLIS, 6, routing(3, true))?.check(backend, tolerance, 40)
}

/// Grouped experts.
pub fn grouped_experts<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    Routed::new(INT4, 6, routing(3, true))?.check(backend, tolerance, 40)?;
    Routed::new(NVFP4, 6, routing(2, false))?.check(backend, tolerance, 40)
}

/// More experts than tokens have choices.
pub fn experts_without_tokens<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    for storage in [Storage::F16, TRELLIS, INT4] {
        Routed::new(storage, 24, routing(2, true))?.check(backend, tolerance, 3)?;
    }
    Ok(())
}

/// A single token, as in decoding.
pub fn experts_of_one_token<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    for storage in [Storage::F32, TRELLIS, NVFP4] {
        Routed::new(storage, 8, routing(4, true))?.check(backend, tolerance, 1)?;
    }
    Ok(())
}

/// Scores by sigmoids, corrected and scaled, of all groups or of some.
pub fn experts_by_sigmoids<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    let sigmoid = Routing {
        scoring: Scoring::Sigmoid,
        scale: 1.8,
        ..routing(3, true)
    };
    let limited = Routing {
        limit: Some(GroupLimit { groups: 4, kept: 2 }),
        ..sigmoid
    };
    let plain = Routing {
        normalize: false,
        ..sigmoid
    };
    for (routing, tokens) in [(sigmoid, 1), (sigmoid, 40), (limited, 40), (plain, 7)] {
        let routed = Routed::new(Storage::Bf16, 12, routing)?.corrected();
        routed.check(backend, tolerance, tokens)?;
    }
    Ok(())
}

/// Shared experts, as wide as the others or not, with and without a gate.
pub fn shared_experts<B: Inference>(backend: &B, tolerance: f64) -> Result<(), Failure> {
    for storage in [Storage::Bf16, TRELLIS, INT4] {
        // Gates as the router is stored and otherwise.
        let gates = [None, Some(Storage::F32), Some(Storage::Bf16)];
        for (intermediate, gate) in [(90, gates[0]), (90, gates[1]), (90, gates[2]), (180, None)] {
            for tokens in [1, 3, 9] {
                Routed::new(storage, 6, routing(2, true))?
                    .shared(storage, intermediate, gate)?
                    .check(backend, tolerance, tokens)?;
            }
        }
    }
    // Of another form than the others.
    Routed::new(TRELLIS, 6, routing(2, true))?
        .shared(Storage::Bf16, 90, None)?
        .check(backend, tolerance, 2)?;
    Ok(())
}
