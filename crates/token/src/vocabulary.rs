//! The vocabulary: ids and their bytes, merges, and the encoding of one pre-token into ids.
//! Knows bytes and ids; must not know text, special tokens or files.

use std::collections::HashMap;

use crate::bpe::{self, Merges};
use crate::hash::{BuildWordHasher, hash_word};

/// Words up to this many bytes are remembered in the cache; longer ones seldom come again.
const CACHED_BYTES_MAX: usize = 24;

/// Stands for the id of a byte that the vocabulary lacks.
pub(crate) const NO_ID: u32 = u32::MAX;

/// Byte-level merges with the ids of what they make, and the bytes of all ids.
pub(crate) struct Vocabulary {
    merges: Merges,
    /// The id of each symbol of `merges`; empty when each symbol is its own id.
    ids: Vec<u32>,
    /// Tokens that count where a whole word spells them, though merging does not make them.
    whole_words: HashMap<Box<[u8]>, u32, BuildWordHasher>,
    /// Bytes without an id, which are passed over.
    absent: Option<Box<[bool; 256]>>,
    /// Id `i` stands for `bytes[starts[i]..starts[i + 1]]`; an id that does not exist for nothing.
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

/// What [`Vocabulary::new`] makes one of.
pub(crate) struct Parts {
    pub merges: Merges,
    /// The id of each symbol; [`NO_ID`] for bytes that have none.
    pub ids: Vec<u32>,
    /// The bytes of each id, special tokens included; empty where there is no such id.
    pub texts: Vec<Vec<u8>>,
    /// Tokens that count where a whole word spells them.
    pub whole_words: Vec<(Vec<u8>, u32)>,
}

/// Buffers and the word cache of one encoding thread.
#[derive(Default)]
pub(crate) struct Scratch {
    cache: WordCache,
    merging: bpe::Scratch,
    present: Vec<u8>,
}

impl Vocabulary {
    pub(crate) fn new(parts: Parts) -> Vocabulary {
        let is_identity = parts.ids.iter().enumerate().all(|(symbol, &id)| symbol == id as usize);
        let mut absent = [false; 256];
        for (byte, id) in parts.ids.iter().take(256).enumerate() {
            absent[byte] = *id == NO_ID;
        }
        let mut starts = vec![0];
        starts.extend(parts.texts.iter().scan(0, |end, text| {
            *end += text.len();
            Some(*end)
        }));
        Vocabulary {
            merges: parts.merges,
            ids: if is_identity { Vec::new() } else { parts.ids },
            whole_words: parts.whole_words.into_iter().map(|(word, id)| (word.into(), id)).collect(),
            absent: absent.contains(&true).then(|| Box::new(absent)),
            bytes: parts.texts.concat(),
            starts,
        }
    }

    /// One more than the highest id.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of an id; `None` where there is no such id.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = (*self.starts.get(id as usize)?, *self.starts.get(id as usize + 1)?);
        (start < end).then(|| &self.bytes[start..end])
    }

    /// Appends the ids of one pre-token.
    #[inline]
    pub(crate) fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if word.len() > CACHED_BYTES_MAX {
            return self.append_word(word, scratch, ids);
        }
        let hash = hash_word(word);
        if scratch.cache.append(hash, word, ids) {
            return;
        }
        let start = ids.len();
        self.append_word(word, scratch, ids);
        scratch.cache.insert(hash, word, &ids[start..]);
    }

    fn append_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if !self.whole_words.is_empty()
            && let Some(&id) = self.whole_words.get(word)
        {
            return ids.push(id);
        }
        let start = ids.len();
        match &self.absent {
            Some(absent) if word.iter().any(|&byte| absent[usize::from(byte)]) => {
                scratch.present.clear();
                scratch.present.extend(word.iter().filter(|&&byte| !absent[usize::from(byte)]));
                self.merges.append(&scratch.present, &mut scratch.merging, ids);
            }
            _ => self.merges.append(word, &mut scratch.merging, ids),
        }
        if !self.ids.is_empty() {
            ids[start..].iter_mut().for_each(|symbol| *symbol = self.ids[*symbol as usize]);
        }
    }
}

/// Words met before and their ids. Emptied when half full, so that its memory is bounded.
#[derive(Default)]
struct WordCache {
    slots: Vec<Slot>,
    filled: usize,
    words: Vec<u8>,
    ids: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u64,
    word_start: u32,
    ids_start: u32,
    word_bytes: u8,
    ids_count: u8,
}

impl WordCache {
    const SLOTS: usize = 1 << 15;

    #[inline]
    fn append(&self, hash: u64, word: &[u8], ids: &mut Vec<u32>) -> bool {
        if self.slots.is_empty() {
            return false;
        }
        let mut at = hash as usize & (Self::SLOTS - 1);
        loop {
            let slot = self.slots[at];
            if slot.word_bytes == 0 {
                return false;
            }
            let start = slot.word_start as usize;
            if slot.hash == hash && self.words[start..start + usize::from(slot.word_bytes)] == *word {
                let start = slot.ids_start as usize;
                ids.extend_from_slice(&self.ids[start..start + usize::from(slot.ids_count)]);
                return true;
            }
            at = (at + 1) & (Self::SLOTS - 1);
        }
    }

    fn insert(&mut self, hash: u64, word: &[u8], ids: &[u32]) {
        if self.filled * 2 >= self.slots.len() {
            self.slots.clear();
            self.slots.resize(Self::SLOTS, Slot::default());
            self.words.clear();
            self.ids.clear();
            self.filled = 0;
        }
        let mut at = hash as usize & (Self::SLOTS - 1);
        while self.slots[at].word_bytes != 0 {
            at = (at + 1) & (Self::SLOTS - 1);
        }
        self.slots[at] = Slot {
            hash,
            word_start: self.words.len() as u32,
            ids_start: self.ids.len() as u32,
            word_bytes: word.len() as u8,
            ids_count: ids.len() as u8,
        };
        self.words.extend_from_slice(word);
        self.ids.extend_from_slice(ids);
        self.filled += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::Merge;

    fn vocabulary(rules: &[Merge], shift: u32) -> Vocabulary {
        let (merges, names) = Merges::new(rules);
        let ids: Vec<u32> = names.iter().map(|name| name + shift).collect();
        let mut texts = vec![Vec::new(); shift as usize];
        texts.extend((0..merges.len() as u32).map(|symbol| merges.bytes(symbol).to_vec()));
        Vocabulary::new(Parts { merges, ids, texts, whole_words: vec![(b"77".to_vec(), 5)] })
    }

    #[test]
    fn the_cache_forgets_when_full_and_stays_right() {
        let merge = Merge { pair: (u32::from(b'1'), u32::from(b'2')), made: 256 };
        for shift in [0, 1000] {
            let vocabulary = vocabulary(&[merge], shift);
            let mut scratch = Scratch::default();
            for _ in 0..2 {
                for number in 0..40_000 {
                    let (word, mut ids, mut fresh) = (format!("{number}"), Vec::new(), Vec::new());
                    vocabulary.encode_word(word.as_bytes(), &mut scratch, &mut ids);
                    vocabulary.append_word(word.as_bytes(), &mut Scratch::default(), &mut fresh);
                    assert_eq!(ids, fresh);
                    let text: Vec<&[u8]> = ids.iter().filter_map(|&id| vocabulary.bytes(id)).collect();
                    assert!(number == 77 || text.concat() == word.as_bytes(), "{number}: {ids:?}");
                }
            }
            assert!(scratch.cache.filled <= WordCache::SLOTS / 2);
        }
    }
}
