//! Language-model architectures written once over a backend, with tokenizer, chat template and sampling.
