//! The merges as tables, and the splitting of one pre-token into ids.
//! Knows bytes and ids; must not know text, special tokens or files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::hash_word;
use crate::train::Pair;
use crate::trie::{NO_TOKEN, Trie};

/// Words up to this many bytes are remembered in the cache; longer ones seldom come again.
const CACHED_BYTES_MAX: usize = 24;

const NO_RANK: u32 = u32::MAX;
const NO_NODE: u32 = u32::MAX;

/// Byte-level merges: symbols 0 to 255 are the bytes, symbol 256 + i is what merge i makes.
pub(crate) struct Merges {
    pairs: Vec<Pair>,
    table: PairTable,
    bytes: Vec<u8>,
    /// Symbol `s` stands for `bytes[starts[s]..starts[s + 1]]`.
    starts: Vec<usize>,
    trie: Trie,
    /// For each symbol the longest other symbol that its bytes begin with, or [`NO_TOKEN`].
    shorter: Vec<u32>,
    /// True if each symbol's bytes encode to that symbol alone, as training makes sure. Only then does the search
    /// among symbols give what merging gives.
    consistent: bool,
}

/// Buffers and the word cache of one encoding thread.
pub(crate) struct Scratch {
    cache: WordCache,
    word: Vec<u32>,
    dead_ends: Vec<u64>,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

/// One symbol of a long word, in a doubly linked list.
#[derive(Clone, Copy)]
struct Node {
    symbol: u32,
    previous: u32,
    next: u32,
}

impl Merges {
    /// Tables for `pairs`. A pair that names a symbol which no earlier merge made gives its index as the error.
    pub(crate) fn new(pairs: Vec<Pair>) -> Result<Merges, usize> {
        let mut bytes: Vec<u8> = (0..=255).collect();
        let mut starts: Vec<usize> = (0..=256).collect();
        for (index, &(left, right)) in pairs.iter().enumerate() {
            if left.max(right) as usize >= 256 + index {
                return Err(index);
            }
            for symbol in [left as usize, right as usize] {
                bytes.extend_from_within(starts[symbol]..starts[symbol + 1]);
            }
            starts.push(bytes.len());
        }
        let table = PairTable::new(&pairs);
        let token = |symbol: usize| &bytes[starts[symbol]..starts[symbol + 1]];
        let trie = Trie::new((0..256 + pairs.len()).map(token));
        let shorter = (0..256 + pairs.len()).map(|symbol| {
            let bytes = token(symbol);
            trie.longest(&bytes[..bytes.len() - 1])
        });
        let shorter = shorter.collect();
        let mut merges = Merges { pairs, table, bytes, starts, trie, shorter, consistent: true };
        merges.consistent = merges.is_consistent();
        Ok(merges)
    }

    /// The number of symbols: 256 and the merges.
    pub(crate) fn len(&self) -> usize {
        256 + self.pairs.len()
    }

    pub(crate) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The bytes that a symbol below [`Merges::len`] stands for.
    pub(crate) fn bytes(&self, symbol: u32) -> &[u8] {
        &self.bytes[self.starts[symbol as usize]..self.starts[symbol as usize + 1]]
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
        if self.consistent {
            self.search(word, &mut scratch.dead_ends, ids);
        } else {
            self.merge_by_queue(word, scratch);
            ids.extend_from_slice(&scratch.word);
        }
    }

    /// Finds the one sequence of symbols in which all neighbours are stable: that is what merging gives, since
    /// whether a merge crosses a border is decided by the symbols left and right of it alone.
    ///
    /// Takes the longest symbol that is stable beside the one before it, shorter ones when there is no way on, and steps
    /// back where none is left; places from which there is no way on are noted, so none is left twice.
    fn search(&self, word: &[u8], dead_ends: &mut Vec<u64>, ids: &mut Vec<u32>) {
        dead_ends.clear();
        let (first, mut position) = (ids.len(), 0);
        let mut candidate = self.trie.longest(word);
        while position < word.len() {
            while candidate != NO_TOKEN {
                let end = position + self.length(candidate);
                let is_dead = dead_ends.get(end / 64).is_some_and(|bits| bits >> (end % 64) & 1 == 1);
                if !is_dead && (ids.len() == first || self.is_stable(ids[ids.len() - 1], candidate)) {
                    break;
                }
                candidate = self.shorter[candidate as usize];
            }
            if candidate != NO_TOKEN {
                ids.push(candidate);
                position += self.length(candidate);
                candidate = self.trie.longest(&word[position..]);
            } else {
                if dead_ends.len() <= position / 64 {
                    dead_ends.resize(position / 64 + 1, 0);
                }
                dead_ends[position / 64] |= 1 << (position % 64);
                assert!(ids.len() > first, "a word always has an encoding");
                let last = ids.pop().expect("a symbol of this word: just asserted");
                position -= self.length(last);
                candidate = self.shorter[last as usize];
            }
        }
    }

    #[inline]
    fn length(&self, symbol: u32) -> usize {
        self.starts[symbol as usize + 1] - self.starts[symbol as usize]
    }

    /// Would merging leave `left` and `right` as they are when they stand side by side?
    ///
    /// Merging builds both up from bytes, in order of rank. At any time the border lies between the last part of `left`
    /// and the first part of `right` that exist then. Taking both apart again, the later merge first, visits all such
    /// pairs of parts; a merge across the border would have come if its rank is lower than that of the merges which
    /// consume the two parts. When it is equal, the leftmost place goes first: inside `left`, else across the border.
    fn is_stable(&self, mut left: u32, mut right: u32) -> bool {
        // The rank of the merge that consumes the part on this side; a part that is never consumed has none.
        let (mut left_consumed, mut right_consumed) = (NO_RANK, NO_RANK);
        loop {
            let across = self.table.rank((left, right));
            if across != NO_RANK && across < left_consumed && across <= right_consumed {
                return false;
            }
            // The symbol of the higher number is the later merge; bytes are not merges.
            if left.max(right) < 256 {
                return true;
            }
            if left > right {
                left_consumed = left - 256;
                left = self.pairs[left_consumed as usize].1;
            } else {
                right_consumed = right - 256;
                right = self.pairs[right_consumed as usize].0;
            }
        }
    }

    /// Does merging the bytes of each symbol give that symbol?
    fn is_consistent(&self) -> bool {
        let mut scratch = Scratch::default();
        (0..self.len() as u32).all(|symbol| {
            self.merge_by_queue(self.bytes(symbol), &mut scratch);
            scratch.word == [symbol]
        })
    }

    /// Merges with a queue ordered by (rank, position): n log n, whatever the word.
    fn merge_by_queue(&self, bytes: &[u8], scratch: &mut Scratch) {
        let Scratch { word, nodes, queue, .. } = scratch;
        let count = bytes.len() as u32;
        nodes.clear();
        nodes.extend(bytes.iter().enumerate().map(|(index, &byte)| {
            let index = index as u32;
            let next = if index + 1 < count { index + 1 } else { NO_NODE };
            Node { symbol: u32::from(byte), previous: index.wrapping_sub(1), next }
        }));
        queue.clear();
        for index in 1..count {
            self.queue_pair(nodes, queue, index - 1, index);
        }
        while let Some(Reverse((rank, left, right))) = queue.pop() {
            // An entry is stale when either side has been merged since: then the two are no longer this pair.
            let [left_node, right_node] = [nodes[left as usize], nodes[right as usize]];
            let stale =
                left_node.next != right || self.pairs[rank as usize] != (left_node.symbol, right_node.symbol);
            if stale {
                continue;
            }
            nodes[left as usize].symbol = 256 + rank;
            nodes[left as usize].next = right_node.next;
            nodes[right as usize].next = left;
            if right_node.next != NO_NODE {
                nodes[right_node.next as usize].previous = left;
                self.queue_pair(nodes, queue, left, right_node.next);
            }
            if left_node.previous != NO_NODE {
                self.queue_pair(nodes, queue, left_node.previous, left);
            }
        }
        word.clear();
        let mut index = 0;
        while index != NO_NODE {
            let node = nodes[index as usize];
            word.push(node.symbol);
            index = node.next;
        }
    }

    fn queue_pair(
        &self,
        nodes: &[Node],
        queue: &mut BinaryHeap<Reverse<(u32, u32, u32)>>,
        left: u32,
        right: u32,
    ) {
        let rank = self.table.rank((nodes[left as usize].symbol, nodes[right as usize].symbol));
        if rank != NO_RANK {
            queue.push(Reverse((rank, left, right)));
        }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            cache: WordCache::new(),
            word: Vec::new(),
            dead_ends: Vec::new(),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
        }
    }
}

/// Pair → rank by open addressing, at most half full; byte pairs, the most asked for, in a flat table. Most pairs asked
/// for are no merges: one bit by their hash, in a filter small enough for the inner caches, tells so nearly always.
struct PairTable {
    byte_pairs: Vec<u32>,
    filter: Vec<u64>,
    filter_shift: u32,
    slots: Vec<(u64, u32)>,
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

impl PairTable {
    fn new(pairs: &[Pair]) -> PairTable {
        let size = (pairs.len() * 2).next_power_of_two().max(16);
        let mut table = PairTable {
            byte_pairs: vec![NO_RANK; 1 << 16],
            filter: vec![0; size / 8],
            filter_shift: 64 - (size * 8).trailing_zeros(),
            slots: vec![(EMPTY, NO_RANK); size],
            shift: 64 - size.trailing_zeros(),
        };
        for (rank, &(left, right)) in pairs.iter().enumerate() {
            if left.max(right) < 256 {
                let slot = &mut table.byte_pairs[(left << 8 | right) as usize];
                *slot = (*slot).min(rank as u32);
                continue;
            }
            let key = u64::from(left) << 32 | u64::from(right);
            let bit = (spread(key) >> table.filter_shift) as usize;
            table.filter[bit / 64] |= 1 << (bit % 64);
            let mut at = (spread(key) >> table.shift) as usize;
            while table.slots[at].0 != EMPTY && table.slots[at].0 != key {
                at = (at + 1) & (size - 1);
            }
            if table.slots[at].0 == EMPTY {
                table.slots[at] = (key, rank as u32);
            }
        }
        table
    }

    #[inline]
    fn rank(&self, (left, right): Pair) -> u32 {
        if left.max(right) < 256 {
            return self.byte_pairs[(left << 8 | right) as usize];
        }
        let key = u64::from(left) << 32 | u64::from(right);
        let hash = spread(key);
        let bit = (hash >> self.filter_shift) as usize;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return NO_RANK;
        }
        let mut at = (hash >> self.shift) as usize;
        loop {
            let (found, rank) = self.slots[at];
            if found == key || found == EMPTY {
                return rank;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// Multiplicative hashing: the upper bits depend on the whole key.
#[inline]
fn spread(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Words met before and their ids. Emptied when half full, so that its memory is bounded.
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

    fn new() -> WordCache {
        WordCache { slots: Vec::new(), filled: 0, words: Vec::new(), ids: Vec::new() }
    }

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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::train::{MergeLimits, WordCounts, learn_merges};
    use proptest::prelude::*;

    fn by_queue(merges: &Merges, word: &[u8]) -> Vec<u32> {
        let mut scratch = Scratch::default();
        merges.merge_by_queue(word, &mut scratch);
        scratch.word
    }

    fn encoded(merges: &Merges, word: &[u8]) -> Vec<u32> {
        let (mut scratch, mut ids) = (Scratch::default(), vec![7]);
        merges.encode_word(word, &mut scratch, &mut ids);
        // Once more, so that short words come from the cache.
        merges.encode_word(word, &mut scratch, &mut ids);
        let (first, second) = ids[1..].split_at((ids.len() - 1) / 2);
        assert_eq!(first, second);
        first.to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]
        /// Two or three letters only: runs and overlaps everywhere, where the order of merges matters most.
        #[test]
        fn search_equals_merging(
            texts in prop::collection::vec("[ab]{1,30}|[abc]{1,40}|(ab|a){1,20}", 1..12),
            words in prop::collection::vec("[abc]{1,80}|a{1,100}|(aab|ba){1,30}", 1..8),
        ) {
            let mut counts = WordCounts::default();
            counts.add(&texts, 1, 1);
            let limits =
                MergeLimits { merges_max: 40, count_min: 1, token_bytes_max: 12, special_tokens: vec![] };
            let merges = Merges::new(learn_merges(counts, &limits)).unwrap();
            prop_assert!(merges.consistent, "training only makes tokens that encode to themselves");
            for word in words {
                prop_assert_eq!(encoded(&merges, word.as_bytes()), by_queue(&merges, word.as_bytes()));
            }
        }
    }

    #[test]
    fn merges_that_training_would_not_make_are_followed_all_the_same() {
        let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
        // `abc` can never come out, since `bc` is merged before `ab`.
        let merges = Merges::new(vec![(b, c), (a, b), (257, c)]).unwrap();
        assert!(!merges.consistent);
        assert_eq!(encoded(&merges, b"abc"), [a, 256]);
        assert_eq!(encoded(&merges, b"aab"), [a, 257]);
        assert_eq!(Merges::new(vec![(a, b), (258, c)]).err(), Some(1));
    }

    #[test]
    fn the_cache_forgets_when_full_and_stays_right() {
        let merges = Merges::new(vec![(u32::from(b'1'), u32::from(b'2'))]).unwrap();
        let mut scratch = Scratch::default();
        for _ in 0..2 {
            for number in 0..40_000 {
                let (word, mut ids) = (format!("{number}"), Vec::new());
                merges.encode_word(word.as_bytes(), &mut scratch, &mut ids);
                assert_eq!(ids, by_queue(&merges, word.as_bytes()));
            }
        }
        assert!(scratch.cache.filled <= WordCache::SLOTS / 2);
    }
}
