//! The inference suite that every backend passes.

use treillage_cpu::CpuBackend;

treillage_backend::inference_conformance!(CpuBackend::default(), 1e-5);
