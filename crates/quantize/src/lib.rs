//! Quantizes a checkpoint block by block: calibration, budget, encoding, resume.
