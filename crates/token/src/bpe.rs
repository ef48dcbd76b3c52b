//! The merges as tables, and the splitting of one pre-token into ids.
//! Knows bytes and ids; must not know text, special tokens or files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::hash_word;
use crate::train::Pair;

/// Words up to this many bytes are merged by scanning for the best pair, longer ones with a queue; words up to this
/// many bytes are also remembered in the cache.
const SHORT_BYTES_MAX: usize = 64;

const NO_RANK: u32 = u32::MAX;
const NO_NODE: u32 = u32::MAX;

/// Byte-level merges: symbols 0 to 255 are the bytes, symbol 256 + i is what merge i makes.
pub(crate) struct Merges {
    pairs: Vec<Pair>,
    table: PairTable,
    bytes: Vec<u8>,
    /// Symbol `s` stands for `bytes[starts[s]..starts[s + 1]]`.
    starts: Vec<usize>,
}

/// Buffers and the word cache of one encoding thread.
pub(crate) struct Scratch {
    cache: WordCache,
    word: Vec<u32>,
    ranks: Vec<u32>,
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
        Ok(Merges { pairs, table, bytes, starts })
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
        if word.len() > SHORT_BYTES_MAX {
            self.merge_long(word, scratch);
            ids.extend_from_slice(&scratch.word);
            return;
        }
        let hash = hash_word(word);
        if scratch.cache.append(hash, word, ids) {
            return;
        }
        self.merge_short(word, scratch);
        ids.extend_from_slice(&scratch.word);
        scratch.cache.insert(hash, word, &scratch.word);
    }

    /// Merges by scanning all neighbours for the lowest rank: quadratic, and the fastest way for a few symbols.
    fn merge_short(&self, bytes: &[u8], scratch: &mut Scratch) {
        let Scratch { word, ranks, .. } = scratch;
        word.clear();
        word.extend(bytes.iter().map(|&byte| u32::from(byte)));
        ranks.clear();
        ranks.extend(word.windows(2).map(|pair| self.table.rank((pair[0], pair[1]))));
        while let Some((at, &rank)) = ranks.iter().enumerate().min_by_key(|&(_, &rank)| rank)
            && rank != NO_RANK
        {
            word[at] = 256 + rank;
            word.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = self.table.rank((word[at - 1], word[at]));
            }
            if at < ranks.len() {
                ranks[at] = self.table.rank((word[at], word[at + 1]));
            }
        }
    }

    /// Merges with a queue ordered by (rank, position): n log n, whatever the word.
    fn merge_long(&self, bytes: &[u8], scratch: &mut Scratch) {
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
            ranks: Vec::new(),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
        }
    }
}

/// Pair → rank by open addressing, at most half full; byte pairs, the most asked for, in a flat table.
struct PairTable {
    byte_pairs: Vec<u32>,
    slots: Vec<(u64, u32)>,
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

impl PairTable {
    fn new(pairs: &[Pair]) -> PairTable {
        let size = (pairs.len() * 2).next_power_of_two().max(16);
        let mut table = PairTable {
            byte_pairs: vec![NO_RANK; 1 << 16],
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
            let mut at = table.home(key);
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
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    #[inline]
    fn rank(&self, (left, right): Pair) -> u32 {
        if left.max(right) < 256 {
            return self.byte_pairs[(left << 8 | right) as usize];
        }
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = self.home(key);
        loop {
            let (found, rank) = self.slots[at];
            if found == key || found == EMPTY {
                return rank;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
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
