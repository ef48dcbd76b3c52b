//! The tokenizer: training, text → ids, ids → text.
//! Knows pre-tokens, merges and special tokens; must not know models, messages or shards.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::added::{AddedToken, AddedTokens, Found, Stage, Which};
use crate::bpe::{Merge, Merges};
use crate::decode::Joins;
use crate::error::{Error, Result};
use crate::file::{Companions, Source};
use crate::merged::{Absent, Merged};
use crate::normal::{Normalizer, Place};
use crate::pretoken::{DIGITS_MAX, Scanner};
use crate::read::Contents;
use crate::split::{Splitter, Step};
use crate::train::{MergeLimits, WordCounts, learn_merges};
use crate::vocabulary::{Model, Scratch, Vocabulary};

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The token that begins a text, for templates; empty if there is none.
    pub bos_token: String,
    /// The token that ends generation; empty if there is none.
    pub eos_token: String,
    /// The token that fills batches.
    pub pad_token: String,
    /// The longest context of the model in tokens, if known.
    pub model_max_length: Option<usize>,
    /// The Jinja source that turns messages into text; empty if there is none.
    pub chat_template: String,
}

/// A tokenizer: a byte-level one that [`Tokenizer::train`] made (ids: 0–255 the bytes, then the merges, then the special
/// tokens) or one of any kind that [`Tokenizer::load`] read (ids as its file has them).
///
/// Encoding is safe to call from many threads; each takes buffers and a word cache from a small store.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    added: AddedTokens,
    normalizer: Normalizer,
    splitter: Splitter,
    opening: Vec<u32>,
    closing: Vec<u32>,
    joins: Joins,
    /// What ends an answer, beside `settings.eos_token`.
    pub(crate) end_ids: Vec<u32>,
    /// What travels with the files; change it freely before [`Tokenizer::save`].
    pub settings: Settings,
    pub(crate) source: Source,
    /// The other files of the folder that it was loaded from.
    pub(crate) companions: Option<Companions>,
    pub(crate) fingerprint: OnceLock<String>,
    scratch: Mutex<Vec<Scratch>>,
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
        let pairs = learn_merges(words, &limits);
        let source = crate::file::trained_source(&pairs, &options.special_tokens, options.digits);
        let mut tokenizer = Tokenizer::from_contents(trained_contents(&pairs, options), Source::Json(source));
        let eos_token = options.special_tokens.first().cloned().unwrap_or_default();
        tokenizer.settings = Settings {
            pad_token: eos_token.clone(),
            eos_token,
            chat_template: crate::chat::CHATML.to_owned(),
            ..Settings::default()
        };
        Ok(tokenizer)
    }

    /// The tokenizer of these contents, without settings.
    pub(crate) fn from_contents(contents: Contents, source: Source) -> Tokenizer {
        let normalizer = contents.normalizer;
        let added =
            AddedTokens::new(contents.added, |text| normalizer.apply(text, Place::Start).into_owned());
        Tokenizer {
            vocabulary: contents.vocabulary,
            added,
            normalizer,
            splitter: contents.splitter,
            opening: contents.opening,
            closing: contents.closing,
            joins: contents.joins,
            end_ids: Vec::new(),
            settings: Settings::default(),
            source,
            companions: None,
            fingerprint: OnceLock::new(),
            scratch: Mutex::default(),
        }
    }

    /// The ids of `text`. What looks like a special token is ordinary text here, so text from outside is safe. (Added
    /// tokens that are not special, such as the runs of spaces of some tokenizers, are found as everywhere.)
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the ids of `text` to `ids`; like [`Tokenizer::encode`], without allocating once warm.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.encode_at(text, Place::Start, ids);
    }

    /// [`Tokenizer::encode_into`] of a text that has something before it: some tokenizers put a space before others.
    pub(crate) fn encode_at(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        let mut scratch = self.take_scratch();
        self.encode_with(text, (Which::Ordinary, place), &mut scratch, ids);
        self.return_scratch(scratch);
    }

    /// The ids of a text whose special tokens count as such: the leftmost, of these the longest. Equals
    /// `Tokenizer.encode` of Hugging Face `tokenizers` without [`Tokenizer::opening_ids`] and
    /// [`Tokenizer::closing_ids`]. Never call it on text from outside.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut scratch = self.take_scratch();
        self.encode_with(text, (Which::All, Place::Start), &mut scratch, &mut ids);
        self.return_scratch(scratch);
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
                    self.encode_with(text.as_ref(), (Which::Ordinary, Place::Start), &mut scratch, &mut ids);
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
        for (index, &id) in ids.iter().enumerate() {
            bytes.extend_from_slice(self.bytes_at(id, index == 0));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes that an id stands for (an added token: its text); `None` for an unknown id. What some tokenizers leave out
    /// at the beginning of a text, a space, is there.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The bytes of an id in a text, the first one or another.
    #[inline]
    pub(crate) fn bytes_at(&self, id: u32, is_first: bool) -> &[u8] {
        match self.vocabulary.bytes(id) {
            Some(bytes) => self.joins.bytes(bytes, is_first),
            None => crate::decode::REPLACEMENT.as_bytes(),
        }
    }

    /// The number of ids, special tokens included: one more than the highest. A loaded vocabulary may have gaps.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// What a whole text begins with, such as the id of Llama 3's `<|begin_of_text|>`; mostly nothing. A model that was
    /// trained with it expects it before documents and prompts; a chat template prints it itself.
    pub fn opening_ids(&self) -> &[u32] {
        &self.opening
    }

    /// What a whole text ends with; nearly always nothing.
    pub fn closing_ids(&self) -> &[u32] {
        &self.closing
    }

    /// Ids that end an answer, as a GGUF file names them or as they are known by their texts; `settings.eos_token` may be
    /// among them.
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The id of an added token, special or not.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.added.id(text)
    }

    /// The id of a special token.
    pub fn special(&self, text: &str) -> Option<u32> {
        self.added.special_id(text)
    }

    /// The text of a special token; `None` for an ordinary or unknown id.
    pub fn special_text(&self, id: u32) -> Option<&str> {
        self.added.special_text(id)
    }

    /// The special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> &[String] {
        self.added.special()
    }

    /// The id of `settings.bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_id(&self.settings.bos_token)
    }

    /// The id of `settings.eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_id(&self.settings.eos_token)
    }

    /// The first special token in `text`.
    pub(crate) fn find_special(&self, text: &str) -> Option<Found> {
        self.added.first_special(text)
    }

    fn encode_with(
        &self,
        text: &str,
        (which, place): (Which, Place),
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        self.between_tokens(text, (Stage::Raw, which, place), ids, &mut |text, place, ids| {
            let text = self.normalizer.apply(text, place);
            self.between_tokens(&text, (Stage::Normalized, which, place), ids, &mut |text, place, ids| {
                self.splitter.split(text, place, &mut |word| self.vocabulary.encode_word(word, scratch, ids));
            });
        });
    }

    /// Appends the ids of the added tokens in `text`; what stands between them goes to `encode`, with what stands before it.
    #[inline]
    fn between_tokens(
        &self,
        text: &str,
        (stage, which, place): (Stage, Which, Place),
        ids: &mut Vec<u32>,
        encode: &mut impl FnMut(&str, Place, &mut Vec<u32>),
    ) {
        if !self.added.searches(stage, which) {
            return encode(text, place, ids);
        }
        let (mut position, mut place) = (0, place);
        for found in self.added.find(text, stage, which) {
            if position < found.start {
                encode(&text[position..found.start], place, ids);
            }
            ids.push(found.id);
            position = found.end;
            place = Place::AfterToken;
        }
        if position < text.len() {
            encode(&text[position..], place, ids);
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
            .field("special", &self.special_tokens())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What training learnt, as it would be read from its file.
fn trained_contents(pairs: &[crate::train::Pair], options: &TrainOptions) -> Contents {
    let rules: Vec<Merge> =
        pairs.iter().zip(256..).map(|(&pair, made)| Merge { pair, made, rank: made - 256 }).collect();
    let (merges, ids) = Merges::new(&rules);
    let special = options.special_tokens.iter();
    let mut tokens: Vec<(u32, Vec<u8>)> =
        (0..merges.len() as u32).map(|symbol| (symbol, merges.bytes(symbol).to_vec())).collect();
    let special_ids = merges.len() as u32..;
    tokens.extend(special_ids.clone().zip(special.clone().map(|special| special.clone().into_bytes())));
    let token = |(content, id): (&String, u32)| AddedToken {
        id,
        content: content.clone(),
        special: true,
        normalized: false,
        lstrip: false,
        rstrip: false,
    };
    let merged = Merged::new(merges, ids, Absent::Nothing);
    Contents {
        added: special.zip(special_ids).map(token).collect(),
        vocabulary: Vocabulary::new(Model::Merged(merged), tokens),
        normalizer: Normalizer::default(),
        splitter: Splitter::new(vec![Step::Scan(Scanner::Own { digits: options.digits })]),
        opening: Vec::new(),
        closing: Vec::new(),
        joins: Joins::Plain,
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
