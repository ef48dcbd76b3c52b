//! Learning merges from texts: counts of pre-tokens, then byte-pair merges by descending count.
//! Knows pre-tokens; must not know files, ids of special tokens or how text is encoded later.
//!
//! The result does not depend on the number of threads: counts are exact integers, and pairs of equal count are
//! merged in ascending order of their ids.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::hash::BuildWordHasher;
use crate::pretoken::PreTokens;

/// Pre-tokens longer than this (base64, Han text without punctuation …) are counted in pieces.
/// Only training does so: a pair at such a cut is not counted, and encoding still merges across it.
const WORD_BYTES_MAX: usize = 256;

/// How many words are brought into the cache before they are merged.
const TOUCHED_AHEAD: usize = 32;

/// How often each pre-token occurs in the texts seen so far.
#[derive(Default)]
pub struct WordCounts {
    counts: HashMap<Box<[u8]>, u64, BuildWordHasher>,
}

/// Two neighbouring symbols, in order.
pub(crate) type Pair = (u32, u32);

/// When to stop merging.
pub(crate) struct MergeLimits {
    /// The number of merges.
    pub merges_max: usize,
    /// Pairs that occur less often are not merged.
    pub count_min: u64,
    /// Merges whose bytes would be longer are left out.
    pub token_bytes_max: usize,
    /// The texts of the special tokens: no merge may make one of them, since a text names one id only.
    pub special_tokens: Vec<String>,
}

impl WordCounts {
    /// Adds the pre-tokens of `documents`, with up to `threads` threads.
    ///
    /// These threads live for this call only. Preprocessing in batches is the one place outside `tensor::Pool` that
    /// starts threads, because this crate may not depend on `tensor`; the caller says how many.
    pub fn add<S: AsRef<str> + Sync>(&mut self, documents: &[S], digits: usize, threads: usize) {
        let next = AtomicUsize::new(0);
        let threads = threads.clamp(1, documents.len().max(1));
        let parts = std::thread::scope(|scope| {
            let count = || count_words(documents, digits, &next);
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(count)).collect();
            let mut parts = vec![count()];
            parts.extend(others.into_iter().map(|other| other.join().expect("counting does not panic")));
            parts
        });
        for part in parts {
            for (word, count) in part {
                match self.counts.get_mut(word) {
                    Some(total) => *total += count,
                    None => _ = self.counts.insert(word.into(), count),
                }
            }
        }
    }

    /// The number of different pre-tokens.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// True when no text has been seen.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// The merges in the order in which they were learnt. Symbols 0 to 255 are the bytes; merge `i` makes symbol 256 + `i`.
pub(crate) fn learn_merges(words: WordCounts, limits: &MergeLimits) -> Vec<Pair> {
    let mut state = Merger::new(words);
    let mut queue: BinaryHeap<(u64, Reverse<Pair>, u32)> = BinaryHeap::new();
    state.enqueue(0, limits.count_min, &mut queue);
    let mut merges = Vec::with_capacity(limits.merges_max);
    let symbols = 256 + limits.merges_max;
    let mut sides = Sides {
        before: Neighbours::new(symbols),
        after: Neighbours::new(symbols),
        count_min: limits.count_min,
    };
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let special = limits.special_tokens.iter().map(|special| special.clone().into_bytes());
    let mut taken: HashSet<Vec<u8>> = tokens.iter().cloned().chain(special).collect();
    while merges.len() < limits.merges_max {
        let Some((count, Reverse(pair), index)) = queue.pop() else { break };
        let current = state.pairs[index as usize].count;
        if current < count {
            // Counts only fall once a pair has been queued; one that fell goes back to its new place.
            if current >= limits.count_min {
                queue.push((current, Reverse(pair), index));
            }
            continue;
        }
        let token = [&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat();
        if token.len() > limits.token_bytes_max || !taken.insert(token.clone()) {
            continue;
        }
        let first_new = state.pairs.len();
        state.merge(pair, index, 256 + merges.len() as u32, &mut sides);
        state.enqueue(first_new, limits.count_min, &mut queue);
        merges.push(pair);
        tokens.push(token);
    }
    merges
}

/// Takes documents off the shared counter, some at a time, and counts their words without copying them.
fn count_words<'text, S: AsRef<str>>(
    documents: &'text [S],
    digits: usize,
    next: &AtomicUsize,
) -> HashMap<&'text [u8], u64, BuildWordHasher> {
    const STRIDE: usize = 16;
    let mut counts: HashMap<&[u8], u64, BuildWordHasher> = HashMap::default();
    loop {
        let first = next.fetch_add(STRIDE, Ordering::Relaxed);
        if first >= documents.len() {
            return counts;
        }
        for document in &documents[first..documents.len().min(first + STRIDE)] {
            for word in PreTokens::new(document.as_ref(), digits) {
                if word.len() <= WORD_BYTES_MAX {
                    *counts.entry(word).or_insert(0) += 1;
                } else {
                    word.chunks(WORD_BYTES_MAX).for_each(|piece| *counts.entry(piece).or_insert(0) += 1);
                }
            }
        }
    }
}

/// Where a word's symbols stand, and how often the word occurs.
struct Word {
    start: usize,
    length: u32,
    count: u64,
}

struct PairState {
    pair: Pair,
    count: u64,
    /// Words that held the pair at some time; some may hold it no longer, some stand here twice.
    words: Vec<u32>,
}

/// The words as symbols, and for each pair its exact count and the words to look into.
struct Merger {
    symbols: Vec<u32>,
    words: Vec<Word>,
    pairs: Vec<PairState>,
    index: HashMap<u64, u32, BuildWordHasher>,
}

impl Merger {
    fn new(words: WordCounts) -> Merger {
        let mut state =
            Merger { symbols: Vec::new(), words: Vec::new(), pairs: Vec::new(), index: HashMap::default() };
        // Byte pairs are few: a flat table spares the hashing of the first and longest pass.
        let mut byte_pairs = vec![u32::MAX; 1 << 16];
        for (bytes, count) in words.counts {
            if bytes.len() < 2 {
                continue;
            }
            let word = state.words.len() as u32;
            state.words.push(Word { start: state.symbols.len(), length: bytes.len() as u32, count });
            state.symbols.extend(bytes.iter().map(|&byte| u32::from(byte)));
            for pair in bytes.windows(2) {
                let slot = &mut byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])];
                if *slot == u32::MAX {
                    *slot = state.pairs.len() as u32;
                    let pair = (u32::from(pair[0]), u32::from(pair[1]));
                    state.pairs.push(PairState { pair, count: 0, words: Vec::new() });
                }
                state.pairs[*slot as usize].add(count, word);
            }
        }
        for (position, state_of) in state.pairs.iter().enumerate() {
            state.index.insert(key(state_of.pair), position as u32);
        }
        state
    }

    /// Queues the pairs from `first` on that occur often enough; the others never will, so their word lists go.
    fn enqueue(&mut self, first: usize, count_min: u64, queue: &mut BinaryHeap<(u64, Reverse<Pair>, u32)>) {
        for (offset, state) in self.pairs[first..].iter_mut().enumerate() {
            if state.count >= count_min {
                queue.push((state.count, Reverse(state.pair), (first + offset) as u32));
            } else {
                state.words = Vec::new();
            }
        }
    }

    /// Replaces `pair` by `merged` in all words, from left to right in each.
    ///
    /// What changes around the places is summed per neighbour in flat tables first, so that the pair index is asked
    /// once for each neighbour and not once for each place.
    fn merge(&mut self, pair: Pair, index: u32, merged: u32, sides: &mut Sides) {
        let (left, right) = pair;
        for words in std::mem::take(&mut self.pairs[index as usize].words).chunks(TOUCHED_AHEAD) {
            self.touch(words);
            for &word in words {
                self.merge_word(word, pair, merged, sides);
            }
        }
        // All additions come before all subtractions: in a run like `abab` a place adds what the next one takes away.
        let before = sides.before.take();
        let after = sides.after.take();
        let taken_before: Vec<(u32, u64)> =
            before.iter().map(|(symbol, side)| (*symbol, side.count)).collect();
        let taken_after: Vec<(u32, u64)> = after.iter().map(|(symbol, side)| (*symbol, side.count)).collect();
        // A pair that is too rare now is never asked for again, so it is not even entered.
        for (symbol, side) in before.into_iter().filter(|(_, side)| side.count >= sides.count_min) {
            self.add((symbol, merged), side);
        }
        for (symbol, side) in after.into_iter().filter(|(_, side)| side.count >= sides.count_min) {
            self.add((merged, symbol), side);
        }
        for (symbol, count) in taken_before {
            self.subtract((symbol, left), count);
        }
        for (symbol, count) in taken_after {
            self.subtract((right, symbol), count);
        }
        self.pairs[index as usize].count = 0;
    }

    /// Reads from each cache line of the words' symbols, so that these reads, which wait for memory, wait side by side.
    fn touch(&self, words: &[u32]) {
        const LINE_SYMBOLS: usize = 64 / size_of::<u32>();
        let mut sum = 0u32;
        for &word in words {
            let place = &self.words[word as usize];
            let symbols = &self.symbols[place.start..place.start + place.length as usize];
            sum = symbols.iter().step_by(LINE_SYMBOLS).fold(sum, |sum, &symbol| sum.wrapping_add(symbol));
        }
        std::hint::black_box(sum);
    }

    fn merge_word(&mut self, word: u32, (left, right): Pair, merged: u32, sides: &mut Sides) {
        let place = &mut self.words[word as usize];
        let symbols = &mut self.symbols[place.start..place.start + place.length as usize];
        let Some(first) = symbols.windows(2).position(|window| window[0] == left && window[1] == right)
        else {
            return;
        };
        let (mut read, mut write) = (first, first);
        while read < symbols.len() {
            if symbols[read] == left && symbols.get(read + 1) == Some(&right) {
                if write > 0 {
                    sides.before.add(symbols[write - 1], place.count, word);
                }
                if let Some(&after) = symbols.get(read + 2) {
                    sides.after.add(after, place.count, word);
                }
                symbols[write] = merged;
                read += 2;
            } else {
                symbols[write] = symbols[read];
                read += 1;
            }
            write += 1;
        }
        place.length = write as u32;
    }

    fn add(&mut self, pair: Pair, side: Side) {
        let index = *self.index.entry(key(pair)).or_insert_with(|| {
            self.pairs.push(PairState { pair, count: 0, words: Vec::new() });
            self.pairs.len() as u32 - 1
        });
        let state = &mut self.pairs[index as usize];
        state.count += side.count;
        // (merged, merged) may come from both sides; else the list is taken over as it is.
        if state.words.is_empty() {
            state.words = side.words;
        } else {
            state.words.extend(side.words);
        }
    }

    fn subtract(&mut self, pair: Pair, count: u64) {
        if let Some(&index) = self.index.get(&key(pair)) {
            let total = &mut self.pairs[index as usize].count;
            debug_assert!(*total >= count, "counts are exact, so what is taken away was there");
            *total -= count;
        }
    }
}

/// What one merge changes before and after its places.
struct Sides {
    before: Neighbours,
    after: Neighbours,
    count_min: u64,
}

/// Sums for each neighbouring symbol, in a table over all symbols.
struct Neighbours {
    by_symbol: Vec<Side>,
    touched: Vec<u32>,
}

#[derive(Clone, Default)]
struct Side {
    count: u64,
    words: Vec<u32>,
}

impl Neighbours {
    fn new(symbols: usize) -> Neighbours {
        Neighbours { by_symbol: vec![Side::default(); symbols], touched: Vec::new() }
    }

    #[inline]
    fn add(&mut self, symbol: u32, count: u64, word: u32) {
        let side = &mut self.by_symbol[symbol as usize];
        if side.words.is_empty() {
            self.touched.push(symbol);
        }
        side.count += count;
        if side.words.last() != Some(&word) {
            side.words.push(word);
        }
    }

    /// The sums, in the order of first touch; the table is empty again.
    fn take(&mut self) -> Vec<(u32, Side)> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .into_iter()
            .map(|symbol| (symbol, std::mem::take(&mut self.by_symbol[symbol as usize])))
            .collect()
    }
}

impl PairState {
    fn add(&mut self, count: u64, word: u32) {
        self.count += count;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

fn key((left, right): Pair) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
