//! The treillage backend for CPUs: SIMD kernels that compute straight from packed weights.
