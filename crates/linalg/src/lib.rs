//! Hadamard transforms, Hessians, Cholesky and block LDL for post-training quantization.
