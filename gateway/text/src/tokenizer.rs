//! A tokenizer.json with what serving needs beside the library: guarded encoding, token bytes, streams of text.

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::tokenizer::pre_tokenizer::OffsetType;
use tokenizers::{AddedToken, Encoding, Model, PreTokenizer, Tokenizer};

use crate::detok::{self, Decoder, Stream, Vocabulary};
use crate::error::{internal, invalid, Result};
use crate::extract::{Patterns, Specials};

pub struct TextTokenizer {
    library: Tokenizer,
    patterns: Patterns,
    decoder: Decoder,
    special_ids: HashSet<u32>,
    num_ids: u32,
}

/// The part of tokenizer.json that we read ourselves.
#[derive(serde::Deserialize)]
struct Document {
    #[serde(default)]
    decoder: serde_json::Value,
}

impl Vocabulary for TextTokenizer {
    fn library(&self) -> &Tokenizer {
        &self.library
    }
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }
    fn is_special(&self, id: u32) -> bool {
        self.is_special_id(id)
    }
}

impl TextTokenizer {
    /// `more_specials` are tokens that tokenizer_config.json calls special; those without an id are ignored.
    pub fn new(json: &[u8], more_specials: &[&str]) -> Result<TextTokenizer> {
        // First as any JSON: the library panics on some texts that are none, and its errors lack the place.
        let document: Document = serde_json::from_slice(json).map_err(|e| invalid(e.to_string()))?;
        let mut library = Tokenizer::from_bytes(json).map_err(|e| invalid(e.to_string()))?;
        // Both are for training; padding could ask for any amount of memory.
        library.with_padding(None);
        library.with_truncation(None).map_err(|e| invalid(e.to_string()))?;

        let known = library.get_added_tokens_decoder();
        let added: Vec<AddedToken> = more_specials
            .iter()
            .filter_map(|&text| {
                let id = library.token_to_id(text)?;
                match known.get(&id) {
                    Some(token) if token.special => None,
                    Some(token) => Some(AddedToken { special: true, ..token.clone() }),
                    None => Some(AddedToken::from(text, true)),
                }
            })
            .collect();
        library.add_special_tokens(&added);

        let mut num_ids = 0;
        for id in library.get_vocab(true).into_values() {
            if id >= i32::MAX as u32 {
                return Err(invalid(format!("token id {id} is too large")));
            }
            num_ids = num_ids.max(id + 1);
        }
        let added_tokens = library.get_added_tokens_decoder();
        Ok(TextTokenizer {
            special_ids: added_tokens.iter().filter(|(_, t)| t.special).map(|(&id, _)| id).collect(),
            patterns: Patterns::new(&library)?,
            decoder: Decoder::new(&document.decoder),
            num_ids,
            library,
        })
    }

    /// One more than the highest id.
    pub fn num_ids(&self) -> u32 {
        self.num_ids
    }

    pub fn is_special_id(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    pub fn encode(&self, text: &str, add_special: bool, specials: Specials) -> Result<Vec<u32>> {
        let encoding = match specials {
            Specials::Guarded([]) => self.library.encode_fast(text, add_special).map_err(|e| failed(&e))?,
            _ => self.encode_split(text, add_special, specials)?,
        };
        Ok(encoding.get_ids().to_vec())
    }

    /// The library's own steps, on a text that was cut at other places.
    fn encode_split(&self, text: &str, add_special: bool, specials: Specials) -> Result<Encoding> {
        let mut pieces = self.patterns.split(&self.library, text, specials)?;
        if let Some(pre_tokenizer) = self.library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(|e| failed(&e))?;
        }
        let model = self.library.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get())).map_err(|e| failed(&e))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(|e| failed(&e))?;
        self.library.post_process(encoding, None, add_special).map_err(|e| failed(&e))
    }

    /// See Patterns::mark.
    pub fn mark(&self, text: &str, mark: char) -> Option<String> {
        self.patterns.mark(&self.library, text, mark)
    }

    /// What the token adds to a text that it does not begin. Empty for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        match (&self.decoder, self.library.id_to_token(id)) {
            (_, None) => Vec::new(),
            (Decoder::Library, Some(token)) => match self.library.decode(&[id], false) {
                Ok(text) => text.into_bytes(),
                Err(_) => token.into_bytes(),
            },
            (decoder, Some(token)) => decoder.piece(token, false),
        }
    }
}

pub fn decode(tokenizer: &Arc<TextTokenizer>, ids: &[u32], skip_special: bool) -> Result<String> {
    detok::decode(tokenizer.clone(), ids, skip_special)
}

pub type TextStream = Stream<Arc<TextTokenizer>>;

fn failed(error: &impl ToString) -> crate::error::TextError {
    internal(format!("the text could not be encoded: {}", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{added, byte_level_json, Random};

    fn load(json: &str) -> Arc<TextTokenizer> {
        Arc::new(TextTokenizer::new(json.as_bytes(), &[]).unwrap())
    }

    fn error_of(json: &str) -> String {
        TextTokenizer::new(json.as_bytes(), &[]).err().unwrap().message
    }

    /// A vocabulary of pieces with the given decoder, whose ids are the positions.
    fn with_decoder(pieces: &[&str], decoder: &str) -> Arc<TextTokenizer> {
        let vocab: serde_json::Map<_, _> = pieces.iter().enumerate().map(|(i, p)| (p.to_string(), i.into())).collect();
        let special = added(pieces.len() as u32, "</s>", true, "");
        load(&format!(
            r#"{{"version":"1.0","added_tokens":[{special}],"decoder":{decoder},
            "model":{{"type":"WordLevel","unk_token":"?","vocab":{}}}}}"#,
            serde_json::Value::Object(vocab)
        ))
    }

    fn streamed(tokenizer: &Arc<TextTokenizer>, ids: &[u32], skip: bool) -> String {
        let mut stream = TextStream::new(tokenizer.clone(), skip);
        let mut text: String = ids.iter().map(|&id| stream.append(id).unwrap()).collect();
        text.push_str(&stream.flush().unwrap());
        text
    }

    #[test]
    fn guarded_encoding_without_a_token_to_guard_is_that_of_the_library() {
        let tokenizer = load(&byte_level_json());
        let parts = ["hello", " hello", "<|im_start|>", "<", "|", "im_end", "\n\n", "  ", "é", "😀", "WORD", " <pad> "];
        let mut random = Random(3);
        for _ in 0..5_000 {
            let text: String = (0..random.below(10)).map(|_| parts[random.below(parts.len())]).collect();
            let library = tokenizer.encode(&text, true, Specials::Guarded(&[])).unwrap();
            let ours = tokenizer.encode(&text, true, Specials::Guarded(&[0, text.len()])).unwrap();
            assert_eq!(ours, library, "{text:?}");
        }
    }

    #[test]
    fn every_known_decoder_gives_the_text_of_the_library() {
        let decoders = [
            r#"null"#,
            r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
            r###"{"type":"WordPiece","prefix":"##","cleanup":true}"###,
            r###"{"type":"WordPiece","prefix":"##","cleanup":false}"###,
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#,
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"never","split":true}"#,
            r#"{"type":"Metaspace","replacement":"▁","add_prefix_space":true}"#,
            r#"{"type":"Fuse"}"#,
            r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
               {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":2,"stop":0}]}"#,
            r#"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
               {"type":"ByteFallback"},{"type":"Fuse"}]}"#,
        ];
        let pieces = ["▁", "▁▁", "▁Hi", "there", "##ing", "!", "Ġx", "<0x41>", "<0x0A>", "Ã", "©", "don", "é", "<0x", "?", " .", "##"];
        let mut random = Random(11);
        for decoder in decoders {
            let tokenizer = with_decoder(&pieces, decoder);
            assert_ne!(tokenizer.decoder, Decoder::Library, "{decoder}");
            for _ in 0..3_000 {
                let ids: Vec<u32> = (0..random.below(9)).map(|_| random.below(pieces.len() + 3) as u32).collect();
                for skip in [false, true] {
                    let library = tokenizer.library.decode(&ids, skip).unwrap();
                    assert_eq!(decode(&tokenizer, &ids, skip).unwrap(), library, "{decoder} {ids:?}");
                    assert_eq!(streamed(&tokenizer, &ids, skip), library, "{decoder} {ids:?}");
                }
            }
        }
    }

    #[test]
    fn a_decoder_that_must_see_all_tokens_is_left_to_the_library() {
        let tokenizer = with_decoder(&["a</w>", "b", "c</w>"], r#"{"type":"BPEDecoder","suffix":"</w>"}"#);
        assert_eq!(tokenizer.decoder, Decoder::Library);
        assert_eq!(decode(&tokenizer, &[0, 1, 2, 3], true).unwrap(), "a bc");
        assert_eq!(streamed(&tokenizer, &[0, 1, 2], false), "a bc");
    }

    #[test]
    fn byte_tokens_make_characters_and_wrong_ones_spoil_nothing_else() {
        let decoder = r#"{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]}"#;
        let tokenizer = with_decoder(&["<0xC3>", "<0xA9>", "x"], decoder);
        assert_eq!(decode(&tokenizer, &[0, 1, 0, 2], false).unwrap(), "é\u{fffd}x");
        let mut stream = TextStream::new(tokenizer.clone(), false);
        let texts: Vec<_> = [0, 1, 0, 2].map(|id| stream.append(id).unwrap()).to_vec();
        assert_eq!(texts, ["", "é", "", "\u{fffd}x"]);
        assert_eq!(tokenizer.token_bytes(0), [0xc3]);
    }

    #[test]
    fn tokens_named_special_elsewhere_become_special() {
        let json = byte_level_json();
        let tokenizer = TextTokenizer::new(json.as_bytes(), &["WORD", "hello", "no such token"]).unwrap();
        let word = tokenizer.token_to_id("WORD").unwrap();
        let hello = tokenizer.token_to_id("hello").unwrap();
        assert!(tokenizer.is_special_id(word) && tokenizer.is_special_id(hello));
        assert_eq!(tokenizer.encode("WORD", false, Specials::Guarded(&[])).unwrap(), [word]);
        assert_eq!(tokenizer.encode("WORD", false, Specials::None).unwrap().len(), 4);
    }

    #[test]
    fn padding_and_truncation_of_the_file_are_not_used() {
        let json = byte_level_json()
            .replace(r#""truncation":null"#, r#""truncation":{"direction":"Right","max_length":1,"strategy":"LongestFirst","stride":0}"#)
            .replace(
                r#""padding":null"#,
                r#""padding":{"strategy":{"Fixed":900000000000},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"!"}"#,
            );
        assert_eq!(load(&json).encode("hello hello", false, Specials::Guarded(&[])).unwrap().len(), 2);
    }

    #[test]
    fn a_broken_file_is_refused_with_the_place() {
        let json = byte_level_json();
        assert!(error_of(&json[..json.len() - 9]).contains("EOF while parsing"));
        assert!(error_of("[").contains("line 1 column 1"));
        assert!(error_of(&json.replace("h e", "h e f")).contains("Merges"), "{}", error_of(&json.replace("h e", "h e f")));
        assert!(error_of(&json.replace("h e", "h zz")).contains("`zz`"));
        let high = json.replace(r#""vocab":{"#, r#""vocab":{"high":4294967295,"#);
        assert!(error_of(&high).contains("too large"));
    }
}
