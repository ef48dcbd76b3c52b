//! The prefix cache: a tree over pages by the ids that fill them. Knows neither requests nor what a page
//! contains.
//!
//! A path from a root spells the ids of a sequence from its first on, a page at a time; keys and values
//! depend on all ids before them, so a page serves every sequence that begins with the path's ids. The last
//! page of a path may be filled in part: what its node names is never written again, and whoever goes on from
//! there copies the page first.

use std::sync::Arc;

use crate::rotary::Tables;
use crate::{Adapter, PagePool};

/// What, beside the ids, decides what keys and values are.
#[derive(Clone)]
pub(crate) struct Root {
    /// What positions are turned by.
    pub rotary: Tables,
    /// What is added to the base model.
    pub adapter: Option<Arc<Adapter>>,
}

impl Root {
    /// Whether keys and values of the same ids are the same.
    pub fn is(&self, other: &Root) -> bool {
        let adapter = |root: &Root| root.adapter.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.rotary, &other.rotary) && adapter(self) == adapter(other)
    }
}

/// The tree. It holds each of its pages once.
pub(crate) struct PrefixTree {
    pool: PagePool,
    /// Nodes by their number; `None` has been removed and its number is free.
    nodes: Vec<Option<Node>>,
    free: Vec<usize>,
    /// `None` where a root has been forgotten; its place is free.
    roots: Vec<(Option<Root>, Vec<usize>)>,
    /// Counts look-ups and insertions.
    clock: u64,
}

struct Node {
    /// The ids that the page holds: as many as it has room for, or fewer in a leaf.
    ids: Box<[u32]>,
    page: u32,
    parent: Parent,
    children: Vec<usize>,
    used: u64,
}

#[derive(Clone, Copy)]
enum Parent {
    Root(usize),
    Node(usize),
}

/// What the tree knows of a sequence's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Pages that the sequence's first ids fill.
    pub pages: Vec<u32>,
    /// A page that begins with the ids that follow, and how many of them.
    pub tail: Option<(u32, usize)>,
}

impl Found {
    /// Ids whose keys and values are known.
    pub fn tokens(&self, page_tokens: usize) -> usize {
        self.pages.len() * page_tokens + self.tail.map_or(0, |(_, tokens)| tokens)
    }
}

impl PrefixTree {
    /// An empty tree over the pages of `pool`.
    pub fn new(pool: &PagePool) -> Self {
        Self { pool: pool.clone(), nodes: Vec::new(), free: Vec::new(), roots: Vec::new(), clock: 0 }
    }

    /// The longest known beginning of `ids`, written to `found`.
    pub fn find(&mut self, root: &Root, ids: &[u32], found: &mut Found) {
        found.pages.clear();
        found.tail = None;
        let Some(root) = self.known(root) else { return };
        self.clock += 1;
        let page_tokens = self.pool.page_tokens();
        let mut parent = Parent::Root(root);
        for part in ids.chunks(page_tokens) {
            let Some((child, tokens)) = self.nearest(parent, part) else { return };
            let node = self.node_mut(child);
            let page = node.page;
            if tokens < page_tokens {
                found.tail = Some((page, tokens));
                self.touch(child);
                return;
            }
            found.pages.push(page);
            self.touch(child);
            parent = Parent::Node(child);
        }
    }

    /// Remembers the pages of a sequence's first ids, which from now on nobody writes where these ids lie.
    pub fn insert(&mut self, root: &Root, ids: &[u32], pages: &[u32]) {
        self.clock += 1;
        let root = self.root(root);
        let page_tokens = self.pool.page_tokens();
        let mut parent = Parent::Root(root);
        for (part, &page) in ids.chunks(page_tokens).zip(pages) {
            let child = match self.nearest(parent, part) {
                Some((child, tokens)) if tokens == part.len() => child,
                Some((child, tokens)) if tokens == self.node(child).ids.len() => {
                    self.extend(child, part, page);
                    child
                }
                _ => self.add(parent, part, page),
            };
            self.touch(child);
            parent = Parent::Node(child);
        }
    }

    /// Pages that the tree alone holds.
    pub fn evictable(&self) -> usize {
        self.pool.held_once(self.nodes.iter().flatten().map(|node| node.page))
    }

    /// Gives up pages that the tree alone holds, those first that were used longest ago, until `count` pages
    /// are free or there are no more.
    pub fn free_up(&mut self, count: usize) {
        while self.pool.free() < count {
            let leaves = self.nodes.iter().enumerate().filter_map(|(index, node)| {
                let node = node.as_ref().filter(|node| node.children.is_empty())?;
                (self.pool.held_once([node.page]) == 1).then_some((node.used, index))
            });
            let Some((_, oldest)) = leaves.min() else { return };
            self.remove(oldest);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for node in self.nodes.drain(..).flatten() {
            self.pool.release(node.page);
        }
        self.free.clear();
        self.roots.clear();
    }

    /// Forgets all that was computed with adapters that are gone.
    pub fn forget(&mut self, adapter: &Arc<Adapter>) {
        let uses = |root: &Root| root.adapter.as_ref().is_some_and(|other| Arc::ptr_eq(other, adapter));
        let mut left = Vec::new();
        for (root, children) in &mut self.roots {
            if root.as_ref().is_some_and(uses) {
                *root = None;
                left.append(children);
            }
        }
        while let Some(index) = left.pop() {
            let node = self.nodes[index].take().expect("a listed node exists");
            self.pool.release(node.page);
            self.free.push(index);
            left.extend(node.children);
        }
    }

    fn known(&self, root: &Root) -> Option<usize> {
        self.roots.iter().position(|(known, _)| known.as_ref().is_some_and(|known| known.is(root)))
    }

    /// The place of a root; a new one takes that of one that has become empty.
    fn root(&mut self, root: &Root) -> usize {
        if let Some(index) = self.known(root) {
            return index;
        }
        let empty = self.roots.iter().position(|(_, children)| children.is_empty());
        match empty {
            Some(index) => {
                self.roots[index].0 = Some(root.clone());
                index
            }
            None => {
                self.roots.push((Some(root.clone()), Vec::new()));
                self.roots.len() - 1
            }
        }
    }

    fn children(&self, parent: Parent) -> &[usize] {
        match parent {
            Parent::Root(root) => &self.roots[root].1,
            Parent::Node(node) => &self.node(node).children,
        }
    }

    fn children_mut(&mut self, parent: Parent) -> &mut Vec<usize> {
        match parent {
            Parent::Root(root) => &mut self.roots[root].1,
            Parent::Node(node) => &mut self.node_mut(node).children,
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().expect("a listed node exists")
    }

    fn node_mut(&mut self, index: usize) -> &mut Node {
        self.nodes[index].as_mut().expect("a listed node exists")
    }

    fn touch(&mut self, index: usize) {
        let clock = self.clock;
        self.node_mut(index).used = clock;
    }

    /// The child whose ids share the longest beginning with `part`, and its length; a whole page is found
    /// before a part of it.
    fn nearest(&self, parent: Parent, part: &[u32]) -> Option<(usize, usize)> {
        let mut best = None;
        let mut longest = 0;
        for &child in self.children(parent) {
            let tokens = common(&self.node(child).ids, part);
            if tokens > longest {
                (best, longest) = (Some((child, tokens)), tokens);
            }
        }
        best
    }

    /// A leaf that knew a beginning of `part` knows all of it.
    fn extend(&mut self, index: usize, part: &[u32], page: u32) {
        self.pool.hold(page);
        let node = self.node_mut(index);
        node.ids = part.into();
        let before = std::mem::replace(&mut node.page, page);
        self.pool.release(before);
    }

    fn add(&mut self, parent: Parent, part: &[u32], page: u32) -> usize {
        self.pool.hold(page);
        let node = Node { ids: part.into(), page, parent, children: Vec::new(), used: 0 };
        let index = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[index] = Some(node);
        self.children_mut(parent).push(index);
        index
    }

    fn remove(&mut self, index: usize) {
        let node = self.nodes[index].take().expect("a listed node exists");
        self.pool.release(node.page);
        self.children_mut(node.parent).retain(|&child| child != index);
        self.free.push(index);
    }
}

impl Drop for PrefixTree {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How many first ids two lists share.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
