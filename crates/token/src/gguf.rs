//! Tokenizers from the metadata of GGUF files (keys `tokenizer.*`), with the ids that llama.cpp gives.
//! Knows the keys; must not know how the container is laid out, nor how text is encoded.

mod folder;

pub use folder::write_folder;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base::gguf::File;

use crate::added::AddedToken;
use crate::charsmap::Charsmap;
use crate::chat::CHATML;
use crate::decode::Joins;
use crate::error::{Error, Result};
use crate::file::Source;
use crate::hash::BuildWordHasher;
use crate::merged::{Merged, Merging, Pieces};
use crate::normal::{Bert, Normalizer, Step as Normal};
use crate::pretokenizers::PreTokenizer;
use crate::read::{Contents, ID_MAX, Reason, bert_steps, byte_level, byte_of, spelt_bytes, with_whole_words};
use crate::split::{Borders, SPACE_MARK, Splitter};
use crate::tokenizer::{MESSAGE_END, MESSAGE_START, Settings, Tokenizer};
use crate::unigram::{Unigram, Unknown};
use crate::vocabulary::{Model, NO_ID, Vocabulary};
use crate::words::Words;

/// Texts of tokens that end an answer, whatever the file says.
const ENDS: [&str; 18] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
];

// The kinds of tokens (`tokenizer.ggml.token_type`).
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

impl Tokenizer {
    /// The tokenizer in a GGUF file's metadata: `gpt2` (byte-level BPE), `llama` and `gemma4` (SentencePiece's BPE), `t5`
    /// (SentencePiece's Unigram) or `bert` (WordPiece).
    ///
    /// # Errors
    /// [`Error::File`] naming the key that cannot be used.
    pub fn from_gguf(file: &File) -> Result<Tokenizer> {
        let reject = |reason: String| Error::File { path: file.path().to_owned(), reason };
        let listed = Listed::read(file).map_err(reject)?;
        let contents = listed.contents(file).map_err(reject)?;
        let source = Source::Other { kind: "GGUF", hash: listed.hash(file).map_err(reject)? };
        let mut tokenizer = Tokenizer::from_contents(contents, source);
        tokenizer.end_ids = listed.end_ids();
        let template = find::<&str>(file, "tokenizer.chat_template").map_err(reject)?;
        let speaks_chatml = [MESSAGE_START, MESSAGE_END].iter().all(|text| tokenizer.special(text).is_some());
        tokenizer.settings = listed.settings(template.unwrap_or(if speaks_chatml { CHATML } else { "" }));
        Ok(tokenizer)
    }
}

/// What the file lists.
pub(crate) struct Listed<'a> {
    kind: &'a str,
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
    pad: Option<u32>,
    cls: Option<u32>,
}

/// The ids of special tokens, negative for none.
pub(crate) struct Ends {
    pub unknown: i32,
    pub bos: i32,
    pub eos: i32,
    pub pad: i32,
}

/// What SentencePiece does to a text first.
pub(crate) struct Spaces {
    /// Does a space stand before a text?
    pub prepends: bool,
    /// Are spaces at the ends and repeated ones left out?
    pub collapses: bool,
    pub charsmap: Option<Charsmap>,
}

/// A key's value; a value of another type is the error.
fn find<'a, T: base::gguf::FromValue<'a>>(file: &'a File, key: &str) -> Reason<Option<T>> {
    match file.get(key) {
        None => Ok(None),
        Some(value) => T::from_value(value)
            .map(Some)
            .ok_or_else(|| format!("{key} is {}, expected {}", value.describe(), T::wanted())),
    }
}

fn require<'a, T: base::gguf::FromValue<'a>>(file: &'a File, key: &str) -> Reason<T> {
    find(file, key)?.ok_or_else(|| format!("it has no {key}; take another file of the model"))
}

impl<'a> Listed<'a> {
    fn read(file: &'a File) -> Reason<Listed<'a>> {
        let kind = require::<&str>(file, "tokenizer.ggml.model")?;
        let tokens = require::<Vec<&str>>(file, "tokenizer.ggml.tokens")?;
        if tokens.is_empty() || tokens.len() as u64 > ID_MAX {
            return Err(format!(
                "tokenizer.ggml.tokens has {} entries, expected 1 to {ID_MAX}",
                tokens.len()
            ));
        }
        let types = find::<Vec<i32>>(file, "tokenizer.ggml.token_type")?;
        let types = types.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        same_length("tokenizer.ggml.token_type", types.len(), tokens.len())?;
        let id = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let id = find::<i64>(file, &key)?;
            // Converters write -1 or 2³² − 1 for "none".
            let id = id.filter(|&id| id >= 0 && id != i64::from(u32::MAX));
            match id {
                None => Ok(default.filter(|&id| (id as usize) < tokens.len())),
                Some(id) if (id as usize) < tokens.len() => Ok(Some(id as u32)),
                Some(id) => Err(format!("{key} is {id}, but there are only {} tokens", tokens.len())),
            }
        };
        let (is_llama, is_bert) = (kind == "llama", kind == "bert");
        let default = |applies: bool, id: u32| applies.then_some(id);
        Ok(Listed {
            kind,
            bos: id("bos", default(is_llama, 1).or(default(is_bert, 101)))?,
            eos: id("eos", default(is_llama, 2))?,
            eot: id("eot", None)?,
            eom: id("eom", None)?,
            unknown: id("unknown", default(is_llama, 0).or(default(is_bert, 100)))?,
            // The key is spelt so.
            separator: id("seperator", default(is_bert, 102))?,
            pad: id("padding", default(is_bert, 0))?,
            cls: id("cls", None)?,
            tokens,
            types,
        })
    }

    /// What a SentencePiece model lists; `kind` is the name that GGUF files have for it.
    pub(crate) fn of_model(
        kind: &'a str,
        tokens: Vec<&'a str>,
        types: Vec<i32>,
        ends: Ends,
    ) -> Reason<Listed<'a>> {
        if tokens.is_empty() || tokens.len() as u64 > ID_MAX {
            return Err(format!("it has {} pieces, expected 1 to {ID_MAX}", tokens.len()));
        }
        let id = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len());
        let (unknown, bos, eos, pad) = (id(ends.unknown), id(ends.bos), id(ends.eos), id(ends.pad));
        let (eot, eom, separator, cls) = (None, None, None, None);
        Ok(Listed { kind, tokens, types, bos, eos, eot, eom, unknown, separator, pad, cls })
    }

    /// The texts of the tokens that begin and end texts, and of the one that fills batches.
    pub(crate) fn settings(&self, chat_template: &str) -> Settings {
        let text = |id: Option<u32>| id.map(|id| self.tokens[id as usize].to_owned()).unwrap_or_default();
        let eos_token = text(self.eos.or(self.eot));
        Settings {
            bos_token: text(self.bos),
            pad_token: self.pad.map_or(eos_token.clone(), |id| text(Some(id))),
            eos_token,
            model_max_length: None,
            chat_template: chat_template.to_owned(),
        }
    }

    fn contents(&self, file: &File) -> Reason<Contents> {
        match self.kind {
            "llama" | "t5" => {
                let scores = find::<Vec<f32>>(file, "tokenizer.ggml.scores")?;
                let scores = scores.unwrap_or_else(|| vec![0.0; self.tokens.len()]);
                same_length("tokenizer.ggml.scores", scores.len(), self.tokens.len())?;
                let contents = self.by_scores(&scores, &self.spaces(file)?)?;
                self.enclose(file, (self.kind == "llama", self.kind == "t5"), contents)
            }
            "gpt2" | "gemma4" => self.by_merges(file),
            "bert" => self.by_words(file),
            other => Err(format!(
                "tokenizer.ggml.model is {other:?}, which is not supported; supported are \"gpt2\", \"llama\", \"gemma4\", \
                 \"t5\" and \"bert\""
            )),
        }
    }

    fn spaces(&self, file: &File) -> Reason<Spaces> {
        let is_unigram = self.kind == "t5";
        let key = "tokenizer.ggml.precompiled_charsmap";
        let charsmap = match find::<base::gguf::Array<'_>>(file, key)?.filter(|_| is_unigram) {
            None => None,
            Some(array) => {
                // The bytes stand there as u8 or as i8.
                let bytes = array.iter().map(|byte| byte.integer().map(|byte| byte as u8));
                let bytes: Option<Vec<u8>> = bytes.collect();
                Some(bytes.and_then(|bytes| Charsmap::new(&bytes)).ok_or(format!("{key} is damaged"))?)
            }
        };
        let flag = |name: &str| find::<bool>(file, &format!("tokenizer.ggml.{name}"));
        Ok(Spaces {
            prepends: flag("add_space_prefix")?.unwrap_or(!is_unigram),
            collapses: is_unigram && flag("remove_extra_whitespaces")?.unwrap_or(false),
            charsmap,
        })
    }

    /// A SentencePiece vocabulary with a score for each token, of merges or of probabilities.
    pub(crate) fn by_scores(&self, scores: &[f32], spaces: &Spaces) -> Reason<Contents> {
        let tokens = self.mergeable();
        let mut contents = if self.kind == "t5" {
            let scored: Vec<(&str, f64, u32)> = tokens
                .iter()
                .map(|(text, id)| (text.as_ref(), f64::from(scores[*id as usize]), *id))
                .collect();
            self.plain_contents(tokens.iter().map(|(text, _)| text.as_ref()), |bytes| {
                let unknown = match bytes {
                    Some(bytes) => Unknown::Bytes(Box::new(*bytes)),
                    None => Unknown::Id(self.unknown.ok_or("it names no unknown token")?),
                };
                Ok(Model::Unigram(Unigram::new(&scored, unknown)))
            })?
        } else {
            let merging = Merging::Scores(tokens.iter().map(|(_, id)| scores[*id as usize]).collect());
            self.merged_contents(tokens, merging)?
        };
        contents.normalizer = Normalizer::new(spaces.steps());
        contents.joins = if spaces.prepends { Joins::DropSpace } else { Joins::Plain };
        Ok(contents)
    }

    fn by_merges(&self, file: &File) -> Reason<Contents> {
        let name = find::<&str>(file, "tokenizer.ggml.pre")?.unwrap_or("default");
        let pre_tokenizer = PreTokenizer::named(if self.kind == "gemma4" { "gemma4" } else { name })?;
        let pairs = self.merges(file)?;
        let contents = if pre_tokenizer.is_plain {
            let mut contents = self.merged_contents(self.mergeable(), Merging::Pairs(pairs))?;
            contents.normalizer =
                Normalizer::new(Spaces { prepends: false, collapses: false, charsmap: None }.steps());
            contents.splitter = contents.splitter.recut(pre_tokenizer.steps()?);
            contents
        } else {
            let tokens: Vec<(&str, u32)> = self.of_types(|kind| !matches!(kind, CONTROL | UNKNOWN)).collect();
            let ids: HashMap<&str, u32, BuildWordHasher> = tokens.iter().copied().collect();
            let merged = byte_level(&ids, &pairs)?;
            let merged =
                if pre_tokenizer.ignores_merges { with_whole_words(merged, &tokens) } else { merged };
            let spelt = |text: &'_ str, kind: i32| match kind {
                NORMAL => spelt_bytes(text),
                _ => None,
            };
            Contents {
                vocabulary: self.vocabulary(Model::Merged(merged), spelt),
                added: self.added(),
                normalizer: Normalizer::new(pre_tokenizer.normal_steps()),
                splitter: Splitter::new(pre_tokenizer.steps()?),
                opening: Vec::new(),
                closing: Vec::new(),
                joins: Joins::Plain,
            }
        };
        self.enclose(file, (pre_tokenizer.adds_bos, false), contents)
    }

    fn merges(&self, file: &'a File) -> Reason<Vec<(Cow<'a, str>, Cow<'a, str>)>> {
        let merges = require::<Vec<&str>>(file, "tokenizer.ggml.merges")?;
        let pair = |(index, text): (usize, &'a str)| {
            let sides = text.char_indices().skip(1).find(|(_, character)| *character == ' ');
            let (at, _) = sides.ok_or_else(|| {
                format!(
                    "tokenizer.ggml.merges[{index}] is {text:?}, expected two tokens with a space between"
                )
            })?;
            Ok((Cow::Borrowed(&text[..at]), Cow::Borrowed(&text[at + 1..])))
        };
        merges.into_iter().enumerate().map(pair).collect()
    }

    fn by_words(&self, file: &File) -> Reason<Contents> {
        let lowercase = find::<bool>(file, "tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strips = find::<bool>(file, "tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
        let bert =
            Bert { clean_text: true, handle_chinese_characters: true, strip_accents: strips, lowercase };
        // Converters write "▁word" and "part" for "word" and "##part".
        let normal = || self.of_types(|kind| !matches!(kind, CONTROL | UNKNOWN));
        let is_marked = normal().any(|(text, _)| text.starts_with(SPACE_MARK));
        let (first, inner): (Vec<_>, Vec<_>) = if is_marked {
            let first = normal().filter_map(|(text, id)| Some((text.strip_prefix(SPACE_MARK)?, id)));
            (first.collect(), normal().filter(|(text, _)| !text.starts_with(SPACE_MARK)).collect())
        } else {
            let inner = normal().filter_map(|(text, id)| Some((text.strip_prefix("##")?, id)));
            (normal().filter(|(text, _)| !text.starts_with("##")).collect(), inner.collect())
        };
        let unknown = self.unknown.ok_or("it has no tokenizer.ggml.unknown_token_id")?;
        let words = Words::new(&first, &inner, unknown, 100);
        let spelt =
            |text: &str, kind: i32| match (kind, text.strip_prefix(SPACE_MARK), text.strip_prefix("##")) {
                (CONTROL | UNKNOWN, ..) => Some(format!(" {text}").into_bytes()),
                (_, Some(word), _) => Some(format!(" {word}").into_bytes()),
                (_, None, Some(part)) if !is_marked => Some(part.as_bytes().to_vec()),
                _ if !is_marked => Some(format!(" {text}").into_bytes()),
                _ => None,
            };
        let mut contents = Contents {
            vocabulary: self.vocabulary(Model::Words(words), spelt),
            added: self.added(),
            normalizer: Normalizer::new(vec![Normal::Bert(bert)]),
            splitter: Splitter::new(bert_steps().into()),
            opening: Vec::new(),
            closing: Vec::new(),
            joins: Joins::Words,
        };
        if find::<bool>(file, "tokenizer.ggml.add_sep_token")?.unwrap_or(true) {
            contents.closing.extend(self.separator);
        }
        self.enclose(file, (true, false), contents)
    }

    /// Adds what texts begin and end with.
    fn enclose(
        &self,
        file: &File,
        (adds_bos, adds_eos): (bool, bool),
        mut contents: Contents,
    ) -> Reason<Contents> {
        if find::<bool>(file, "tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos) {
            contents.opening.extend(self.bos.or(self.cls));
        }
        if find::<bool>(file, "tokenizer.ggml.add_eos_token")?.unwrap_or(adds_eos) {
            contents.closing.extend(self.eos);
        }
        Ok(contents)
    }

    /// Adds what texts begin and end with where no file says it: merges of characters are used with a beginning (Llama),
    /// Unigram with an end (T5), which the models themselves do not hold.
    pub(crate) fn enclose_as_usual(&self, contents: &mut Contents) {
        match self.kind {
            "t5" => contents.closing.extend(self.eos),
            _ => contents.opening.extend(self.bos),
        }
    }

    /// The tokens of the kinds asked for, with their ids; none is empty.
    fn of_types(&self, wanted: impl Fn(i32) -> bool) -> impl Iterator<Item = (&'a str, u32)> {
        let all = self.tokens.iter().zip(&self.types).zip(0..);
        all.filter_map(move |((text, kind), id)| (wanted(*kind) && !text.is_empty()).then_some((*text, id)))
    }

    /// What merging may make. A token that is found as such before anything is merged never comes out of merging, but for
    /// those with spaces, which are marked only later.
    fn mergeable(&self) -> Vec<(Cow<'a, str>, u32)> {
        let kind = |id: u32| self.types[id as usize];
        let tokens = self.of_types(|kind| !matches!(kind, CONTROL | UNKNOWN | BYTE));
        let tokens = tokens.filter(|(text, id)| kind(*id) != USER_DEFINED || text.contains(SPACE_MARK));
        tokens.map(|(text, id)| (Cow::Borrowed(text), id)).collect()
    }

    /// A vocabulary of merged characters.
    fn merged_contents(&self, tokens: Vec<(Cow<'a, str>, u32)>, merging: Merging<'_>) -> Reason<Contents> {
        let texts: Vec<Cow<'a, str>> = tokens.iter().map(|(text, _)| text.clone()).collect();
        self.plain_contents(texts.iter().map(AsRef::as_ref), |byte_ids| {
            let pieces = Pieces {
                tokens,
                merging,
                byte_ids,
                unknown: self.unknown.map(|id| (id, false)),
                ignores_merges: false,
            };
            Ok(Model::Merged(Merged::of_characters(&pieces)))
        })
    }

    /// A vocabulary of plain texts, whose unknown characters are bytes where there are ids for all of those.
    fn plain_contents<'t>(
        &self,
        texts: impl Iterator<Item = &'t str>,
        model: impl FnOnce(Option<&[u32; 256]>) -> Reason<Model>,
    ) -> Reason<Contents> {
        let mut byte_ids = [NO_ID; 256];
        for (text, id) in self.of_types(|_| true) {
            if let Some(byte) = byte_of(text) {
                byte_ids[usize::from(byte)] = id;
            }
        }
        let has_bytes = !byte_ids.contains(&NO_ID);
        let model = model(has_bytes.then_some(&byte_ids))?;
        let spelt = |text: &str, kind: i32| match kind {
            CONTROL | UNKNOWN | USER_DEFINED => None,
            _ => match byte_of(text) {
                Some(byte) if kind == BYTE || has_bytes => Some(vec![byte]),
                _ => Some(text.replace(SPACE_MARK, " ").into_bytes()),
            },
        };
        Ok(Contents {
            vocabulary: self.vocabulary(model, spelt),
            added: self.added(),
            normalizer: Normalizer::default(),
            splitter: Splitter::new(Vec::new()).with_borders(Borders::of(texts)),
            opening: Vec::new(),
            closing: Vec::new(),
            joins: Joins::Plain,
        })
    }

    /// All ids with their bytes: those that `spelt` gives for a text and its kind, or the text itself.
    fn vocabulary(&self, model: Model, spelt: impl Fn(&str, i32) -> Option<Vec<u8>>) -> Vocabulary {
        let all = self.tokens.iter().zip(&self.types).zip(0..);
        let tokens = all.map(|((text, kind), id)| {
            (id, spelt(text, *kind).map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned))
        });
        Vocabulary::new(model, tokens.collect())
    }

    /// The tokens that are found by their texts.
    fn added(&self) -> Vec<AddedToken> {
        let special: HashSet<u32> = [self.bos, self.eos, self.eot, self.eom].into_iter().flatten().collect();
        let mut seen = HashSet::new();
        let all = self.of_types(|_| true).filter_map(|(text, id)| {
            let is_special = matches!(self.types[id as usize], CONTROL | UNKNOWN)
                || special.contains(&id)
                || ENDS.contains(&text);
            let counts = is_special || self.types[id as usize] == USER_DEFINED;
            (counts && seen.insert(text)).then(|| AddedToken {
                id,
                content: text.to_owned(),
                special: is_special,
                normalized: false,
                lstrip: false,
                rstrip: false,
            })
        });
        all.collect()
    }

    fn end_ids(&self) -> Vec<u32> {
        let named = [self.eos, self.eot, self.eom].into_iter().flatten();
        let known: Vec<(&str, u32)> =
            self.of_types(|_| true).filter(|(text, _)| ENDS.contains(text)).collect();
        let has = |text: &str| known.iter().any(|(known, _)| *known == text);
        // Where answers have channels, that token ends a channel only.
        let ends_channel = has("<|return|>") && has("<|call|>");
        let known = known.iter().filter(|(text, _)| !(ends_channel && *text == "<|end|>"));
        let mut ids: Vec<u32> = named.chain(known.map(|(_, id)| *id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Identifies what the file says of the mapping from text to ids.
    fn hash(&self, file: &File) -> Reason<String> {
        let mut bytes = Vec::new();
        let mut add = |part: &[u8]| {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        };
        add(self.kind.as_bytes());
        add(find::<&str>(file, "tokenizer.ggml.pre")?.unwrap_or_default().as_bytes());
        self.tokens.iter().for_each(|token| add(token.as_bytes()));
        self.types.iter().for_each(|kind| add(&kind.to_le_bytes()));
        find::<Vec<f32>>(file, "tokenizer.ggml.scores")?
            .iter()
            .flatten()
            .for_each(|score| add(&score.to_le_bytes()));
        find::<Vec<&str>>(file, "tokenizer.ggml.merges")?
            .iter()
            .flatten()
            .for_each(|merge| add(merge.as_bytes()));
        add(&[find::<bool>(file, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true).into()]);
        Ok(base::hash::hash_bytes(&bytes))
    }
}

fn same_length(key: &str, found: usize, expected: usize) -> Reason<()> {
    if found == expected { Ok(()) } else { Err(format!("{key} has {found} entries for {expected} tokens")) }
}

impl Spaces {
    /// The steps; spaces become marks in the end.
    fn steps(&self) -> Vec<Normal> {
        let mark = SPACE_MARK.to_string();
        let mut steps: Vec<Normal> = self.charsmap.iter().cloned().map(Normal::Charsmap).collect();
        if self.collapses {
            steps.push(Normal::Collapse);
        }
        if self.prepends {
            steps.push(Normal::Prepend(mark.clone()));
        }
        steps.push(Normal::Replace(" ".to_owned(), mark));
        steps
    }
}
