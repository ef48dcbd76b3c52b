//! The tokenizer: training, text → ids, ids → text.
//! Knows pre-tokens, merges and special tokens; must not know models, messages or shards.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::bpe::{Merges, Scratch};
use crate::error::{Error, Result};
use crate::pretoken::{DIGITS_MAX, PreTokens};
use crate::train::{MergeLimits, WordCounts, learn_merges};

/// Ends a document in training data; what a base model stops at.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Opens a message of a conversation (ChatML).
pub const MESSAGE_START: &str = "<|im_start|>";
/// Closes a message of a conversation (ChatML); what a chat model stops at.
pub const MESSAGE_END: &str = "<|im_end|>";

/// What [`Tokenizer::train`] makes.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The number of ids wanted, special tokens included; fewer come out when the texts hold too few pairs.
    pub vocab_size: usize,
    /// The most digits in one pre-token (1 to 9). One is best for arithmetic in small models.
    pub digits: usize,
    /// Special tokens, in the order of their ids.
    pub special_tokens: Vec<String>,
    /// Pairs that occur less often are never merged.
    pub count_min: u64,
    /// No token gets longer than this many bytes.
    pub token_bytes_max: usize,
}

/// Facts about the model that travel with the tokenizer's files.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The special token that begins a text; empty if there is none.
    pub bos_token: String,
    /// The special token that ends generation; empty if there is none.
    pub eos_token: String,
    /// The special token that fills batches.
    pub pad_token: String,
    /// The longest context of the model in tokens, if known.
    pub model_max_length: Option<usize>,
    /// The Jinja source that turns messages into text.
    pub chat_template: String,
}

/// A byte-level byte-pair tokenizer. Ids: 0–255 the bytes, then the merges, then the special tokens.
///
/// Encoding is safe to call from many threads; each takes buffers and a word cache from a small store.
pub struct Tokenizer {
    pub(crate) merges: Merges,
    pub(crate) special: Vec<String>,
    pub(crate) digits: usize,
    /// What travels with the files; change it freely before [`Tokenizer::save`].
    pub settings: Settings,
    pub(crate) fingerprint: OnceLock<String>,
    scratch: Mutex<Vec<Scratch>>,
}

/// A token found in a text: the bytes that it takes, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            vocab_size: 8192,
            digits: 1,
            special_tokens: [END_OF_TEXT, MESSAGE_START, MESSAGE_END].map(String::from).to_vec(),
            count_min: 2,
            token_bytes_max: 64,
        }
    }
}

impl Tokenizer {
    /// Learns a tokenizer from `documents` with up to `threads` threads; the result does not depend on their number.
    ///
    /// # Errors
    /// [`Error::Training`] when the options contradict each other or the documents hold no text.
    pub fn train<S: AsRef<str> + Sync>(
        documents: &[S],
        options: &TrainOptions,
        threads: usize,
    ) -> Result<Tokenizer> {
        check_options(options)?;
        let mut words = WordCounts::default();
        words.add(documents, options.digits, threads);
        Tokenizer::train_on_counts(words, options)
    }

    /// Learns a tokenizer from pre-tokens counted before (with `options.digits`), for texts larger than memory.
    ///
    /// # Errors
    /// As [`Tokenizer::train`].
    pub fn train_on_counts(words: WordCounts, options: &TrainOptions) -> Result<Tokenizer> {
        check_options(options)?;
        if words.is_empty() {
            return Err(Error::Training(
                "the documents hold no text; give at least one document that is not empty".into(),
            ));
        }
        let limits = MergeLimits {
            merges_max: options.vocab_size - 256 - options.special_tokens.len(),
            count_min: options.count_min.max(1),
            token_bytes_max: options.token_bytes_max,
            special_tokens: options.special_tokens.clone(),
        };
        let merges = Merges::new(learn_merges(words, &limits))
            .expect("training names only symbols that it has made before");
        let eos_token = options.special_tokens.first().cloned().unwrap_or_default();
        let settings = Settings {
            pad_token: eos_token.clone(),
            eos_token,
            bos_token: String::new(),
            model_max_length: None,
            chat_template: crate::chat::CHATML.to_owned(),
        };
        Ok(Tokenizer::from_parts(merges, options.special_tokens.clone(), options.digits, settings))
    }

    pub(crate) fn from_parts(
        merges: Merges,
        special: Vec<String>,
        digits: usize,
        settings: Settings,
    ) -> Tokenizer {
        Tokenizer {
            merges,
            special,
            digits,
            settings,
            fingerprint: OnceLock::new(),
            scratch: Mutex::default(),
        }
    }

    /// The ids of `text`. What looks like a special token is ordinary text here, so text from outside is safe.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of `text` to `ids`; like [`Tokenizer::encode`], without allocating once warm.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        let mut scratch = self.take_scratch();
        self.encode_with(text, &mut scratch, ids);
        self.return_scratch(scratch);
    }

    /// The ids of a text whose special tokens count as such: the leftmost, of these the longest. Equals
    /// `Tokenizer.encode` of Hugging Face `tokenizers`. Never call it on text from outside.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut rest = text;
        while let Some(found) = self.find_special(rest) {
            self.encode_into(&rest[..found.start], &mut ids);
            ids.push(found.id);
            rest = &rest[found.end..];
        }
        self.encode_into(rest, &mut ids);
        ids
    }

    /// [`Tokenizer::encode`] of many texts, with up to `threads` threads (see [`WordCounts::add`] on why here).
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], threads: usize) -> Vec<Vec<u32>> {
        const STRIDE: usize = 16;
        let threads = threads.clamp(1, texts.len().div_ceil(STRIDE).max(1));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut scratch = self.take_scratch();
            let mut done = Vec::new();
            loop {
                let first = next.fetch_add(STRIDE, Ordering::Relaxed);
                if first >= texts.len() {
                    self.return_scratch(scratch);
                    return done;
                }
                for (offset, text) in texts[first..texts.len().min(first + STRIDE)].iter().enumerate() {
                    let mut ids = Vec::with_capacity(text.as_ref().len() / 3 + 1);
                    self.encode_with(text.as_ref(), &mut scratch, &mut ids);
                    done.push((first + offset, ids));
                }
            }
        };
        let parts = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut parts = vec![work()];
            parts.extend(others.into_iter().map(|other| other.join().expect("encoding does not panic")));
            parts
        });
        let mut all = vec![Vec::new(); texts.len()];
        for (index, ids) in parts.into_iter().flatten() {
            all[index] = ids;
        }
        all
    }

    /// The text of `ids`, special tokens included; bytes that are not UTF-8 become U+FFFD, and so does an id that the
    /// tokenizer does not have (a model's vocabulary may be padded).
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.token_bytes(id).unwrap_or(crate::decode::REPLACEMENT.as_bytes()));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes that an id stands for (a special token: its text); `None` for an unknown id.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        if (id as usize) < self.merges.len() {
            Some(self.merges.bytes(id))
        } else {
            self.special_text(id).map(str::as_bytes)
        }
    }

    /// The number of ids: bytes, merges and special tokens. Ids run from 0 to one less.
    pub fn vocab_size(&self) -> usize {
        self.merges.len() + self.special.len()
    }

    /// The id of a special token.
    pub fn special(&self, text: &str) -> Option<u32> {
        let index = self.special.iter().position(|special| special == text)?;
        Some((self.merges.len() + index) as u32)
    }

    /// The text of a special token; `None` for an ordinary or unknown id.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        let index = (id as usize).checked_sub(self.merges.len())?;
        self.special.get(index).map(String::as_str)
    }

    /// The special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> &[String] {
        &self.special
    }

    /// The id of `settings.eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.special(&self.settings.eos_token)
    }

    /// The first special token in `text`.
    pub(crate) fn find_special(&self, text: &str) -> Option<Found> {
        let mut first_bytes = [false; 256];
        for special in &self.special {
            first_bytes[usize::from(special.as_bytes()[0])] = true;
        }
        let bytes = text.as_bytes();
        let longest_at = |start: usize| {
            let found = self.special.iter().enumerate();
            found
                .filter(|(_, special)| bytes[start..].starts_with(special.as_bytes()))
                .max_by_key(|(_, special)| special.len())
        };
        let starts = (0..bytes.len()).filter(|&start| first_bytes[usize::from(bytes[start])]);
        starts
            .filter_map(|start| Some((start, longest_at(start)?)))
            .map(|(start, (index, text))| Found {
                start,
                end: start + text.len(),
                id: (self.merges.len() + index) as u32,
            })
            .next()
    }

    fn encode_with(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        for word in PreTokens::new(text, self.digits) {
            self.merges.encode_word(word, scratch, ids);
        }
    }

    fn take_scratch(&self) -> Scratch {
        self.scratch.lock().ok().and_then(|mut store| store.pop()).unwrap_or_default()
    }

    fn return_scratch(&self, scratch: Scratch) {
        if let Ok(mut store) = self.scratch.lock() {
            store.push(scratch);
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("digits", &self.digits)
            .field("special", &self.special)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn check_options(options: &TrainOptions) -> Result<()> {
    let smallest = 256 + options.special_tokens.len();
    if options.vocab_size < smallest {
        return Err(Error::Training(format!(
            "a vocabulary of {} has no room for the 256 bytes and {} special tokens; ask for at least {smallest}",
            options.vocab_size,
            options.special_tokens.len()
        )));
    }
    if options.digits == 0 || options.digits > DIGITS_MAX {
        return Err(Error::Training(format!(
            "digit groups of {} are not possible; choose 1 to {DIGITS_MAX}",
            options.digits
        )));
    }
    let mut seen = HashSet::new();
    match options.special_tokens.iter().find(|special| special.len() < 2 || !seen.insert(*special)) {
        Some(bad) => Err(Error::Training(format!(
            "special token {bad:?} is shorter than two bytes or given twice; name it like \"<|name|>\""
        ))),
        None => Ok(()),
    }
}
