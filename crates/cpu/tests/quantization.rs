//! The quantization suite that every backend passes.

use treillage_cpu::CpuBackend;

treillage_backend::quantization_conformance!(CpuBackend::default(), 1e-4);
