//! Calibration and encoding.

use treillage_backend::{EncodeJob, Error, Quantization, RouteWeighting};
use treillage_linalg::Hessian;

use crate::GpuBackend;
use crate::linear::Linear;
use crate::moments::Moments;
use crate::ops::{Expansion, Experts};
use crate::quantize::{Tuning, encode_grouped, encode_trellis};

impl Quantization for GpuBackend {
    type Moments = Moments;

    fn encodes_as(&self) -> String {
        let adapter = self.gpu().adapter();
        format!("{} ({})", adapter.name(), adapter.api())
    }

    fn weights_at_once(&self) -> usize {
        match self.gpu().is_software() {
            true => 1 << 23,
            false => 1 << 28,
        }
    }

    fn new_moments(&self, width: usize) -> Result<Moments, Error> {
        Ok(Moments::new(width))
    }

    fn watch(&self, linear: &mut Linear, moments: &Moments) -> Result<(), Error> {
        linear.watch(moments)
    }

    fn watch_expansion(&self, expansion: &mut Expansion, moments: &Moments) -> Result<(), Error> {
        expansion.watch(moments)
    }

    fn watch_experts(
        &self,
        experts: &mut Experts,
        inputs: &[Option<Moments>],
        downs: &[Option<Moments>],
        weighting: RouteWeighting,
    ) -> Result<(), Error> {
        experts.watch(self.context(), inputs, downs, weighting)
    }

    fn take_moments(&self, moments: &Moments) -> Result<Hessian, Error> {
        moments.take(self.context())
    }

    fn encode_trellis(
        &self,
        jobs: Vec<EncodeJob<treillage_trellis::EncodeConfig>>,
    ) -> Result<Vec<treillage_trellis::Encoded>, Error> {
        encode_trellis(self.context(), jobs, Tuning::default())
    }

    fn encode_grouped(
        &self,
        jobs: Vec<EncodeJob<treillage_gptq::Config>>,
    ) -> Result<Vec<treillage_gptq::Quantized>, Error> {
        encode_grouped(self.context(), jobs)
    }
}
