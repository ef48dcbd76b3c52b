//! A double-array trie over the tokens' bytes: the longest token at a place, one table read a byte.
//! Knows bytes and ids; must not know merges.

/// No token ends here.
pub(crate) const NO_TOKEN: u32 = u32::MAX;
const NO_CELL: u32 = u32::MAX;

/// Cells indexed by `base + byte`; a cell belongs to the node that its `parent` names.
pub(crate) struct Trie {
    cells: Vec<Cell>,
}

#[derive(Clone, Copy)]
struct Cell {
    parent: u32,
    base: u32,
    token: u32,
}

const EMPTY: Cell = Cell { parent: NO_CELL, base: 0, token: NO_TOKEN };

/// Tokens that share their first `depth` bytes, as a range of the sorted ones, and the cell of the node that they share.
struct Branch {
    cell: u32,
    first: u32,
    end: u32,
    depth: u32,
}

impl Trie {
    /// A trie of all `tokens`; a token's id is its place. When two have the same bytes the first one counts.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Trie {
        // The first eight bytes tell most tokens apart, without a look at the rest.
        let key = |token: &[u8]| {
            let mut bytes = [0; 8];
            let length = token.len().min(8);
            bytes[..length].copy_from_slice(&token[..length]);
            u64::from_be_bytes(bytes)
        };
        let mut sorted: Vec<(u64, u32, &[u8])> =
            tokens.zip(0..).map(|(token, id)| (key(token), id, token)).collect();
        sorted.sort_unstable_by(|left, right| {
            left.0.cmp(&right.0).then_with(|| left.2.cmp(right.2)).then(left.1.cmp(&right.1))
        });
        sorted.dedup_by(|later, first| later.2 == first.2);
        Trie::arrange(&sorted)
    }

    /// Hands all tokens that `bytes` begins with to `emit`, each with its length, the shortest first.
    #[inline]
    pub(crate) fn prefixes(&self, bytes: &[u8], emit: &mut impl FnMut(u32, usize)) {
        let (mut at, mut base) = (0u32, self.cells[0].base);
        for (index, &byte) in bytes.iter().enumerate() {
            let next = base + u32::from(byte);
            let Some(cell) = self.cells.get(next as usize) else { break };
            if cell.parent != at {
                break;
            }
            at = next;
            base = cell.base;
            if cell.token != NO_TOKEN {
                emit(cell.token, index + 1);
            }
        }
    }

    /// The longest token that `bytes` begins with, or [`NO_TOKEN`].
    #[inline]
    pub(crate) fn longest(&self, bytes: &[u8]) -> u32 {
        let (mut at, mut longest) = (0u32, NO_TOKEN);
        let mut base = self.cells[0].base;
        for &byte in bytes {
            let next = base + u32::from(byte);
            let Some(cell) = self.cells.get(next as usize) else { break };
            if cell.parent != at {
                break;
            }
            at = next;
            base = cell.base;
            if cell.token != NO_TOKEN {
                longest = cell.token;
            }
        }
        longest
    }

    /// Gives each node, breadth first, a base at which all its children find free cells.
    fn arrange(sorted: &[(u64, u32, &[u8])]) -> Trie {
        // Cell 0 is the root; as its own parent it can be nobody's child.
        let mut trie = Trie { cells: vec![EMPTY; sorted.len() + 512] };
        trie.cells[0].parent = NO_CELL - 1;
        let whole = Branch { cell: 0, first: 0, end: sorted.len() as u32, depth: 0 };
        let mut queue = std::collections::VecDeque::from([whole]);
        // Where to look for room, by the number of children: it is not sought twice where there was none, and single
        // children fill the gaps.
        let mut from = [1usize; 9];
        let mut children: Vec<(u8, u32, u32)> = Vec::new();
        while let Some(Branch { cell, mut first, end, depth }) = queue.pop_front() {
            if first < end && sorted[first as usize].2.len() == depth as usize {
                trie.cells[cell as usize].token = sorted[first as usize].1;
                first += 1;
            }
            children.clear();
            for place in first..end {
                let byte = sorted[place as usize].2[depth as usize];
                match children.last_mut() {
                    Some(child) if child.0 == byte => child.2 = place + 1,
                    _ => children.push((byte, place, place + 1)),
                }
            }
            let Some(&(lowest, ..)) = children.first() else { continue };
            let kind = (children.len().ilog2() as usize).min(from.len() - 1);
            let base = trie.room(&children, usize::from(lowest), &mut from[kind]);
            trie.cells[cell as usize].base = base as u32;
            for &(byte, first, end) in &children {
                let place = base + usize::from(byte);
                trie.cells[place].parent = cell;
                queue.push_back(Branch { cell: place as u32, first, end, depth: depth + 1 });
            }
        }
        trie
    }

    /// The first base at or after `from` that has room for the children; `from` moves on to where it was found.
    fn room(&mut self, children: &[(u8, u32, u32)], lowest: usize, from: &mut usize) -> usize {
        let mut at = (*from).max(lowest + 1);
        loop {
            self.grow(at + 512);
            while self.cells[at].parent != NO_CELL {
                at += 1;
                self.grow(at + 512);
            }
            let base = at - lowest;
            if children.iter().all(|child| self.cells[base + usize::from(child.0)].parent == NO_CELL) {
                *from = at;
                return base;
            }
            at += 1;
        }
    }

    fn grow(&mut self, size: usize) {
        if self.cells.len() < size {
            self.cells.resize(size.max(self.cells.len() * 3 / 2), EMPTY);
        }
    }
}
