//! One sequence's ids and the pages that hold its keys and values, and the part of it that a step computes.
//! Knows neither the model nor sampling.

use std::sync::Arc;

use crate::rotary::Tables;
use crate::{Adapter, PagePool, PageTable};

/// Ids, and how many of them the cache holds.
pub struct Sequence {
    ids: Vec<u32>,
    computed: usize,
    pub(crate) pages: PageTable,
    /// What its positions are turned by; a page's keys are of one set.
    pub(crate) rotary: Tables,
    /// What is added to the base model's products for its rows.
    pub(crate) adapter: Option<Arc<Adapter>>,
}

impl Sequence {
    /// A sequence without ids, with room for `tokens` of them, so that growing it that far does not allocate.
    pub(crate) fn new(pool: &PagePool, rotary: Tables, tokens: usize) -> Self {
        Self {
            ids: Vec::with_capacity(tokens),
            computed: 0,
            pages: pool.table(tokens),
            rotary,
            adapter: None,
        }
    }

    /// All ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many ids, from the first, have their keys and values in the cache.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Ids that no step has computed yet.
    pub fn pending(&self) -> usize {
        self.ids.len() - self.computed
    }

    /// Appends an id.
    pub fn push(&mut self, id: u32) {
        self.ids.push(id);
    }

    /// Appends ids.
    pub fn extend(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
    }

    /// Forgets all ids from position `tokens` on, and the pages that only they need.
    pub fn truncate(&mut self, tokens: usize) {
        self.ids.truncate(tokens);
        self.computed = self.computed.min(tokens);
        self.pages.truncate(tokens);
    }

    /// A second sequence with the same ids. It shares the pages that are full, which no step writes again;
    /// the rest of its ids is to be computed anew.
    pub fn fork(&self) -> Self {
        let pages = self.pages.share(self.computed);
        let computed = self.computed.min(pages.tokens());
        let mut ids = Vec::with_capacity(self.ids.capacity());
        ids.extend_from_slice(&self.ids);
        Self { ids, computed, pages, rotary: self.rotary.clone(), adapter: self.adapter.clone() }
    }

    /// Lets go of all pages; every id is to be computed anew.
    pub(crate) fn release(&mut self) {
        self.pages.truncate(0);
        self.computed = 0;
    }

    /// Holds pages that others have filled: the whole pages given, for its first ids.
    pub(crate) fn adopt(&mut self, pages: &[u32], page_tokens: usize) {
        self.pages.adopt(pages);
        self.computed = pages.len() * page_tokens;
    }

    pub(crate) fn advance(&mut self, rows: usize) {
        self.computed += rows;
    }
}

/// Which rows of a chunk are to have logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the chunk only fills the cache.
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// What one step computes of one sequence: its next `rows` pending ids.
pub struct Chunk {
    /// The sequence; each belongs to one chunk, so it is owned here and taken back when it ends.
    pub sequence: Sequence,
    /// How many of the pending ids to compute; 0 leaves the sequence out of the step.
    pub rows: usize,
    /// Which of these rows are to have logits.
    pub logits: LogitRows,
}

impl Chunk {
    /// A chunk of all pending ids with logits for the last.
    pub fn new(sequence: Sequence) -> Self {
        let rows = sequence.pending();
        Self { sequence, rows, logits: LogitRows::Last }
    }

    /// Rows of logits that a step gives for this chunk.
    pub fn logit_rows(&self) -> usize {
        match self.logits {
            LogitRows::None => 0,
            LogitRows::Last => self.rows.min(1),
            LogitRows::All => self.rows,
        }
    }
}
