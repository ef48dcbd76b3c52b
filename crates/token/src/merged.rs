//! Words to ids by byte-pair merges: the bytes of byte-level vocabularies, or the characters of SentencePiece's, which are
//! merged of their bytes first. Knows merges, ids and bytes; must not know files or how texts are cut.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::bpe::{Merge, Merges};
use crate::hash::BuildWordHasher;
use crate::vocabulary::{NO_ID, Scratch};

/// The first rank of a file's own merges; those below make characters of their bytes.
const FIRST_RANK: u32 = 3;

/// Merges with the ids of what they make.
pub(crate) struct Merged {
    merges: Merges,
    /// The id of each symbol of `merges`, or [`NO_ID`]; empty when each symbol is its own id.
    ids: Vec<u32>,
    /// Tokens that count where a whole word spells them, though merging does not make them.
    whole_words: HashMap<Box<[u8]>, u32, BuildWordHasher>,
    absent: Absent,
}

/// What becomes of bytes or characters that have no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There are none.
    Nothing,
    /// They are passed over before anything is merged, byte by byte.
    DroppedBytes,
    /// They are passed over, character by character.
    Dropped,
    /// Each byte has an id of its own.
    Bytes,
    /// Each character is this id.
    Unknown(u32),
    /// Each run of characters is this id.
    FusedUnknown(u32),
}

impl Merged {
    /// `ids` are those of the symbols of `merges`.
    pub(crate) fn new(merges: Merges, ids: Vec<u32>, absent: Absent) -> Merged {
        let is_identity = ids.iter().enumerate().all(|(symbol, &id)| symbol == id as usize);
        Merged {
            merges,
            ids: if is_identity { Vec::new() } else { ids },
            whole_words: HashMap::default(),
            absent,
        }
    }

    /// Tokens that count where a whole word spells them, although merging makes others of it.
    pub(crate) fn with_whole_words(mut self, words: Vec<(Vec<u8>, u32)>) -> Merged {
        self.whole_words = words.into_iter().map(|(word, id)| (word.into(), id)).collect();
        self
    }

    /// Does a byte that occurs in UTF-8 (RFC 3629, section 1) lack an id?
    pub(crate) fn lacking_bytes(&self) -> bool {
        let occurs = |byte: usize| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
        (0..256).any(|byte| occurs(byte) && self.ids.get(byte) == Some(&NO_ID))
    }

    /// The ids that merging can make.
    pub(crate) fn made_ids(&self) -> HashSet<u32> {
        if self.ids.is_empty() {
            (0..self.merges.len() as u32).collect()
        } else {
            self.ids.iter().copied().collect()
        }
    }

    /// Merges of characters for the tokens of a SentencePiece vocabulary.
    pub(crate) fn of_characters(pieces: &Pieces<'_>) -> Merged {
        let (rules, symbols) = pieces.rules();
        let (merges, names) = Merges::new(&rules);
        let mut ids: Vec<u32> = names.iter().map(|&name| symbols.ids[name as usize]).collect();
        let absent = match (pieces.byte_ids, pieces.unknown) {
            (Some(byte_ids), _) => {
                for (id, &byte_id) in ids.iter_mut().zip(byte_ids) {
                    *id = if *id == NO_ID { byte_id } else { *id };
                }
                Absent::Bytes
            }
            (None, Some((id, true))) => Absent::FusedUnknown(id),
            (None, Some((id, false))) => Absent::Unknown(id),
            (None, None) => Absent::Dropped,
        };
        let mut whole_words = Vec::new();
        if pieces.ignores_merges {
            let merged: HashSet<u32> = ids.iter().copied().collect();
            let others = pieces.tokens.iter().filter(|(_, id)| !merged.contains(id));
            whole_words = others.map(|(text, id)| (text.as_bytes().to_vec(), *id)).collect();
        }
        Merged::new(merges, ids, absent).with_whole_words(whole_words)
    }

    /// Appends the ids of one word.
    pub(crate) fn append(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if !self.whole_words.is_empty()
            && let Some(&id) = self.whole_words.get(word)
        {
            return ids.push(id);
        }
        let start = ids.len();
        if self.absent == Absent::DroppedBytes {
            scratch.bytes.clear();
            scratch.bytes.extend(word.iter().filter(|&&byte| self.ids[usize::from(byte)] != NO_ID));
            self.merges.append(&scratch.bytes, &mut scratch.merging, ids);
        } else {
            self.merges.append(word, &mut scratch.merging, ids);
        }
        if self.ids.is_empty() {
            return;
        }
        let mut lacks = false;
        for symbol in &mut ids[start..] {
            let id = self.ids[*symbol as usize];
            lacks |= id == NO_ID;
            *symbol = if id == NO_ID { NO_ID - *symbol } else { id };
        }
        if lacks {
            self.replace_absent(start, scratch, ids);
        }
    }

    /// Puts what stands for absent characters in the place of their symbols, which are noted as [`NO_ID`] less their number.
    fn replace_absent(&self, start: usize, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        scratch.symbols.clear();
        scratch.symbols.extend_from_slice(&ids[start..]);
        ids.truncate(start);
        let mut follows_unknown = false;
        for &noted in &scratch.symbols {
            let symbol = NO_ID - noted;
            if symbol as usize >= self.merges.len() {
                ids.push(noted);
                follows_unknown = false;
                continue;
            }
            let bytes = self.merges.bytes(symbol);
            // A character may have become several symbols; its first byte is no continuation.
            let begins = bytes[0] & 0xc0 != 0x80;
            match self.absent {
                Absent::Bytes => ids.extend(bytes.iter().map(|&byte| self.ids[usize::from(byte)])),
                Absent::Unknown(id) if begins => ids.push(id),
                Absent::FusedUnknown(id) if begins && !follows_unknown => ids.push(id),
                _ => {}
            }
            follows_unknown = true;
        }
    }
}

/// A SentencePiece vocabulary of byte-pair merges.
pub(crate) struct Pieces<'a> {
    /// Texts and ids of the tokens that merging may make. The ids stay below 2³¹.
    pub tokens: Vec<(Cow<'a, str>, u32)>,
    pub merging: Merging<'a>,
    /// The ids of the 256 bytes, if characters without an id fall back to them.
    pub byte_ids: Option<&'a [u32; 256]>,
    /// The id of an unknown character, and whether a run of them is one.
    pub unknown: Option<(u32, bool)>,
    /// Does a word that is a token count as that token, whatever merging makes?
    pub ignores_merges: bool,
}

/// What may be merged, and what first.
pub(crate) enum Merging<'a> {
    /// These pairs of tokens, in this order. All of them and what they make are tokens.
    Pairs(Vec<(Cow<'a, str>, Cow<'a, str>)>),
    /// Any two neighbours that together are a token: the highest score first, one for each of the tokens.
    Scores(Vec<f32>),
}

/// The symbols that rules speak of, with their ids: first the bytes, then the beginnings of characters and the characters.
struct Symbols<'a> {
    numbers: HashMap<&'a [u8], u32, BuildWordHasher>,
    ids: Vec<u32>,
    characters: Vec<Merge>,
}

impl Pieces<'_> {
    fn rules(&self) -> (Vec<Merge>, Symbols<'_>) {
        let mut symbols = Symbols::new(self.tokens.iter().map(|(text, id)| (text.as_ref(), *id)));
        let mut rules = std::mem::take(&mut symbols.characters);
        match &self.merging {
            Merging::Pairs(pairs) => rules.extend(by_pairs(pairs, &symbols)),
            Merging::Scores(scores) => rules.extend(by_scores(&self.tokens, scores, &symbols)),
        }
        (rules, symbols)
    }
}

impl<'a> Symbols<'a> {
    fn new(tokens: impl Iterator<Item = (&'a str, u32)>) -> Symbols<'a> {
        const BYTES: [u8; 256] = {
            let mut bytes = [0; 256];
            let mut byte = 0;
            while byte < 256 {
                bytes[byte] = byte as u8;
                byte += 1;
            }
            bytes
        };
        let numbers = BYTES.chunks(1).zip(0..).collect();
        let mut symbols = Symbols { numbers, ids: vec![NO_ID; 256], characters: Vec::new() };
        for (text, id) in tokens {
            for (at, character) in text.char_indices().filter(|(_, character)| !character.is_ascii()) {
                symbols.add_character(&text.as_bytes()[at..at + character.len_utf8()]);
            }
            let number = symbols.number(text.as_bytes());
            symbols.ids[number as usize] = id;
        }
        symbols
    }

    fn number(&mut self, bytes: &'a [u8]) -> u32 {
        let next = self.ids.len() as u32;
        let number = *self.numbers.entry(bytes).or_insert(next);
        if number == next {
            self.ids.push(NO_ID);
        }
        number
    }

    /// The rules that make a character of its bytes, two or more, from left to right.
    fn add_character(&mut self, bytes: &'a [u8]) {
        if self.numbers.contains_key(bytes) {
            return;
        }
        let mut left = u32::from(bytes[0]);
        for end in 2..=bytes.len() {
            let known = self.ids.len();
            let made = self.number(&bytes[..end]);
            if made as usize == known {
                let pair = (left, u32::from(bytes[end - 1]));
                self.characters.push(Merge { pair, made, rank: end as u32 - 2 });
            }
            left = made;
        }
    }
}

/// Rules in the order of the pairs; of those that stand twice the last one counts, as in Hugging Face `tokenizers`.
fn by_pairs(pairs: &[(Cow<'_, str>, Cow<'_, str>)], symbols: &Symbols<'_>) -> Vec<Merge> {
    let mut text = Vec::new();
    let mut seen: HashSet<(u32, u32), BuildWordHasher> = HashSet::default();
    let rules = pairs.iter().enumerate().rev().filter_map(|(index, (left, right))| {
        let number = |text: &[u8]| symbols.numbers.get(text).copied();
        text.clear();
        text.extend_from_slice(left.as_bytes());
        text.extend_from_slice(right.as_bytes());
        let pair = (number(left.as_bytes())?, number(right.as_bytes())?);
        seen.insert(pair).then_some(Merge { pair, made: number(&text)?, rank: FIRST_RANK + index as u32 })
    });
    let mut rules: Vec<Merge> = rules.collect();
    rules.reverse();
    rules
}

/// A rule for each way to cut a token in two, ranked by the token's score.
fn by_scores(tokens: &[(Cow<'_, str>, u32)], scores: &[f32], symbols: &Symbols<'_>) -> Vec<Merge> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by(|&left, &right| scores[right].total_cmp(&scores[left]));
    let mut rules = Vec::with_capacity(tokens.len() * 2);
    let (mut rank, mut last) = (FIRST_RANK, f32::NAN);
    for token in order {
        let text = tokens[token].0.as_ref();
        if scores[token] != last {
            (rank, last) = (rank + 1, scores[token]);
        }
        let Some(&made) = symbols.numbers.get(text.as_bytes()) else { continue };
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.as_bytes().split_at(cut);
            if let (Some(&left), Some(&right)) = (symbols.numbers.get(left), symbols.numbers.get(right)) {
                rules.push(Merge { pair: (left, right), made, rank });
            }
        }
    }
    rules
}
