use std::{fs, path::PathBuf, sync::LazyLock};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Error;

/// Byte-level BPE of 512 tokens.
static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    Tokenizer::open(&root.join("fixtures/micro-qwen3_moe")).unwrap()
});

/// Whole words with a leading mark for a space, bytes for what it does not know: the other way of the field.
static BYTE_FALLBACK: LazyLock<Tokenizer> = LazyLock::new(|| {
    let words = ["<unk>", "▁", "▁hello", "▁world", "hello", "o", "x"];
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let vocabulary: serde_json::Map<_, _> = words
        .iter()
        .map(ToString::to_string)
        .chain(bytes)
        .zip(0u32..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let json = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        ]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true}
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::open(dir.path()).unwrap()
});

/// The pieces that a stream of `ids` gives, the last from the end of the stream.
fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream(SpecialTokens::Keep);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

proptest! {
    #[test]
    fn any_text_survives(text in "\\PC{0,40}") {
        let tokenizer = &*BYTE_LEVEL;
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, SpecialTokens::Keep).unwrap(), &*text);
        let pieces = pieces(tokenizer, &ids);
        prop_assert_eq!(pieces.concat(), &*text);
        // Nothing is left for the end but what looks unfinished, since every character was finished.
        let unsure = text.trim_end_matches('\u{FFFD}').len();
        prop_assert_eq!(pieces.last().unwrap(), &text[unsure..]);
    }

    #[test]
    fn any_tokens_stream_to_their_text(ids in prop::collection::vec(0u32..520, 0..60)) {
        let tokenizer = &*BYTE_LEVEL;
        let whole = tokenizer.decode(&ids, SpecialTokens::Keep).unwrap();
        prop_assert_eq!(pieces(tokenizer, &ids).concat(), whole);
    }

    #[test]
    fn fallback_bytes_stream_to_their_text(text in "[ helloworldxé你🦀]{0,24}") {
        let tokenizer = &*BYTE_FALLBACK;
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(pieces(tokenizer, &ids).concat(), text);
    }

    #[test]
    fn broken_fallback_bytes_do_not_stop_the_stream(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
        let tokenizer = &*BYTE_FALLBACK;
        let mut ids: Vec<u32> = bytes.iter().map(|&b| 7 + u32::from(b)).collect();
        ids.push(6);
        let text = pieces(tokenizer, &ids).concat();
        prop_assert!(text.ends_with('x'), "{}", text);
    }
}

#[test]
fn a_character_comes_whole() {
    let tokenizer = &*BYTE_LEVEL;
    let ids = tokenizer.encode("a🦀b").unwrap();
    let pieces = pieces(tokenizer, &ids);
    assert!(ids.len() > 3, "the vocabulary has no token for the crab");
    let spoken: Vec<&str> = pieces
        .iter()
        .map(String::as_str)
        .filter(|p| !p.is_empty())
        .collect();
    assert_eq!(spoken, ["a", "🦀", "b"]);
}

#[test]
fn an_unfinished_character_shows_at_the_end() {
    let tokenizer = &*BYTE_LEVEL;
    let mut ids = tokenizer.encode("a🦀").unwrap();
    ids.pop();
    let pieces = pieces(tokenizer, &ids);
    assert_eq!(pieces.concat(), "a\u{FFFD}");
    assert_eq!(pieces.last().unwrap(), "\u{FFFD}");
}

#[test]
fn special_tokens_are_read_and_left_out_on_request() {
    let tokenizer = &*BYTE_LEVEL;
    let ids = tokenizer.encode("<|im_start|>a<|im_end|>").unwrap();
    let end = tokenizer.id("<|im_end|>").unwrap();
    assert_eq!(
        (ids[0], ids[2]),
        (tokenizer.id("<|im_start|>").unwrap(), end)
    );
    let decode = |special| tokenizer.decode(&ids, special).unwrap();
    assert_eq!(decode(SpecialTokens::Skip), "a");
    assert_eq!(decode(SpecialTokens::Keep), "<|im_start|>a<|im_end|>");
    assert_eq!(tokenizer.vocabulary(), 512);
    assert_eq!(tokenizer.id("no such token"), None);
}

#[test]
fn a_files_truncation_is_ignored() {
    let tokenizer = &*BYTE_FALLBACK;
    assert!(tokenizer.encode("hello world hello").unwrap().len() > 2);
}

#[test]
fn says_which_file_is_missing_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Tokenizer::open(dir.path()).err().unwrap();
    assert!(matches!(missing, Error::Missing { .. }));
    let message = missing.to_string();
    assert!(
        message.contains("tokenizer.json: no such file"),
        "{message}"
    );
    fs::write(dir.path().join("tokenizer.json"), "{\"model\": 1}").unwrap();
    let damaged = Tokenizer::open(dir.path()).err().unwrap().to_string();
    assert!(damaged.contains("tokenizer.json: "), "{damaged}");
    assert!(!damaged.contains('\n'), "{damaged}");
}
