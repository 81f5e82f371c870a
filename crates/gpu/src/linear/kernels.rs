//! The kernels of linears, composed and compiled once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use treillage_shaders::{
    ComposeError,
    rows::{Arrange, RowsGemv},
    trellis::{TrellisGemm, TrellisGemv, TrellisRotate},
};

use crate::{Error, Gpu, Pipeline, Slice};

/// A kernel by what it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Trellis(TrellisGemv),
    Matrices(TrellisGemm),
    Rotate(TrellisRotate),
    Rows(RowsGemv),
    Arrange(Arrange),
}

impl Kernel {
    fn name(&self) -> &'static str {
        match self {
            Kernel::Trellis(_) => TrellisGemv::SOURCE,
            Kernel::Matrices(_) => TrellisGemm::SOURCE,
            Kernel::Rotate(_) => TrellisRotate::SOURCE,
            Kernel::Rows(_) => RowsGemv::SOURCE,
            Kernel::Arrange(_) => Arrange::SOURCE,
        }
    }

    fn compose(&self) -> Result<String, ComposeError> {
        let specialization = match self {
            Kernel::Trellis(kernel) => kernel.specialization(),
            Kernel::Matrices(kernel) => kernel.specialization(),
            Kernel::Rotate(kernel) => kernel.specialization(),
            Kernel::Rows(kernel) => kernel.specialization(),
            Kernel::Arrange(kernel) => kernel.specialization(),
        };
        specialization.compose(self.name())
    }
}

/// Those that were used so far, and what they need besides tensors.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    pipelines: Mutex<HashMap<Kernel, Pipeline>>,
    counters: Mutex<Option<Slice>>,
}

impl Kernels {
    /// Units of work that may be split at a time.
    pub(super) const COUNTERS: usize = 1 << 12;

    pub(super) fn get(&self, gpu: &Gpu, kernel: Kernel) -> Result<Pipeline, Error> {
        let mut pipelines = self
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let source = kernel.compose().map_err(|error| Error::Kernel {
            kernel: kernel.name().to_owned(),
            reason: error.to_string(),
        })?;
        let pipeline = gpu.pipeline(kernel.name(), &source, &[])?;
        pipelines.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    /// A zero for each unit of split work. Kernels leave zeros behind.
    pub(crate) fn counters(&self, gpu: &Gpu) -> Result<Slice, Error> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = &*counters {
            return Ok(counters.clone());
        }
        let slice = gpu.buffer("counters", 4 * Self::COUNTERS as u64)?.slice();
        *counters = Some(slice.clone());
        Ok(slice)
    }
}
