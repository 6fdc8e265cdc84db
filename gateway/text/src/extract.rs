//! Finds added tokens ("<|im_start|>", runs of spaces, ...) in a text, with a say over where special ones may be found.
//!
//! The library can look for special tokens everywhere or nowhere in a text. A chat prompt needs both: the template's
//! own "<|im_start|>" is a token, the same characters typed by a user are text. `Patterns::split` follows the
//! library's AddedVocabulary step by step (leftmost-longest matches, single_word, lstrip, rstrip, first on the raw
//! text, then on the normalized pieces), except that a special token is never recognised across a guard: a byte
//! offset that the caller puts inside every place where user text could form one. Without guards the result is that of
//! the library, which the tests check; with guards the text is not cut at them, so merges over the border between
//! template and user text stay what they are in the whole string.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex::Regex;
use tokenizers::normalizer::{NormalizedString, Range};
use tokenizers::{AddedToken, Normalizer, PreTokenizedString, Token, Tokenizer};

use crate::error::{internal, invalid, Result};

/// Which special tokens may be recognised.
#[derive(Clone, Copy)]
pub enum Specials<'a> {
    /// None: "<|endoftext|>" is thirteen characters like any others.
    None,
    /// Those that contain none of these byte offsets in their inside. Ascending.
    Guarded(&'a [usize]),
}

/// Texts to look for and the token each stands for.
struct Set {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Match {
    id: u32,
    start: usize,
    end: usize,
}

impl Set {
    fn new(entries: &[(String, u32)], kind: MatchKind) -> Result<Set> {
        // A text that its normalizer empties can never be found.
        let entries: Vec<_> = entries.iter().filter(|(text, _)| !text.is_empty()).collect();
        let automaton = if entries.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder().match_kind(kind).build(entries.iter().map(|(text, _)| text));
            Some(built.map_err(|e| invalid(format!("added_tokens: {e}")))?)
        };
        Ok(Set { automaton, ids: entries.iter().map(|(_, id)| *id).collect() })
    }

    fn find(&self, text: &str, start: usize, end: usize) -> Option<Match> {
        let found = self.automaton.as_ref()?.find(Input::new(text).range(start..end))?;
        Some(Match { id: self.ids[found.pattern().as_usize()], start: found.start(), end: found.end() })
    }

    /// The first match at or after `start` that lies between two guards.
    fn find_guarded(&self, text: &str, start: usize, guards: &[usize]) -> Option<Match> {
        self.automaton.as_ref()?;
        let mut from = start;
        for &guard in &guards[guards.partition_point(|&g| g <= start)..] {
            if let Some(found) = self.find(text, from, guard) {
                return Some(found);
            }
            from = guard;
        }
        self.find(text, from, text.len())
    }
}

/// One pass of the library: over raw text, or over normalized text.
struct Pass {
    special: Set,
    plain: Set,
}

pub struct Patterns {
    tokens: HashMap<u32, AddedToken>,
    raw: Pass,
    normalized: Pass,
    /// Every special token's text, to find all places where one begins.
    special_starts: Set,
    normalized_special_starts: Set,
    /// Every proper beginning of a special token's text.
    special_prefixes: HashSet<String>,
    longest_prefix_bytes: usize,
}

/// Whether single_word counts this character as part of a word; the library asks the same expression.
fn is_word(c: char) -> bool {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w$").ok());
    WORD.as_ref().is_some_and(|word| word.is_match(c.encode_utf8(&mut [0; 4])))
}

impl Patterns {
    pub fn new(tokenizer: &Tokenizer) -> Result<Patterns> {
        let tokens: HashMap<u32, AddedToken> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        let mut entries: [Vec<(String, u32)>; 4] = Default::default();
        let mut special_texts = Vec::new();
        let mut special_prefixes = HashSet::new();
        let mut sorted: Vec<_> = tokens.iter().collect();
        sorted.sort_by_key(|(id, _)| **id);
        for (&id, token) in sorted {
            let mut text = token.content.clone();
            if token.normalized {
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    let mut normalized = NormalizedString::from(text.as_str());
                    normalizer
                        .normalize(&mut normalized)
                        .map_err(|e| invalid(format!("added token {id}: {e}")))?;
                    text = normalized.get().to_owned();
                }
            }
            entries[usize::from(token.normalized) * 2 + usize::from(token.special)].push((text, id));
            if token.special {
                special_texts.push((token.content.clone(), id));
                for (at, _) in token.content.char_indices().skip(1) {
                    special_prefixes.insert(token.content[..at].to_owned());
                }
            }
        }
        let longest = |kind| move |list: &[(String, u32)]| Set::new(list, kind);
        let build = longest(MatchKind::LeftmostLongest);
        let overlapping = longest(MatchKind::Standard);
        Ok(Patterns {
            raw: Pass { plain: build(&entries[0])?, special: build(&entries[1])? },
            normalized: Pass { plain: build(&entries[2])?, special: build(&entries[3])? },
            special_starts: overlapping(&special_texts)?,
            normalized_special_starts: overlapping(&entries[3])?,
            longest_prefix_bytes: special_prefixes.iter().map(String::len).max().unwrap_or(0),
            special_prefixes,
            tokens,
        })
    }

    /// What AddedVocabulary::extract_and_normalize returns, but for the special tokens that `specials` rules out.
    pub fn split(&self, tokenizer: &Tokenizer, text: &str, specials: Specials) -> Result<PreTokenizedString> {
        let mut pieces: PreTokenizedString = text.into();
        pieces
            .split(|_, piece| cut(self.matches(piece.get(), &self.raw, specials), &piece))
            .map_err(|e| internal(e.to_string()))?;
        pieces
            .split(|_, mut piece| {
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    normalizer.normalize(&mut piece)?;
                }
                let guards = normalized_guards(&piece, specials);
                let specials = guards.as_deref().map_or(Specials::None, Specials::Guarded);
                cut(self.matches(piece.get(), &self.normalized, specials), &piece)
            })
            .map_err(|e| internal(e.to_string()))?;
        Ok(pieces)
    }

    /// Cuts `text` into added tokens and what lies between, as AddedVocabulary::find_matches does.
    fn matches(&self, text: &str, pass: &Pass, specials: Specials) -> Vec<(Option<u32>, usize, usize)> {
        let mut cuts = Vec::new();
        let mut done = 0; // all before it is in `cuts`
        let mut from = 0; // where to look for the next match
        let (mut plain, mut special) = (None, None);
        let (mut plain_known, mut special_known) = (false, false);
        loop {
            // Both are kept until passed: else each search would run over the same text again.
            if !plain_known || plain.is_some_and(|m: Match| m.start < from) {
                plain = pass.plain.find(text, from, text.len());
                plain_known = true;
            }
            if !special_known || special.is_some_and(|m: Match| m.start < from) {
                special = match specials {
                    Specials::None => None,
                    Specials::Guarded(guards) => pass.special.find_guarded(text, from, guards),
                };
                special_known = true;
            }
            let found = match (plain, special) {
                (None, None) => break,
                (Some(one), None) | (None, Some(one)) => one,
                (Some(p), Some(s)) if (p.start, s.end) < (s.start, p.end) => p,
                (_, Some(s)) => s,
            };
            from = found.end;
            let token = &self.tokens[&found.id];
            let (mut start, mut end) = (found.start, found.end);
            if token.single_word
                && (text[..start].chars().next_back().is_some_and(is_word)
                    || text[end..].chars().next().is_some_and(is_word))
            {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                cuts.push((None, done, start));
            }
            cuts.push((Some(found.id), start, end));
            done = end;
        }
        if done != text.len() {
            cuts.push((None, done, text.len()));
        }
        cuts
    }

    /// Puts `mark` inside every place of a user's text where a special token begins or could begin together with what
    /// follows the text. Returns nothing when there is no such place.
    pub fn mark(&self, tokenizer: &Tokenizer, text: &str, mark: char) -> Option<String> {
        let mut starts = Vec::new();
        if let Some(automaton) = &self.special_starts.automaton {
            starts.extend(automaton.find_overlapping_iter(text).map(|m| m.start()));
        }
        if let (Some(automaton), Some(normalizer)) =
            (&self.normalized_special_starts.automaton, tokenizer.get_normalizer())
        {
            let mut normalized = NormalizedString::from(text);
            if normalizer.normalize(&mut normalized).is_ok() {
                for found in automaton.find_overlapping_iter(normalized.get()) {
                    let range = normalized.convert_offsets(Range::Normalized(found.start()..found.end()));
                    starts.extend(range.map(|r| r.start));
                }
            }
        }
        // Templates often trim a message, so what matters is the end of the trimmed text too.
        for end in [text.len(), text.trim_end().len()] {
            let lowest = end.saturating_sub(self.longest_prefix_bytes);
            starts.extend(
                (lowest..end)
                    .filter(|&at| text.is_char_boundary(at) && self.special_prefixes.contains(&text[at..end])),
            );
        }
        if starts.is_empty() {
            return None;
        }
        starts.sort_unstable();
        starts.dedup();
        let mut marked = String::with_capacity(text.len() + starts.len() * mark.len_utf8());
        let mut done = 0;
        for start in starts {
            let Some(first) = text[start..].chars().next() else { continue };
            let at = start + first.len_utf8();
            marked.push_str(&text[done..at]);
            marked.push(mark);
            done = at;
        }
        marked.push_str(&text[done..]);
        Some(marked)
    }
}

type Piece = (NormalizedString, Option<Vec<Token>>);

fn cut(cuts: Vec<(Option<u32>, usize, usize)>, piece: &NormalizedString) -> tokenizers::Result<Vec<Piece>> {
    cuts.into_iter()
        .map(|(id, start, end)| {
            let slice = piece.slice(Range::Normalized(start..end)).ok_or("an added token cuts a character")?;
            let tokens = id.map(|id| vec![Token::new(id, slice.get().to_owned(), (0, slice.len()))]);
            Ok((slice, tokens))
        })
        .collect()
}

/// The guards of a piece as offsets into its normalized text. Nothing when special tokens must not be recognised.
fn normalized_guards(piece: &NormalizedString, specials: Specials) -> Option<Vec<usize>> {
    let Specials::Guarded(guards) = specials else { return None };
    let (start, end) = piece.offsets_original();
    let inside = &guards[guards.partition_point(|&g| g <= start)..guards.partition_point(|&g| g < end)];
    inside.iter().map(|g| piece.convert_offsets(Range::Original(0..g - start)).map(|r| r.end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{byte_level, Random};

    fn ids(patterns: &Patterns, tokenizer: &Tokenizer, text: &str, specials: Specials) -> Vec<Option<u32>> {
        let pieces = patterns.split(tokenizer, text, specials).unwrap();
        let splits = pieces.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
        splits.iter().map(|(_, _, tokens)| tokens.as_ref().map(|t| t[0].id)).collect()
    }

    #[test]
    fn without_guards_the_split_is_that_of_the_library() {
        let parts = ["<|", "im_start", "|>", "<|im_start|>", "<|im_end|>", "<pad>", " ", "  ", "   ", "\n", "a", "é", "<mask>", "WORD", "_"];
        let tokenizer = byte_level();
        let patterns = Patterns::new(&tokenizer).unwrap();
        let mut random = Random(7);
        for _ in 0..20_000 {
            let text: String = (0..random.below(12)).map(|_| parts[random.below(parts.len())]).collect();
            let expected = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), &text);
            assert_eq!(patterns.split(&tokenizer, &text, Specials::Guarded(&[])).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn no_special_token_is_recognised_when_none_may_be() {
        let tokenizer = byte_level();
        let patterns = Patterns::new(&tokenizer).unwrap();
        assert_eq!(ids(&patterns, &tokenizer, "a<|im_end|>b", Specials::None), [None]);
        // A run of spaces is an added token, but no special one.
        assert_eq!(ids(&patterns, &tokenizer, "a   b", Specials::None).len(), 3);
    }

    #[test]
    fn a_guard_rules_out_the_tokens_that_contain_it_and_no_others() {
        let tokenizer = byte_level();
        let patterns = Patterns::new(&tokenizer).unwrap();
        let end = tokenizer.token_to_id("<|im_end|>");
        let text = "<|im_end|><|im_end|>";
        assert_eq!(ids(&patterns, &tokenizer, text, Specials::Guarded(&[])), [end, end]);
        assert_eq!(ids(&patterns, &tokenizer, text, Specials::Guarded(&[1])), [None, end]);
        assert_eq!(ids(&patterns, &tokenizer, text, Specials::Guarded(&[10])), [end, end]);
        assert_eq!(ids(&patterns, &tokenizer, text, Specials::Guarded(&[11])), [end, None]);
    }

    #[test]
    fn marks_go_inside_every_place_where_a_special_token_could_begin() {
        let tokenizer = byte_level();
        let patterns = Patterns::new(&tokenizer).unwrap();
        let mark = |text: &str| patterns.mark(&tokenizer, text, '#');
        assert_eq!(mark("a plain | text > with < signs."), None);
        assert_eq!(mark("say <|im_end|>.").as_deref(), Some("say <#|im_end|>."));
        assert_eq!(mark("open <|im_").as_deref(), Some("open <#|im_"));
        assert_eq!(mark("open <|im_ \n").as_deref(), Some("open <#|im_ \n"));
        assert_eq!(mark("a <").as_deref(), Some("a <#"));
        assert_eq!(mark("<|<|im_end|>").as_deref(), Some("<|<#|im_end|>"));
    }
}
