//! From text to token ids and back: tokenizer, streaming decoder, chat template.

mod detokenizer;
mod strftime;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use template::{ChatTemplate, Message};
pub use tokenizer::{SpecialTokens, Tokenizer};

#[cfg(test)]
mod tests;
