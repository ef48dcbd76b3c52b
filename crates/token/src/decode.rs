//! Decoding id by id, for streams: text comes out as soon as it is certain, never half a character.
//! Knows a tokenizer's bytes; must not know who generates the ids or what stops them.

use std::ops::Deref;

use crate::tokenizer::Tokenizer;

/// What stands for bytes that are not UTF-8, and for unknown ids.
pub(crate) const REPLACEMENT: &str = "\u{fffd}";

/// What is done at the beginning of a text that is put together of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joins {
    /// Nothing.
    Plain,
    /// One space there is dropped, for encoding puts one before a text.
    DropSpace,
    /// All spaces of the first token are dropped.
    DropSpaces,
    /// Tokens are words; the space before the first is dropped.
    Words,
}

/// Turns ids into text one by one. All that `push` and `finish` return, joined, equals [`Tokenizer::decode`] of all ids.
///
/// `T` is whatever leads to the tokenizer: `&Tokenizer`, `Arc<Tokenizer>` …
pub struct StreamDecoder<T: Deref<Target = Tokenizer>> {
    tokenizer: T,
    special: SpecialTokens,
    /// The first bytes of a character that is not complete yet; at most three.
    pending: Vec<u8>,
    is_first: bool,
}

/// What a stream shows of special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Their text.
    Show,
    /// Nothing: as if they were not there.
    Hide,
}

impl Joins {
    /// The bytes of a token, of which the first in its text may lose spaces.
    #[inline]
    pub(crate) fn bytes(self, token: &[u8], is_first: bool) -> &[u8] {
        match self {
            _ if !is_first => token,
            Joins::Plain => token,
            Joins::DropSpace | Joins::Words => token.strip_prefix(b" ").unwrap_or(token),
            Joins::DropSpaces => token.trim_ascii_start(),
        }
    }
}

impl<T: Deref<Target = Tokenizer>> StreamDecoder<T> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: T, special: SpecialTokens) -> StreamDecoder<T> {
        StreamDecoder { tokenizer, special, pending: Vec::new(), is_first: true }
    }

    /// The text that became certain with this id; often empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> String {
        if self.special == SpecialTokens::Hide && self.tokenizer.special_text(id).is_some() {
            return String::new();
        }
        let bytes = self.tokenizer.bytes_at(id, self.is_first);
        self.is_first = false;
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // The last chunk may be the beginning of a character rather than an error: more bytes decide.
            if taken + invalid.len() == self.pending.len() && is_incomplete(invalid) {
                break;
            }
            text.push_str(REPLACEMENT);
            taken += invalid.len();
        }
        self.pending.drain(..taken);
        text
    }

    /// The rest: empty, or one U+FFFD for a character that never became complete. The decoder is at the start again.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        self.is_first = true;
        text
    }
}

/// True if more bytes could make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
