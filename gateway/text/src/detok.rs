//! From tokens to text: what bytes one token stands for, and how a text grows token by token.
//!
//! The library's decoders see all tokens at once. For the decoders that published models use, each token's share of the
//! text depends on that token and on whether it is the first, so the text is a stream of bytes: `Decoder::piece` gives
//! one token's bytes and `Stream` joins them, holding back an incomplete UTF-8 character. A whole text is decoded by the
//! same `Stream`, so streamed pieces always add up to it, at a cost linear in the number of tokens. The result is that of
//! the library, with one exception: for a run of ByteFallback tokens that is not UTF-8 the library shows one U+FFFD for
//! every byte of the run, even for its good characters, which a stream has long sent; here only the bad bytes get one.
//!
//! Other decoders (CTC, BPEDecoder, unusual sequences) are left to the library: a stream decodes a short window of
//! tokens again and again and sends what the window's newest tokens added.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{internal, Result};

/// A window that shows no whole character after this many tokens is sent as it is.
const MAX_WINDOW_TOKENS: usize = 32;

/// The 256 characters by which byte-level models write bytes, in the order of the bytes (GPT-2's bytes_to_unicode).
pub fn byte_chars() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or('\0')
        }
    })
}

static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| (0..=255).zip(byte_chars()).map(|(byte, c)| (c, byte)).collect());

#[derive(Debug, PartialEq, Eq)]
pub enum Decoder {
    /// Each character of a token is a byte.
    ByteLevel,
    /// Replacements, then "<0x0A>" is a byte, then `strip` of a character at the start of the whole text.
    Fallback { replace: Vec<(String, String)>, bytes: bool, strip: Option<(char, usize)> },
    /// A character stands for a space; none at the start of the text if `first` is false.
    Metaspace { replacement: char, first: bool },
    /// Words are joined by spaces, except where a token starts with the prefix.
    WordPiece { prefix: String, cleanup: bool },
    /// No decoder: tokens are joined by spaces.
    Spaces,
    /// The library's decoder must see all tokens.
    Library,
}

impl Decoder {
    /// `decoder` is the part of that name of tokenizer.json, which the library has already accepted.
    pub fn new(decoder: &Value) -> Decoder {
        Self::known(decoder).unwrap_or(Decoder::Library)
    }

    fn known(decoder: &Value) -> Option<Decoder> {
        if decoder.is_null() {
            return Some(Decoder::Spaces);
        }
        match decoder["type"].as_str()? {
            "ByteLevel" => Some(Decoder::ByteLevel),
            "WordPiece" => Some(Decoder::WordPiece {
                prefix: decoder["prefix"].as_str()?.to_owned(),
                cleanup: decoder["cleanup"].as_bool()?,
            }),
            "Metaspace" => {
                // Older files have add_prefix_space and no prepend_scheme.
                let scheme = decoder["prepend_scheme"].as_str();
                let mut replacement = decoder["replacement"].as_str()?.chars();
                Some(Decoder::Metaspace { replacement: replacement.next()?, first: scheme == Some("never") })
            }
            "ByteFallback" | "Replace" | "Fuse" => Self::sequence(std::slice::from_ref(decoder)),
            "Sequence" => match decoder["decoders"].as_array()?.as_slice() {
                [one] => Self::known(one),
                list => Self::sequence(list),
            },
            _ => None,
        }
    }

    /// Replace*, ByteFallback?, Fuse?, Strip?: the decoders of Llama, Mistral, Gemma and their kin.
    fn sequence(list: &[Value]) -> Option<Decoder> {
        let (mut replace, mut bytes, mut fused, mut strip) = (Vec::new(), false, false, None);
        for decoder in list {
            match decoder["type"].as_str()? {
                "Replace" if !bytes && !fused && strip.is_none() => {
                    let pattern = decoder["pattern"]["String"].as_str().filter(|p| !p.is_empty())?;
                    replace.push((pattern.to_owned(), decoder["content"].as_str()?.to_owned()));
                }
                "ByteFallback" if !bytes && !fused && strip.is_none() => bytes = true,
                "Fuse" => fused = true,
                "Strip" if fused && strip.is_none() && decoder["stop"].as_u64() == Some(0) => {
                    let content = decoder["content"].as_str()?.chars().next()?;
                    strip = Some((content, decoder["start"].as_u64()? as usize));
                }
                _ => return None,
            }
        }
        Some(Decoder::Fallback { replace, bytes, strip })
    }

    /// The bytes of one token, where `first` says that no other token stands before it.
    pub fn piece(&self, token: String, first: bool) -> Vec<u8> {
        match self {
            Decoder::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(|c| BYTE_OF_CHAR.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Decoder::Fallback { replace, bytes, .. } => {
                let mut text = token;
                for (from, to) in replace {
                    if text.contains(from) {
                        text = text.replace(from, to);
                    }
                }
                match byte_token(&text) {
                    Some(byte) if *bytes => vec![byte],
                    _ => text.into_bytes(),
                }
            }
            Decoder::Metaspace { replacement, first: space_first } => {
                let space = if first && !space_first { "" } else { " " };
                token.replace(*replacement, space).into_bytes()
            }
            Decoder::WordPiece { prefix, cleanup } => {
                let mut text = token;
                if !first {
                    text = match text.strip_prefix(prefix.as_str()) {
                        Some(rest) => rest.to_owned(),
                        None => format!(" {text}"),
                    };
                }
                if *cleanup {
                    text = tokenizers::decoders::wordpiece::cleanup(&text);
                }
                text.into_bytes()
            }
            Decoder::Spaces if first => token.into_bytes(),
            Decoder::Spaces => format!(" {token}").into_bytes(),
            Decoder::Library => token.into_bytes(),
        }
    }

    fn strip(&self) -> Option<(char, usize)> {
        match self {
            Decoder::Fallback { strip, .. } => *strip,
            _ => None,
        }
    }
}

/// "<0x0A>" is the byte 10. Read exactly as the library reads it, a sign included.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// A tokenizer as decoding needs it.
pub trait Vocabulary {
    fn library(&self) -> &Tokenizer;
    fn decoder(&self) -> &Decoder;
    fn is_special(&self, id: u32) -> bool;
}

/// Text that grows by one token at a time.
pub struct Stream<V> {
    vocabulary: V,
    skip_special: bool,
    /// No token was seen yet that contributes to the text.
    first: bool,
    /// What the decoder's strip may still remove at the start of the text.
    strip: Option<(char, usize)>,
    /// An incomplete UTF-8 character, at most 3 bytes.
    held: Vec<u8>,
    window: Window,
}

/// The state of decoding by the library: ids[..sent] were sent and stay as context for the rest.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    sent: usize,
}

impl<V: std::ops::Deref<Target = T>, T: Vocabulary> Stream<V> {
    pub fn new(vocabulary: V, skip_special: bool) -> Self {
        let strip = vocabulary.decoder().strip();
        Stream { vocabulary, skip_special, first: true, strip, held: Vec::new(), window: Window::default() }
    }

    /// The text that became final by this token. An id that stands for no token adds nothing.
    pub fn append(&mut self, id: u32) -> Result<String> {
        if self.skip_special && self.vocabulary.is_special(id) {
            return Ok(String::new());
        }
        if *self.vocabulary.decoder() == Decoder::Library {
            return self.window.append(self.vocabulary.library(), id);
        }
        let Some(token) = self.vocabulary.library().id_to_token(id) else {
            return Ok(String::new());
        };
        let piece = self.vocabulary.decoder().piece(token, self.first);
        self.first = false;
        self.held.extend_from_slice(&piece);
        let text = take_complete(&mut self.held);
        Ok(self.stripped(text))
    }

    /// What is left at the end: an incomplete character becomes U+FFFD. The stream starts again after it.
    pub fn flush(&mut self) -> Result<String> {
        if *self.vocabulary.decoder() == Decoder::Library {
            return self.window.flush(self.vocabulary.library());
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned();
        let text = self.stripped(text);
        self.first = true;
        self.strip = self.vocabulary.decoder().strip();
        Ok(text)
    }

    fn stripped(&mut self, text: String) -> String {
        let Some((content, mut left)) = self.strip else { return text };
        let mut rest = text.as_str();
        while left > 0 {
            let Some(shorter) = rest.strip_prefix(content) else { break };
            rest = shorter;
            left -= 1;
        }
        // The first other character ends it.
        self.strip = if rest.is_empty() && left > 0 { Some((content, left)) } else { None };
        rest.to_owned()
    }
}

/// Takes all but an incomplete character at the end, as String::from_utf8_lossy shows it.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let text = text.to_owned();
        bytes.clear();
        return text;
    }
    let incomplete = bytes.utf8_chunks().last().map_or(0, |chunk| {
        let bad = chunk.invalid();
        // Only the end of the input can be cut off; elsewhere the same bytes are wrong for good.
        let unfinished = std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if unfinished { bad.len() } else { 0 }
    });
    let rest = bytes.split_off(bytes.len() - incomplete);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

impl Window {
    fn append(&mut self, library: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.unsent(library)?;
        let complete = !text.is_empty() && !text.ends_with('\u{fffd}');
        if !complete && self.ids.len() - self.sent < MAX_WINDOW_TOKENS {
            return Ok(String::new());
        }
        // What was sent before is context no more; what is sent now becomes the context.
        self.ids.drain(..self.sent);
        self.sent = self.ids.len();
        Ok(text)
    }

    fn flush(&mut self, library: &Tokenizer) -> Result<String> {
        let text = self.unsent(library)?;
        *self = Window::default();
        Ok(text)
    }

    fn unsent(&self, library: &Tokenizer) -> Result<String> {
        let sent = library_decode(library, &self.ids[..self.sent])?;
        let all = library_decode(library, &self.ids)?;
        Ok(all.get(sent.len()..).unwrap_or_default().to_owned())
    }
}

fn library_decode(library: &Tokenizer, ids: &[u32]) -> Result<String> {
    if ids.is_empty() {
        return Ok(String::new()); // BPEDecoder counts on a last token
    }
    library.decode(ids, false).map_err(|e| internal(format!("decoding failed: {e}")))
}

/// The text of all these tokens.
pub fn decode<T: Vocabulary>(vocabulary: Arc<T>, ids: &[u32], skip_special: bool) -> Result<String> {
    if *vocabulary.decoder() == Decoder::Library {
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !(skip_special && vocabulary.is_special(id))).collect();
        return library_decode(vocabulary.library(), &ids);
    }
    let mut stream = Stream::new(vocabulary, skip_special);
    let mut text = String::new();
    for &id in ids {
        text.push_str(&stream.append(id)?);
    }
    text.push_str(&stream.flush()?);
    Ok(text)
}
