//! The vocabulary: ids and their bytes, the model that makes ids of a word, and a cache of words.
//! Knows bytes and ids; must not know text, special tokens or files.

use crate::bpe;
use crate::hash::hash_word;
use crate::merged::Merged;
use crate::unigram::{Best, Unigram};
use crate::words::Words;

/// Words up to this many bytes are remembered in the cache; longer ones seldom come again.
const CACHED_BYTES_MAX: usize = 24;

/// Stands for an id that the vocabulary lacks.
pub(crate) const NO_ID: u32 = u32::MAX;

/// Ids with their bytes, and the model that makes ids of words.
pub(crate) struct Vocabulary {
    model: Model,
    /// Id `i` stands for `bytes[starts[i]..starts[i + 1]]`; an id that does not exist for nothing.
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

/// How the bytes of a word become ids.
pub(crate) enum Model {
    /// Byte-pair merges, of bytes or of characters.
    Merged(Merged),
    /// The longest pieces from left to right.
    Words(Words),
    /// The most probable pieces.
    Unigram(Unigram),
}

/// Buffers and the word cache of one encoding thread.
#[derive(Default)]
pub(crate) struct Scratch {
    cache: WordCache,
    pub(crate) merging: bpe::Scratch,
    pub(crate) bytes: Vec<u8>,
    pub(crate) symbols: Vec<u32>,
    pub(crate) best: Vec<Best>,
}

impl Vocabulary {
    /// A vocabulary of `tokens`, each an id and what it stands for. The last of several with one id counts.
    pub(crate) fn new<T: AsRef<[u8]>>(model: Model, mut tokens: Vec<(u32, T)>) -> Vocabulary {
        tokens.sort_by_key(|token| token.0);
        let ids = tokens.last().map_or(0, |token| token.0 as usize + 1);
        let (mut bytes, mut starts) = (Vec::new(), Vec::with_capacity(ids + 1));
        for (index, (id, text)) in tokens.iter().enumerate() {
            if tokens.get(index + 1).is_some_and(|next| next.0 == *id) {
                continue;
            }
            starts.resize(*id as usize + 1, bytes.len() as u32);
            bytes.extend_from_slice(text.as_ref());
        }
        starts.push(bytes.len() as u32);
        Vocabulary { model, bytes, starts }
    }

    /// One more than the highest id.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of an id; `None` where there is no such id.
    pub(crate) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = (*self.starts.get(id as usize)?, *self.starts.get(id as usize + 1)?);
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// Appends the ids of one word: a pre-token, or a piece of one that no token crosses.
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
        match &self.model {
            Model::Merged(model) => model.append(word, scratch, ids),
            Model::Words(model) => model.append(word, ids),
            Model::Unigram(model) => model.append(word, scratch, ids),
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
    use crate::bpe::{Merge, Merges};
    use crate::merged::Absent;

    fn vocabulary(rules: &[Merge], shift: u32) -> Vocabulary {
        let (merges, names) = Merges::new(rules);
        let ids: Vec<u32> = names.iter().map(|name| name + shift).collect();
        let tokens = ids.iter().zip(0..).map(|(&id, symbol)| (id, merges.bytes(symbol).to_vec())).collect();
        let merged = Merged::new(merges, ids, Absent::Nothing).with_whole_words(vec![(b"77".to_vec(), 5)]);
        Vocabulary::new(Model::Merged(merged), tokens)
    }

    #[test]
    fn the_cache_forgets_when_full_and_stays_right() {
        let merge = Merge { pair: (u32::from(b'1'), u32::from(b'2')), made: 256, rank: 0 };
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
