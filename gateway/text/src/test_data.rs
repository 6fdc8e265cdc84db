//! Tokenizers small enough to be read, for the unit tests.

use tokenizers::Tokenizer;

/// A repeatable source of numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

pub fn added(id: u32, content: &str, special: bool, flags: &str) -> String {
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    format!(
        r#"{{"id":{id},"content":{},"single_word":{},"lstrip":{},"rstrip":{},"normalized":{},"special":{special}}}"#,
        serde_json::to_string(content).unwrap(),
        has("single_word"),
        has("lstrip"),
        has("rstrip"),
        has("normalized"),
    )
}

/// The JSON of a byte-level BPE tokenizer: 256 bytes, a few merges, and added tokens with every flag.
pub fn byte_level_json() -> String {
    let mut vocab = serde_json::Map::new();
    for c in crate::detok::byte_chars() {
        vocab.insert(c.to_string(), vocab.len().into());
    }
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ċ", "Ċ"), ("Ã", "©")];
    for (a, b) in merges {
        vocab.insert(format!("{a}{b}"), vocab.len().into());
    }
    let base = vocab.len() as u32;
    let tokens = [
        added(base, "<|im_start|>", true, ""),
        added(base + 1, "<|im_end|>", true, ""),
        added(base + 2, "<pad>", true, "rstrip"),
        added(base + 3, "<mask>", true, "lstrip normalized"),
        added(base + 4, "  ", false, ""),
        added(base + 5, "   ", false, "normalized"),
        added(base + 6, "WORD", false, "single_word"),
    ]
    .join(",");
    let merges: Vec<_> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{tokens}],"normalizer":{{"type":"NFC"}},
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}},
        "post_processor":null,"decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
        "fuse_unk":false,"byte_fallback":false,"vocab":{},"merges":{}}}}}"#,
        serde_json::Value::Object(vocab),
        serde_json::to_string(&merges).unwrap(),
    )
}

pub fn byte_level() -> Tokenizer {
    Tokenizer::from_bytes(byte_level_json()).unwrap()
}
