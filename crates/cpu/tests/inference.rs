//! The suites of inference that every backend passes, with each of this machine's instruction sets, both arithmetics, and on the plain path.

use treillage_cpu::{Arithmetic, CpuBackend, Options};
use treillage_trellis::SimdLevel;

fn backend(simd: SimdLevel, arithmetic: Arithmetic) -> CpuBackend {
    CpuBackend::new(Options { arithmetic, simd })
}

mod avx512 {
    use super::*;

    treillage_backend::inference_conformance!(backend(SimdLevel::Avx512, Arithmetic::Exact), 1e-5);
    treillage_backend::hybrid_conformance!(backend(SimdLevel::Avx512, Arithmetic::Exact), 1e-5);
}

mod avx2 {
    use super::*;

    treillage_backend::inference_conformance!(backend(SimdLevel::Avx2, Arithmetic::Exact), 1e-5);
    treillage_backend::hybrid_conformance!(backend(SimdLevel::Avx2, Arithmetic::Exact), 1e-5);
}

mod portable {
    use super::*;

    treillage_backend::inference_conformance!(
        backend(SimdLevel::Portable, Arithmetic::Exact),
        1e-5
    );
    treillage_backend::hybrid_conformance!(backend(SimdLevel::Portable, Arithmetic::Exact), 1e-5);
}

mod plain {
    use super::*;

    fn plain() -> CpuBackend {
        let backend = backend(SimdLevel::Avx512, Arithmetic::Int8);
        backend.compute_plainly(true);
        backend
    }

    treillage_backend::inference_conformance!(plain(), 1e-5);
    treillage_backend::hybrid_conformance!(plain(), 1e-5);
}

mod int8 {
    use super::*;

    treillage_backend::inference_conformance!(backend(SimdLevel::Avx512, Arithmetic::Int8), 5e-2);
    treillage_backend::hybrid_conformance!(backend(SimdLevel::Avx512, Arithmetic::Int8), 5e-2);
}
