//! From a stream of ids to a stream of text: whole characters, no stop strings, tokens beside their text.
//! Knows neither conversations nor how ids are found.

use std::collections::VecDeque;
use std::sync::Arc;

use token::{SpecialTokens, StreamDecoder, Tokenizer};

use crate::{Delta, Result, StopStrings, TokenText, TopToken};

/// Turns the ids of one answer into deltas.
pub(crate) struct TextStream {
    tokenizer: Arc<Tokenizer>,
    decoder: StreamDecoder<Arc<Tokenizer>>,
    /// Special tokens that are shown.
    shown: Vec<u32>,
    stops: StopStrings,
    /// Tokens whose text has not all gone out.
    waiting: VecDeque<Waiting>,
    decoded_bytes: usize,
    decoded_characters: usize,
    released_bytes: usize,
}

/// A token and the bytes of the answer that its text takes.
struct Waiting {
    begin: usize,
    end: usize,
    token: TokenText,
}

impl TextStream {
    /// A stream that ends before the first of `stop`.
    pub fn new(tokenizer: &Arc<Tokenizer>, stop: &[String]) -> Result<Self> {
        Ok(Self {
            tokenizer: Arc::clone(tokenizer),
            decoder: StreamDecoder::new(Arc::clone(tokenizer), SpecialTokens::Hide),
            shown: Vec::new(),
            stops: StopStrings::new(stop)?,
            waiting: VecDeque::new(),
            decoded_bytes: 0,
            decoded_characters: 0,
            released_bytes: 0,
        })
    }

    /// Shows these special tokens, by their ids; all others are hidden.
    pub fn showing(mut self, shown: &[u32]) -> Self {
        self.shown = shown.to_vec();
        self
    }

    /// Says before the first token how many characters of what is reported precede this stream's text.
    pub fn begin_at(&mut self, characters: usize) {
        self.decoded_characters = characters;
    }

    /// Takes the answer's next token and returns what is certain by now.
    pub fn push(&mut self, token: &engine::Token) -> Delta {
        let mut piece = self.decoder.push(token.id);
        if self.shown.contains(&token.id) {
            piece += self.tokenizer.special_text(token.id).unwrap_or_default();
        }
        if let Some(logprobs) = &token.logprobs {
            let text = token_text(&self.tokenizer, token.id, self.decoded_characters, Some(logprobs));
            let (begin, end) = (self.decoded_bytes, self.decoded_bytes + piece.len());
            self.waiting.push_back(Waiting { begin, end, token: text });
        }
        self.decoded_bytes += piece.len();
        self.decoded_characters += piece.chars().count();
        let text = self.stops.push(&piece);
        self.release(text)
    }

    /// Whether a stop string ended the answer.
    pub fn stopped(&self) -> bool {
        self.stops.stopped()
    }

    /// The stop string that ended the answer.
    pub fn stop(&self) -> Option<&str> {
        self.stops.found()
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> Delta {
        let piece = self.decoder.finish();
        self.decoded_bytes += piece.len();
        let mut text = self.stops.push(&piece);
        text += &self.stops.finish();
        let mut delta = self.release(text);
        if !self.stopped() {
            delta.tokens.extend(self.waiting.drain(..).map(|waiting| waiting.token));
        }
        delta
    }

    fn release(&mut self, text: String) -> Delta {
        self.released_bytes += text.len();
        let mut tokens = Vec::new();
        while let Some(next) = self.waiting.front() {
            // Where a stop string ends the answer within a token, that token still belongs to the answer.
            let cut_through = self.stopped() && next.begin < self.released_bytes;
            if next.end > self.released_bytes && !cut_through {
                break;
            }
            tokens.extend(self.waiting.pop_front().map(|waiting| waiting.token));
        }
        if self.stopped() {
            self.waiting.clear();
        }
        Delta { text, tokens, ids: 0 }
    }
}

/// A token and, where they are known, the probabilities at its position, as text.
pub(crate) fn token_text(
    tokenizer: &Tokenizer,
    id: u32,
    text_offset: usize,
    logprobs: Option<&engine::TokenLogProbs>,
) -> TokenText {
    let (text, bytes) = text_and_bytes(tokenizer, id);
    let logprob = logprobs.map(|logprobs| logprobs.chosen.logprob);
    let top = logprobs.map_or(&[][..], |logprobs| &logprobs.top);
    let top = top.iter().map(|entry| {
        let (text, bytes) = text_and_bytes(tokenizer, entry.id);
        TopToken { text, bytes, logprob: entry.logprob }
    });
    TokenText { text, bytes, text_offset, logprob, top: top.collect() }
}

fn text_and_bytes(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default().to_vec();
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}
