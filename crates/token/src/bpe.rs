//! The merges as tables, and the splitting of one pre-token into symbols.
//! Knows bytes and symbols; must not know text, ids, special tokens or files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::train::Pair;
use crate::trie::{NO_TOKEN, Trie};

const NO_RANK: u32 = u32::MAX;
const NO_NODE: u32 = u32::MAX;
const NO_SYMBOL: u32 = u32::MAX;

/// Merges over bytes. Symbols 0 to 255 are the bytes; those from 256 on are what merging can make, in the order of the
/// ranks of the merges that make them of their bytes alone.
pub(crate) struct Merges {
    rules: Rules,
    /// For each symbol from 256 on the merge that makes it when its bytes stand alone.
    parts: Vec<Part>,
    bytes: Vec<u8>,
    /// Symbol `s` stands for `bytes[starts[s]..starts[s + 1]]`.
    starts: Vec<usize>,
    trie: Trie,
    /// For each symbol the longest other symbol that its bytes begin with, or [`NO_TOKEN`].
    shorter: Vec<u32>,
    /// True if every symbol ranks after those that it is made of, as in all that training makes. Only then does the
    /// search among symbols give what merging gives.
    searchable: bool,
}

/// One rule: these two neighbours become that symbol. The rule of the lowest rank goes first, among rules of one rank the
/// leftmost place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub pair: Pair,
    pub made: u32,
    pub rank: u32,
}

/// The rules, in the order of their ranks.
struct Rules {
    rules: Vec<Merge>,
    table: PairTable,
}

#[derive(Clone, Copy)]
struct Part {
    pair: Pair,
    rank: u32,
}

/// Buffers of one encoding thread.
#[derive(Default)]
pub(crate) struct Scratch {
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
    /// Tables for `merges`, which speak of the symbols 0 to 255 (the bytes) and any others. Gives also, for each symbol
    /// of the result, its number in `merges`.
    ///
    /// A symbol whose bytes do not merge to it alone never comes out of merging: whatever surrounds its bytes, the
    /// same merges happen among them as long as none crosses their border. Such symbols and their rules are left out.
    pub(crate) fn new(merges: &[Merge]) -> (Merges, Vec<u32>) {
        let rules = Rules::new(merges.to_vec());
        let mut made = made_alone(&rules);
        made.sort_unstable_by_key(|(symbol, part)| (part.rank, *symbol));
        let mut numbers = vec![NO_SYMBOL; rules.symbols()];
        let mut names: Vec<u32> = (0..256).collect();
        names.extend(made.iter().map(|&(symbol, _)| symbol));
        for (number, &name) in names.iter().enumerate() {
            numbers[name as usize] = number as u32;
        }
        let (mut bytes, mut starts): (Vec<u8>, Vec<usize>) = ((0..=255).collect(), (0..=256).collect());
        let renumber = |pair: Pair| (numbers[pair.0 as usize], numbers[pair.1 as usize]);
        let parts: Vec<Part> =
            made.iter().map(|(_, part)| Part { pair: renumber(part.pair), rank: part.rank }).collect();
        append_bytes(&parts, &mut bytes, &mut starts);
        let alive = merges.iter().map(|merge| Merge {
            pair: renumber(merge.pair),
            made: numbers[merge.made as usize],
            ..*merge
        });
        let rules = Rules::new(alive.filter(|merge| merge.pair.0.max(merge.pair.1) != NO_SYMBOL).collect());
        let rank = |symbol: u32| symbol.checked_sub(256).map(|index| parts[index as usize].rank);
        let ranks_after = |part: &Part| rank(part.pair.0).max(rank(part.pair.1)) < Some(part.rank);
        let searchable = parts.iter().all(ranks_after);
        let token = |symbol: usize| &bytes[starts[symbol]..starts[symbol + 1]];
        let trie = Trie::new((0..names.len()).map(token));
        let shorter = (0..names.len()).map(|symbol| {
            let bytes = token(symbol);
            trie.longest(&bytes[..bytes.len() - 1])
        });
        let shorter = shorter.collect();
        (Merges { rules, parts, bytes, starts, trie, shorter, searchable }, names)
    }

    /// The number of symbols: 256 and those that merging can make.
    pub(crate) fn len(&self) -> usize {
        256 + self.parts.len()
    }

    /// The bytes that a symbol below [`Merges::len`] stands for.
    pub(crate) fn bytes(&self, symbol: u32) -> &[u8] {
        &self.bytes[self.starts[symbol as usize]..self.starts[symbol as usize + 1]]
    }

    /// Appends the symbols of one pre-token.
    pub(crate) fn append(&self, word: &[u8], scratch: &mut Scratch, symbols: &mut Vec<u32>) {
        if self.searchable {
            self.search(word, &mut scratch.dead_ends, symbols);
        } else {
            self.rules.merge_by_queue(word, scratch);
            symbols.extend_from_slice(&scratch.word);
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
    #[inline]
    fn is_stable(&self, left: u32, right: u32) -> bool {
        self.rules.table.rank((left, right)) == NO_RANK
            && self.rules.meet((left, right), &|symbol| {
                symbol.checked_sub(256).map(|index| self.parts[index as usize])
            })
    }
}

/// Of each symbol that its own bytes merge to: its number, and the last of these merges.
fn made_alone(rules: &Rules) -> Vec<(u32, Part)> {
    let mut parts: Vec<Option<Part>> = vec![None; rules.symbols()];
    let mut made = Vec::with_capacity(rules.rules.len());
    for rule in &rules.rules {
        let is_ready =
            |symbol: u32| symbol < 256 || parts[symbol as usize].is_some_and(|part| part.rank < rule.rank);
        if is_ready(rule.pair.0)
            && is_ready(rule.pair.1)
            && parts[rule.made as usize].is_none()
            && rules.meet(rule.pair, &|symbol| parts[symbol as usize])
        {
            let part = Part { pair: rule.pair, rank: rule.rank };
            parts[rule.made as usize] = Some(part);
            made.push((rule.made, part));
        }
    }
    // What is left may still be made by a rule that goes before the one that makes its part: merging its bytes tells.
    let mut scratch = Scratch::default();
    let mut tried = vec![false; parts.len()];
    loop {
        let known = made.len();
        for rule in &rules.rules {
            let is_made = |symbol: u32| symbol < 256 || parts[symbol as usize].is_some();
            let made_before = tried[rule.made as usize] || is_made(rule.made);
            if made_before || !is_made(rule.pair.0) || !is_made(rule.pair.1) {
                continue;
            }
            tried[rule.made as usize] = true;
            let bytes = bytes_of(rule.pair, &parts);
            let last = rules.merge_by_queue(&bytes, &mut scratch);
            if let Some(last) = last.filter(|_| scratch.word == [rule.made]) {
                let part = Part { pair: last.pair, rank: last.rank };
                parts[rule.made as usize] = Some(part);
                made.push((rule.made, part));
            }
        }
        if made.len() == known {
            return made;
        }
    }
}

/// The bytes that two symbols are made of.
fn bytes_of(pair: Pair, parts: &[Option<Part>]) -> Vec<u8> {
    let (mut bytes, mut open) = (Vec::new(), vec![pair.1, pair.0]);
    while let Some(symbol) = open.pop() {
        match parts[symbol as usize] {
            Some(part) => open.extend([part.pair.1, part.pair.0]),
            None => bytes.push(symbol as u8),
        }
    }
    bytes
}

/// Appends the bytes of the symbols from 256 on, each made of two that may stand anywhere.
fn append_bytes(parts: &[Part], bytes: &mut Vec<u8>, starts: &mut Vec<usize>) {
    let mut open = Vec::new();
    for part in parts {
        open.extend([part.pair.1, part.pair.0]);
        while let Some(symbol) = open.pop() {
            match starts.get(symbol as usize + 1) {
                Some(&end) => bytes.extend_from_within(starts[symbol as usize]..end),
                None => {
                    let pair = parts[symbol as usize - 256].pair;
                    open.extend([pair.1, pair.0]);
                }
            }
        }
        starts.push(bytes.len());
    }
}

impl Rules {
    fn new(mut rules: Vec<Merge>) -> Rules {
        if !rules.is_sorted_by_key(|rule| rule.rank) {
            rules.sort_by_key(|rule| rule.rank);
        }
        Rules { table: PairTable::new(&rules), rules }
    }

    /// One more than the highest number of a symbol.
    fn symbols(&self) -> usize {
        let highest = self.rules.iter().map(|rule| rule.made.max(rule.pair.0).max(rule.pair.1)).max();
        highest.map_or(256, |highest| highest as usize + 1).max(256)
    }

    /// Do two symbols, each merged of its bytes, come to stand side by side: is there no merge across their border before
    /// both are complete? (What happens then is another question.)
    ///
    /// Merging builds both up from bytes, in order of rank. At any time the border lies between the last part of the left
    /// one and the first part of the right one; going back from the complete symbols to bytes, later merges first, gives
    /// all these pairs of parts. A merge across the border would have come if its rank is lower than that of the merges
    /// which consume the two parts. When it is equal, the leftmost place goes first: inside `left`, else across the border.
    #[inline]
    fn meet(&self, (mut left, mut right): Pair, part_of: &impl Fn(u32) -> Option<Part>) -> bool {
        // The rank of the merge that consumes the part on this side; a part that is never consumed has none.
        let (mut left_consumed, mut right_consumed) = (NO_RANK, NO_RANK);
        loop {
            // Of two merges the one of the higher rank came later; bytes come of none. Of one rank, the right one is later.
            match (part_of(left), part_of(right)) {
                (Some(part), other) if other.is_none_or(|other| part.rank > other.rank) => {
                    (left_consumed, left) = (part.rank, part.pair.1);
                }
                (_, Some(part)) => (right_consumed, right) = (part.rank, part.pair.0),
                (_, None) => return true,
            }
            let across = self.table.rank((left, right));
            if across != NO_RANK && across < left_consumed && across <= right_consumed {
                return false;
            }
        }
    }

    /// Merges with a queue ordered by (rank, position): n log n, whatever the word. The symbols are in `scratch.word`
    /// then; returns the last merge, if there was any.
    fn merge_by_queue(&self, bytes: &[u8], scratch: &mut Scratch) -> Option<Merge> {
        let Scratch { word, nodes, queue, .. } = scratch;
        let mut last = None;
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
        while let Some(Reverse((_, left, rule))) = queue.pop() {
            let (left_node, rule) = (nodes[left as usize], self.rules[rule as usize]);
            // An entry is stale when either side has been merged since: then the two are no longer this pair.
            let right = left_node.next;
            if left_node.symbol != rule.pair.0 || right == NO_NODE {
                continue;
            }
            let right_node = nodes[right as usize];
            if right_node.symbol != rule.pair.1 {
                continue;
            }
            nodes[left as usize].symbol = rule.made;
            nodes[left as usize].next = right_node.next;
            nodes[right as usize].symbol = NO_SYMBOL;
            last = Some(rule);
            if right_node.next != NO_NODE {
                nodes[right_node.next as usize].previous = left;
                self.queue_pair(nodes, queue, left, right_node.next);
            }
            if left_node.previous != NO_NODE {
                self.queue_pair(nodes, queue, left_node.previous, left);
            }
        }
        word.clear();
        let mut index = if count > 0 { 0 } else { NO_NODE };
        while index != NO_NODE {
            let node = nodes[index as usize];
            word.push(node.symbol);
            index = node.next;
        }
        last
    }

    fn queue_pair(
        &self,
        nodes: &[Node],
        queue: &mut BinaryHeap<Reverse<(u32, u32, u32)>>,
        left: u32,
        right: u32,
    ) {
        let pair = (nodes[left as usize].symbol, nodes[right as usize].symbol);
        if let Some((rank, rule)) = self.table.rule(pair) {
            queue.push(Reverse((rank, left, rule)));
        }
    }
}

/// Pair → rule by open addressing, at most half full; the ranks of byte pairs, the most asked for, in a flat table. Most
/// pairs asked for are no merges: one bit by their hash, in a filter small enough for the inner caches, tells so nearly
/// always.
struct PairTable {
    byte_pairs: Vec<u32>,
    filter: Vec<u64>,
    filter_shift: u32,
    slots: Vec<Slot>,
    shift: u32,
}

/// A pair with the rank and the place of its rule.
#[derive(Clone, Copy)]
struct Slot {
    key: u64,
    rank: u32,
    rule: u32,
}

const EMPTY: u64 = u64::MAX;

impl PairTable {
    /// Of rules for the same pair the first one counts.
    fn new(rules: &[Merge]) -> PairTable {
        let size = (rules.len() * 2).next_power_of_two().max(16);
        let mut table = PairTable {
            byte_pairs: vec![NO_RANK; 1 << 16],
            filter: vec![0; size / 8],
            filter_shift: 64 - (size * 8).trailing_zeros(),
            slots: vec![Slot { key: EMPTY, rank: NO_RANK, rule: 0 }; size],
            shift: 64 - size.trailing_zeros(),
        };
        for (index, rule) in rules.iter().enumerate() {
            let (left, right) = rule.pair;
            if left.max(right) < 256 {
                let slot = &mut table.byte_pairs[(left << 8 | right) as usize];
                *slot = (*slot).min(rule.rank);
            }
            let key = u64::from(left) << 32 | u64::from(right);
            let bit = (spread(key) >> table.filter_shift) as usize;
            table.filter[bit / 64] |= 1 << (bit % 64);
            let mut at = (spread(key) >> table.shift) as usize;
            while table.slots[at].key != EMPTY && table.slots[at].key != key {
                at = (at + 1) & (size - 1);
            }
            if table.slots[at].key == EMPTY {
                table.slots[at] = Slot { key, rank: rule.rank, rule: index as u32 };
            }
        }
        table
    }

    /// The rank of the rule for a pair, or [`NO_RANK`].
    #[inline]
    fn rank(&self, pair: Pair) -> u32 {
        if pair.0.max(pair.1) < 256 {
            return self.byte_pairs[(pair.0 << 8 | pair.1) as usize];
        }
        self.slot(pair).map_or(NO_RANK, |slot| slot.rank)
    }

    /// The rank and the place of the rule for a pair.
    #[inline]
    fn rule(&self, pair: Pair) -> Option<(u32, u32)> {
        self.slot(pair).map(|slot| (slot.rank, slot.rule))
    }

    #[inline]
    fn slot(&self, (left, right): Pair) -> Option<Slot> {
        let key = u64::from(left) << 32 | u64::from(right);
        let hash = spread(key);
        let bit = (hash >> self.filter_shift) as usize;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = self.slots[at];
            if slot.key == key {
                return Some(slot);
            }
            if slot.key == EMPTY {
                return None;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::train::{MergeLimits, WordCounts, learn_merges};
    use proptest::prelude::*;

    fn merges(rules: &[(u32, u32, u32)]) -> Merges {
        let rules: Vec<Merge> = rules
            .iter()
            .zip(0..)
            .map(|(&(left, right, made), rank)| Merge { pair: (left, right), made, rank })
            .collect();
        Merges::new(&rules).0
    }

    fn by_queue(merges: &Merges, word: &[u8]) -> Vec<u32> {
        let mut scratch = Scratch::default();
        merges.rules.merge_by_queue(word, &mut scratch);
        scratch.word
    }

    fn texts_of(merges: &Merges, word: &str) -> Vec<String> {
        let (mut scratch, mut symbols) = (Scratch::default(), Vec::new());
        merges.append(word.as_bytes(), &mut scratch, &mut symbols);
        symbols.iter().map(|&symbol| String::from_utf8(merges.bytes(symbol).to_vec()).unwrap()).collect()
    }

    /// Merges by the definition: again and again the first rule that applies anywhere, at its leftmost place.
    fn by_definition(rules: &[Merge], word: &str) -> Vec<String> {
        let mut symbols: Vec<(u32, String)> =
            word.bytes().map(|byte| (u32::from(byte), char::from(byte).to_string())).collect();
        loop {
            let rank =
                |pair: &[(u32, String)]| rules.iter().position(|rule| rule.pair == (pair[0].0, pair[1].0));
            let places = symbols.windows(2).enumerate();
            let places = places.filter_map(|(at, pair)| rank(pair).map(|rule| (rules[rule].rank, at, rule)));
            let Some((_, at, rule)) = places.min() else {
                return symbols.into_iter().map(|(_, text)| text).collect();
            };
            let right = symbols.remove(at + 1).1;
            symbols[at].0 = rules[rule].made;
            symbols[at].1 += &right;
        }
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
            let rules: Vec<Merge> = learn_merges(counts, &limits).iter().zip(256..)
                .map(|(&pair, made)| Merge { pair, made, rank: made - 256 }).collect();
            let (merges, names) = Merges::new(&rules);
            prop_assert!(merges.searchable);
            let all: Vec<u32> = (0..256 + rules.len() as u32).collect();
            prop_assert_eq!(names, all, "training only makes tokens that encode to themselves");
            let (mut scratch, mut symbols) = (Scratch::default(), Vec::new());
            for word in words {
                symbols.clear();
                merges.append(word.as_bytes(), &mut scratch, &mut symbols);
                prop_assert_eq!(&symbols, &by_queue(&merges, word.as_bytes()));
            }
        }

        /// Rules as nobody would train them: any two of the symbols so far, or of those to come, several ways to make
        /// the same text, in any order.
        #[test]
        fn any_rules_are_followed_by_the_definition(
            choices in prop::collection::vec((0usize..12, 0usize..12), 1..14),
            order in prop::collection::vec(any::<u32>(), 14),
            words in prop::collection::vec("[abc]{1,12}|(abc|bca){1,5}", 1..12),
        ) {
            let mut texts: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
            let name = |texts: &mut Vec<String>, text: &str| {
                let at = texts.iter().position(|known| known == text).unwrap_or(texts.len());
                if at == texts.len() {
                    texts.push(text.to_owned());
                }
                if at < 3 { u32::from(text.as_bytes()[0]) } else { 1000 + at as u32 }
            };
            let mut rules: Vec<(u32, u32, u32)> = Vec::new();
            for (left, right) in choices {
                let (left, right) = (texts[left % texts.len()].clone(), texts[right % texts.len()].clone());
                let made = name(&mut texts, &format!("{left}{right}"));
                let rule = (name(&mut texts, &left), name(&mut texts, &right), made);
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
            let mut orders = [rules.clone(), rules.clone()];
            let mut keyed: Vec<_> = rules.iter().zip(&order).collect();
            keyed.sort_by_key(|(_, key)| **key);
            orders[1] = keyed.into_iter().map(|(rule, _)| *rule).collect();
            let ranked = |rules: &[(u32, u32, u32)], share: u32| -> Vec<Merge> {
                let rules = rules.iter().zip(0u32..);
                rules.map(|(&(left, right, made), at)| Merge { pair: (left, right), made, rank: at / share }).collect()
            };
            // With several rules of one rank too.
            for rules in orders.iter().flat_map(|rules| [1, 2, 3].map(|share| ranked(rules, share))) {
                let merges = Merges::new(&rules).0;
                for word in &words {
                    prop_assert_eq!(texts_of(&merges, word), by_definition(&rules, word), "{:?}", rules);
                }
            }
        }
    }

    #[test]
    fn symbols_that_never_come_out_are_left_out() {
        let [a, b, c] = [b'a', b'b', b'c'].map(u32::from);
        // `abc` can never come out, since `bc` is merged before `ab`; nothing makes 900.
        let rules = [(b, c, 300), (a, b, 301), (301, c, 302), (900, c, 303)];
        let found = merges(&rules);
        assert_eq!(found.len(), 258);
        assert!(found.searchable);
        assert_eq!(texts_of(&found, "abc"), ["a", "bc"]);
        assert_eq!(texts_of(&found, "aab"), ["a", "ab"]);
        // A rule that comes before the one that makes its part.
        let rules = [(301, c, 302), (a, b, 301)];
        let found = merges(&rules);
        assert!(!found.searchable);
        assert_eq!(texts_of(&found, "ababcab"), ["ab", "abc", "ab"]);
    }
}
