//! Reads and writes model checkpoints: safetensors, configs, EXL3.
