//! Reading `tokenizer.json`, as Hugging Face `tokenizers` writes it: byte-level and SentencePiece's byte-pair merges,
//! WordPiece and Unigram. What would make other ids than theirs is refused by name. Knows the file's format; must not know
//! folders, nor how text is encoded.

mod model;
mod pipeline;

pub(crate) use model::{byte_level, with_whole_words};
pub(crate) use pipeline::{bert_steps, regex};

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::added::AddedToken;
use crate::decode::Joins;
use crate::hash::BuildWordHasher;
use crate::normal::Normalizer;
use crate::split::Splitter;
use crate::vocabulary::Vocabulary;

/// Ids above this are taken for damage: no vocabulary is so large.
pub(crate) const ID_MAX: u64 = 1 << 24;

/// Said of tokenizers of other kinds.
const KINDS: &str = "what can be used is byte-level BPE (as GPT-2, Llama 3 and Qwen have it), SentencePiece's BPE (Llama 2, \
    Mistral, Gemma, Phi-3), WordPiece (BERT) and Unigram (T5, XLM-R): choose a model with such a tokenizer, or train one with \
    `taoye tokenizer train`";

/// What a tokenizer is made of.
pub(crate) struct Contents {
    pub vocabulary: Vocabulary,
    pub added: Vec<AddedToken>,
    pub normalizer: Normalizer,
    pub splitter: Splitter,
    /// Ids that a whole text begins and ends with.
    pub opening: Vec<u32>,
    pub closing: Vec<u32>,
    pub joins: Joins,
}

pub(crate) type Reason<T> = std::result::Result<T, String>;

/// The file, its large parts not parsed yet.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Value,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow, default)]
    model: HashMap<&'a str, &'a RawValue>,
}

/// A text as the file holds it; owned where it holds escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Ids by their texts.
type Ids<'a> = HashMap<&'a str, u32, BuildWordHasher>;

/// How the tokens' texts are to be read.
pub(super) enum Spelling {
    /// A letter for each byte.
    Bytes,
    /// Text, with replacements; perhaps bytes as `<0x0A>`.
    Pieces { replace: Vec<(String, String)>, has_bytes: bool },
    /// Words, and what they go on with.
    Words { prefix: String, cleans_up: bool },
}

/// Reads the file's JSON; the error is the reason alone.
pub(crate) fn contents(source: &str) -> Reason<Contents> {
    let file: File<'_> = serde_json::from_str(source).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => format!("not a tokenizer's file: {error}"),
        _ => format!("not valid JSON: {error}"),
    })?;
    let model = model::Model::read(&file.model)?;
    let ids: Ids<'_> = model.vocabulary.iter().map(|(text, id)| (text.as_ref(), *id)).collect();
    let added = read_added(&file.added_tokens, &ids)?;
    let normalizer = pipeline::normalizer(&file.normalizer)?;
    let (splitter, is_byte_level) = pipeline::splitter(&file.pre_tokenizer)?;
    let (spelling, joins) = pipeline::decoder(&file.decoder)?;
    if is_byte_level != matches!(spelling, Spelling::Bytes) {
        return Err(format!(
            "pre_tokenizer {} does not go with decoder {}; {KINDS}",
            shown(&file.pre_tokenizer),
            shown(&file.decoder)
        ));
    }
    let (mut opening, mut closing) = (Vec::new(), Vec::new());
    pipeline::post_processor(&file.post_processor, &mut opening, &mut closing)?;
    let (built, borders) = model.build(&ids, &spelling)?;
    let tokens = model.vocabulary.iter().map(|(text, id)| (*id, spelling.bytes(text)));
    let tokens = tokens.chain(added.iter().map(|token| (token.id, spelling.added_bytes(&token.content))));
    let vocabulary = Vocabulary::new(built, tokens.collect());
    if let Some(id) = opening.iter().chain(&closing).find(|&&id| vocabulary.bytes(id).is_none()) {
        return Err(format!("post_processor adds id {id}, which the vocabulary lacks"));
    }
    let splitter = splitter.with_borders(borders);
    Ok(Contents { vocabulary, added, normalizer, splitter, opening, closing, joins })
}

impl Spelling {
    /// The bytes that a token of the vocabulary stands for.
    fn bytes<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        match self {
            Spelling::Bytes => spelt_bytes(text).map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned),
            Spelling::Pieces { has_bytes: true, .. } if byte_of(text).is_some() => {
                Cow::Owned(byte_of(text).into_iter().collect())
            }
            Spelling::Pieces { .. } => self.added_bytes(text),
            Spelling::Words { prefix, cleans_up } => {
                let text = match text.strip_prefix(prefix.as_str()) {
                    Some(rest) => Cow::Borrowed(rest),
                    None => Cow::Owned(format!(" {text}")),
                };
                Cow::Owned(if *cleans_up { clean_up(&text) } else { text.into_owned() }.into_bytes())
            }
        }
    }

    /// The bytes that an added token stands for.
    fn added_bytes<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        match self {
            Spelling::Pieces { replace, .. }
                if replace.iter().any(|(old, _)| text.contains(old.as_str())) =>
            {
                let text = replace.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new));
                Cow::Owned(text.into_bytes())
            }
            Spelling::Words { .. } => Cow::Owned(format!(" {text}").into_bytes()),
            _ => Cow::Borrowed(text.as_bytes()),
        }
    }
}

/// What Hugging Face calls cleaning up: no space before punctuation and the ends of contractions.
fn clean_up(text: &str) -> String {
    const PAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    PAIRS.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
}

/// The byte that `<0x0A>` and its like name.
pub(crate) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn read_added(added: &Value, ids: &Ids<'_>) -> Reason<Vec<AddedToken>> {
    let empty = Vec::new();
    let added = match added {
        Value::Null => &empty,
        added => added.as_array().ok_or("added_tokens is not an array")?,
    };
    let mut tokens: Vec<AddedToken> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut counted = ids.len() as u32;
    for (index, token) in added.iter().enumerate() {
        let flag = |name: &str| token[name] == true;
        let content = token["content"].as_str().filter(|content| !content.is_empty());
        let content = content.ok_or_else(|| format!("added_tokens[{index}].content is not a text"))?;
        if flag("single_word") {
            return Err(format!(
                "added_tokens[{index}].single_word is true ({content:?}), which is not supported"
            ));
        }
        if !seen.insert(content) {
            return Err(format!("added_tokens holds {content:?} twice; remove one of them"));
        }
        // Hugging Face `tokenizers` counts up itself, whatever the file says.
        let id = ids.get(content).copied().unwrap_or(counted);
        if token["id"] != id {
            return Err(format!(
                "added_tokens[{index}] ({content:?}) has the id {}, but Hugging Face tokenizers gives it {id}; correct the \
                 file, so that both agree",
                shown(&token["id"])
            ));
        }
        counted = counted.max(id + 1);
        tokens.push(AddedToken {
            id,
            content: content.to_owned(),
            special: flag("special"),
            normalized: flag("normalized"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
        });
    }
    Ok(tokens)
}

/// The letter that stands for each byte in `tokenizer.json` (GPT-2's `bytes_to_unicode`): printable bytes of Latin-1
/// stand for themselves, the other 68 take the code points from U+0100 on.
pub(crate) fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        };
    }
    letters
}

/// The bytes that a token of [`byte_letters`] spells; `None` where it holds others.
pub(crate) fn spelt_bytes(text: &str) -> Option<Vec<u8>> {
    static BYTES: std::sync::LazyLock<[Option<u8>; 0x144]> = std::sync::LazyLock::new(|| {
        let mut bytes = [None; 0x144];
        for (letter, byte) in byte_letters().into_iter().zip(0..=255) {
            bytes[letter as usize] = Some(byte);
        }
        bytes
    });
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        bytes.push((*BYTES.get(letter as usize)?)?);
    }
    Some(bytes)
}

/// A value in a message, cut when long.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(fields) => Value::Object(without_long(fields)).to_string(),
        value => value.to_string(),
    };
    if text.chars().count() <= 160 { text } else { text.chars().take(160).chain(['…']).collect() }
}

/// Fields without tables, which would hide what matters.
fn without_long(fields: &Map<String, Value>) -> Map<String, Value> {
    let short = fields.iter().filter(|(_, value)| value.to_string().len() <= 120);
    short.map(|(name, value)| (name.clone(), value.clone())).collect()
}
