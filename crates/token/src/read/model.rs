//! The `model` of a `tokenizer.json`: its vocabulary and what makes ids of words. Must not know what stands beside it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ID_MAX, Ids, KINDS, Reason, Spelling, Text, byte_letters, shown, spelt_bytes};
use crate::bpe::{Merge, Merges};
use crate::merged::{Absent, Merged, Merging, Pieces};
use crate::split::Borders;
use crate::unigram::{Unigram, Unknown};
use crate::vocabulary;
use crate::vocabulary::NO_ID;
use crate::words::Words;

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// What the file says of its model.
pub(super) struct Model<'a> {
    kind: Kind<'a>,
    pub vocabulary: Vec<(Cow<'a, str>, u32)>,
    /// The fields without tables.
    fields: HashMap<&'a str, Value>,
}

enum Kind<'a> {
    Merges(Vec<Pair<'a>>),
    Words,
    /// A score for each token.
    Scores(Vec<f64>),
}

impl<'a> Model<'a> {
    pub(super) fn read(raw: &HashMap<&'a str, &'a RawValue>) -> Reason<Model<'a>> {
        let bad = |error: serde_json::Error| format!("model: {error}");
        let tables = ["vocab", "merges"];
        let fields = raw.iter().filter(|(name, _)| !tables.contains(name));
        let fields: HashMap<&str, Value> = fields
            .map(|(name, raw)| Ok((*name, serde_json::from_str(raw.get()).map_err(bad)?)))
            .collect::<Reason<_>>()?;
        let kind = fields.get("type").unwrap_or(&Value::Null);
        let kind = match kind.as_str() {
            Some("BPE") => Kind::Merges(read_merges(raw)?),
            // Files of 2019 to 2021 leave the type out; only BPE has merges.
            None if kind.is_null() && raw.contains_key("merges") => Kind::Merges(read_merges(raw)?),
            Some("WordPiece") => Kind::Words,
            Some("Unigram") => return Model::scored(raw, fields),
            _ => return Err(format!("model.type is {}; {KINDS}", shown(kind))),
        };
        let vocabulary = raw.get("vocab").map_or("null", |raw| raw.get());
        if !vocabulary.trim_start().starts_with('{') {
            return Err("model.vocab is not an object".into());
        }
        let Entries(vocabulary) = serde_json::from_str(vocabulary).map_err(|error| plain(&error))?;
        let model = Model { kind, vocabulary, fields };
        model.check_ids()?;
        Ok(model)
    }

    /// A Unigram model: its vocabulary is a list, each token's id its place.
    fn scored(raw: &HashMap<&'a str, &'a RawValue>, fields: HashMap<&'a str, Value>) -> Reason<Model<'a>> {
        let vocabulary = raw.get("vocab").map_or("null", |raw| raw.get());
        let entries: Vec<(Text<'a>, f64)> = serde_json::from_str(vocabulary)
            .map_err(|error| format!("model.vocab is no list of texts and scores: {}", plain(&error)))?;
        let (texts, scores): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|(Text(text), score)| (text, score)).unzip();
        Ok(Model { kind: Kind::Scores(scores), vocabulary: texts.into_iter().zip(0..).collect(), fields })
    }

    /// Tables grow with the highest id, so it may not be far beyond their number.
    fn check_ids(&self) -> Reason<()> {
        let limit = (self.vocabulary.len() as u64 * 16 + (1 << 16)).min(ID_MAX);
        match self.vocabulary.iter().find(|(_, id)| u64::from(*id) > limit) {
            Some((text, id)) => Err(format!(
                "model.vocab gives {text:?} the id {id}, though it has {} tokens only; the file is damaged",
                self.vocabulary.len()
            )),
            None => Ok(()),
        }
    }

    fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    /// The model, and the borders that its tokens do not cross.
    pub(super) fn build(
        &self,
        ids: &Ids<'_>,
        spelling: &Spelling,
    ) -> Reason<(vocabulary::Model, Option<Borders>)> {
        match (&self.kind, spelling) {
            (Kind::Merges(merges), Spelling::Bytes) => {
                self.check_merges()?;
                Ok((vocabulary::Model::Merged(self.byte_level(ids, merges)?), None))
            }
            (Kind::Merges(merges), Spelling::Pieces { .. }) => {
                self.check_merges()?;
                self.characters(ids, merges)
            }
            (Kind::Words, Spelling::Words { .. }) => {
                Ok((vocabulary::Model::Words(self.word_pieces(ids)?), None))
            }
            (Kind::Scores(scores), Spelling::Pieces { .. }) => self.unigram(ids, scores),
            _ => Err(format!("its model and its decoder are of different kinds; {KINDS}")),
        }
    }

    fn check_merges(&self) -> Reason<()> {
        for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
            let value = self.field(name);
            if !(value.is_null() || value == "") {
                return Err(format!("model.{name} is {}; {KINDS}", shown(value)));
            }
        }
        match self.field("dropout").as_f64() {
            Some(dropout) if dropout != 0.0 => Err(format!(
                "model.dropout is {dropout}, which makes ids by chance; set it to null in the file for ids that stay"
            )),
            _ => Ok(()),
        }
    }

    fn byte_level(&self, ids: &Ids<'_>, merges: &[Pair<'_>]) -> Reason<Merged> {
        if *self.field("byte_fallback") == true {
            return Err(
                "model.byte_fallback is true, which does not go with the pre_tokenizer ByteLevel".into()
            );
        }
        let merged = byte_level(ids, merges)?;
        let lacking = merged.lacking_bytes();
        if lacking && !self.field("unk_token").is_null() {
            return Err(format!(
                "model.unk_token is {}, and the vocabulary lacks some of the 256 bytes that it would stand for; {KINDS}",
                shown(self.field("unk_token"))
            ));
        }
        Ok(if *self.field("ignore_merges") == true {
            with_whole_words(merged, &self.vocabulary)
        } else {
            merged
        })
    }

    fn characters(&self, ids: &Ids<'_>, merges: &[Pair<'_>]) -> Reason<(vocabulary::Model, Option<Borders>)> {
        for (left, right) in merges {
            let made = format!("{left}{right}");
            if let Some(missing) =
                [left.as_ref(), right.as_ref(), &made].iter().find(|text| !ids.contains_key(**text))
            {
                return Err(missing_token(missing));
            }
        }
        let falls_back = *self.field("byte_fallback") == true;
        let byte_ids = if falls_back { byte_ids(ids) } else { None };
        let unknown = self.field("unk_token").as_str();
        let unknown = unknown
            .map(|text| {
                let id = ids
                    .get(text)
                    .ok_or_else(|| format!("model.unk_token is {text:?}, which model.vocab lacks"))?;
                Ok::<_, String>((*id, *self.field("fuse_unk") == true))
            })
            .transpose()?;
        let ignores_merges = *self.field("ignore_merges") == true;
        let pieces = Pieces {
            tokens: self.vocabulary.iter().map(|(text, id)| (Cow::Borrowed(text.as_ref()), *id)).collect(),
            merging: Merging::Pairs(
                merges
                    .iter()
                    .map(|(left, right)| (Cow::Borrowed(left.as_ref()), Cow::Borrowed(right.as_ref())))
                    .collect(),
            ),
            byte_ids: byte_ids.as_ref(),
            unknown,
            ignores_merges,
        };
        let borders = (!ignores_merges).then(|| Borders::of(ids.keys().copied())).flatten();
        Ok((vocabulary::Model::Merged(Merged::of_characters(&pieces)), borders))
    }

    fn unigram(&self, ids: &Ids<'_>, scores: &[f64]) -> Reason<(vocabulary::Model, Option<Borders>)> {
        let unknown = self.field("unk_id");
        let unknown = unknown.as_u64().filter(|&id| id < scores.len() as u64);
        let unknown = unknown.ok_or_else(|| {
            format!("model.unk_id is {}, expected the id of a token", shown(self.field("unk_id")))
        })? as u32;
        let byte_ids = if *self.field("byte_fallback") == true { byte_ids(ids) } else { None };
        let tokens: Vec<(&str, f64, u32)> = self
            .vocabulary
            .iter()
            .zip(scores)
            .map(|((text, id), &score)| (text.as_ref(), score, *id))
            .collect();
        let unknown = byte_ids.map_or(Unknown::Id(unknown), |ids| Unknown::Bytes(Box::new(ids)));
        let borders = Borders::of(ids.keys().copied());
        Ok((vocabulary::Model::Unigram(Unigram::new(&tokens, unknown)), borders))
    }

    fn word_pieces(&self, ids: &Ids<'_>) -> Reason<Words> {
        let prefix = self.field("continuing_subword_prefix").as_str().unwrap_or("##");
        let unknown = self.field("unk_token").as_str().unwrap_or("[UNK]");
        let unknown = ids
            .get(unknown)
            .ok_or_else(|| format!("model.unk_token is {unknown:?}, which model.vocab lacks"))?;
        let limit = self.field("max_input_chars_per_word").as_u64().unwrap_or(100);
        let all = self.vocabulary.iter().map(|(text, id)| (text.as_ref(), *id));
        // A word that spells the prefix itself is matched with it, as any other.
        let first: Vec<(&str, u32)> = all.clone().collect();
        let inner: Vec<_> = all.filter_map(|(text, id)| Some((text.strip_prefix(prefix)?, id))).collect();
        Ok(Words::new(&first, &inner, *unknown, usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// Byte-level merges for tokens spelt in letters for bytes.
pub(crate) fn byte_level(ids: &Ids<'_>, merges: &[Pair<'_>]) -> Reason<Merged> {
    let mut symbols = Symbols::new(ids);
    let mut rules = Vec::with_capacity(merges.len());
    let mut made = String::new();
    for ((left, right), rank) in merges.iter().zip(0..) {
        made.clear();
        made.push_str(left);
        made.push_str(right);
        let pair = (symbols.number(left)?, symbols.number(right)?);
        rules.push(Merge { pair, made: symbols.number(&made)?, rank });
    }
    // Of those that stand twice the last one counts.
    let mut seen: HashSet<_, crate::hash::BuildWordHasher> = HashSet::default();
    rules.reverse();
    rules.retain(|rule| seen.insert(rule.pair));
    rules.reverse();
    let (merges, names) = Merges::new(&rules);
    let ids: Vec<u32> = names.iter().map(|&name| symbols.ids[name as usize]).collect();
    let absent = if ids.contains(&NO_ID) { Absent::DroppedBytes } else { Absent::Nothing };
    Ok(Merged::new(merges, ids, absent))
}

/// Lets words that are tokens count as those, though no merge makes them.
pub(crate) fn with_whole_words<T: AsRef<str>>(merged: Merged, vocabulary: &[(T, u32)]) -> Merged {
    let made = merged.made_ids();
    let others = vocabulary.iter().filter(|(_, id)| !made.contains(id));
    let words = others.filter_map(|(text, id)| Some((spelt_bytes(text.as_ref())?, *id))).collect();
    merged.with_whole_words(words)
}

/// The ids of the tokens for bytes, if all 256 are there.
fn byte_ids(ids: &Ids<'_>) -> Option<[u32; 256]> {
    let mut byte_ids = [NO_ID; 256];
    for (byte, id) in byte_ids.iter_mut().enumerate() {
        *id = *ids.get(format!("<0x{byte:02X}>").as_str())?;
    }
    Some(byte_ids)
}

fn missing_token(text: &str) -> String {
    format!("model.merges needs the token {text:?}, which model.vocab lacks; the file is damaged")
}

/// Numbers for the tokens that merges name: the bytes first, then each token by its place among the ids.
struct Symbols<'a> {
    vocab: &'a Ids<'a>,
    /// The numbers of tokens by their ids, or [`NO_ID`].
    numbers: Vec<u32>,
    ids: Vec<u32>,
}

impl<'a> Symbols<'a> {
    fn new(vocab: &'a Ids<'a>) -> Symbols<'a> {
        let letters = byte_letters().map(String::from);
        let ids: Vec<u32> =
            letters.iter().map(|letter| vocab.get(letter.as_str()).copied().unwrap_or(NO_ID)).collect();
        let highest = vocab.values().max().map_or(0, |&id| id as usize);
        let mut numbers = vec![NO_ID; highest + 1];
        for (&id, number) in ids.iter().zip(0..).filter(|(id, _)| **id != NO_ID) {
            numbers[id as usize] = number;
        }
        Symbols { vocab, numbers, ids }
    }

    fn number(&mut self, text: &str) -> Reason<u32> {
        let id = *self.vocab.get(text).ok_or_else(|| missing_token(text))?;
        let number = &mut self.numbers[id as usize];
        if *number == NO_ID {
            *number = self.ids.len() as u32;
            self.ids.push(id);
        }
        Ok(*number)
    }
}

/// A vocabulary's entries, in the order of the file.
struct Entries<'a>(Vec<(Cow<'a, str>, u32)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, Value>()? {
                    match id.as_u64().filter(|&id| id <= ID_MAX) {
                        Some(id) => entries.push((text, id as u32)),
                        None => {
                            return Err(A::Error::custom(format!(
                                "model.vocab gives {text:?} the id {id}, expected a number up to {ID_MAX}"
                            )));
                        }
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// The merges: pairs, or texts with a space between two tokens.
struct Pairs<'a>(Vec<Pair<'a>>);

fn read_merges<'a>(raw: &HashMap<&'a str, &'a RawValue>) -> Reason<Vec<Pair<'a>>> {
    let merges = raw.get("merges").map_or("null", |raw| raw.get());
    if !merges.trim_start().starts_with('[') {
        return Err("model.merges is not an array".into());
    }
    serde_json::from_str(merges).map(|Pairs(pairs)| pairs).map_err(|error| plain(&error))
}

/// What an error says, without the place, which would be one within the model.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an array of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut merges: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                let mut index = 0;
                while let Some(Sides(sides)) = merges.next_element()? {
                    match sides {
                        Ok(pair) => pairs.push(pair),
                        Err(text) if text.starts_with("#version") => {}
                        Err(text) => {
                            return Err(A::Error::custom(format!(
                                "model.merges[{index}] is {text:?}, expected two tokens: \"a b\" or [\"a\", \"b\"]"
                            )));
                        }
                    }
                    index += 1;
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}

/// One merge, or what stands in its place.
struct Sides<'a>(Result<Pair<'a>, Cow<'a, str>>);

impl<'de> Deserialize<'de> for Sides<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Sides<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("model.merges to hold pairs of tokens")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Sides<'de>, E> {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                Ok(Sides(pair.map(|(left, right)| (left.into(), right.into())).ok_or(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Sides<'de>, E> {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let owned = pair.map(|(left, right)| (left.to_owned().into(), right.to_owned().into()));
                Ok(Sides(owned.ok_or_else(|| Cow::Owned(text.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<Sides<'de>, A::Error> {
                let mut texts = Vec::with_capacity(2);
                while let Some(Text(text)) = sides.next_element()? {
                    texts.push(text);
                }
                let pair: Result<[Cow<'de, str>; 2], _> = texts.try_into();
                Ok(Sides(
                    pair.map(|[left, right]| (left, right)).map_err(|texts| Cow::Owned(texts.join(" "))),
                ))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
