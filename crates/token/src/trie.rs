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

/// A node of the plain trie that the double array is made from.
#[derive(Default)]
struct Node {
    children: Vec<(u8, u32)>,
    token: Option<u32>,
}

impl Trie {
    /// A trie of all `tokens`; a token's id is its place. When two have the same bytes the first one counts.
    pub(crate) fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Trie {
        let mut nodes = vec![Node::default()];
        for (id, token) in tokens.enumerate() {
            let mut at = 0;
            for &byte in token {
                at = match nodes[at].children.iter().find(|child| child.0 == byte) {
                    Some(&(_, child)) => child as usize,
                    None => {
                        let child = nodes.len();
                        nodes[at].children.push((byte, child as u32));
                        nodes.push(Node::default());
                        child
                    }
                };
            }
            nodes[at].token.get_or_insert(id as u32);
        }
        Trie::arrange(&nodes)
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

    /// Gives each node, breadth first, the first base at which all its children find free cells.
    fn arrange(nodes: &[Node]) -> Trie {
        // Cell 0 is the root; as its own parent it can be nobody's child.
        let mut trie = Trie { cells: vec![EMPTY; 512] };
        trie.cells[0].parent = NO_CELL - 1;
        let mut queue = std::collections::VecDeque::from([(0u32, 0u32)]);
        let mut first_free = 1usize;
        while let Some((node, cell)) = queue.pop_front() {
            let children = &nodes[node as usize].children;
            let Some(lowest) = children.iter().map(|child| usize::from(child.0)).min() else { continue };
            while trie.cells[first_free].parent != NO_CELL {
                first_free += 1;
                trie.grow(first_free + 512);
            }
            let mut base = first_free.saturating_sub(lowest).max(1);
            loop {
                trie.grow(base + 512);
                let free = |child: &(u8, u32)| trie.cells[base + usize::from(child.0)].parent == NO_CELL;
                if children.iter().all(free) {
                    break;
                }
                base += 1;
            }
            trie.cells[cell as usize].base = base as u32;
            for &(byte, child) in children {
                let place = base + usize::from(byte);
                let token = nodes[child as usize].token.unwrap_or(NO_TOKEN);
                trie.cells[place] = Cell { parent: cell, base: 0, token };
                queue.push_back((child, place as u32));
            }
        }
        trie
    }

    fn grow(&mut self, size: usize) {
        if self.cells.len() < size {
            self.cells.resize(size.max(self.cells.len() * 3 / 2), EMPTY);
        }
    }
}
