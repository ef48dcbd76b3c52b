//! Pages of the key/value cache: who holds which, and how many hold it. Knows neither what a page contains
//! nor how it is read.
//!
//! A page covers a fixed number of consecutive tokens of one sequence, in every layer. Pages are counted, so
//! that sequences with a common beginning can hold the same ones; only a page with one holder may be written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// The pages of one engine: which are free and how often each is held. Cloning gives another handle to the
/// same pool.
#[derive(Clone, Debug)]
pub struct PagePool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    page_tokens: usize,
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Free pages; the last is given out first, so that a page still warm in the processor's cache is used
    /// again.
    free: Vec<u32>,
    /// How many page tables hold each page.
    holders: Vec<u32>,
}

impl PagePool {
    /// `total` pages of `page_tokens` tokens each.
    pub fn new(total: usize, page_tokens: usize) -> Self {
        assert!(page_tokens > 0, "a page holds at least one token");
        let count = u32::try_from(total).expect("fewer than 2^32 pages");
        let state = State { free: (0..count).rev().collect(), holders: vec![0; total] };
        Self { shared: Arc::new(Shared { page_tokens, total, state: Mutex::new(state) }) }
    }

    /// Tokens in a page.
    pub fn page_tokens(&self) -> usize {
        self.shared.page_tokens
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.shared.total
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.state().free.len()
    }

    /// How many of these pages have one holder.
    pub(crate) fn held_once(&self, pages: impl IntoIterator<Item = u32>) -> usize {
        let state = self.state();
        pages.into_iter().filter(|&page| state.holders[page as usize] == 1).count()
    }

    /// Becomes one more holder of a page that somebody holds.
    pub(crate) fn hold(&self, page: u32) {
        self.state().hold(page);
    }

    /// Ceases to be a holder of a page.
    pub(crate) fn release(&self, page: u32) {
        self.state().release(page);
    }

    /// A table without pages, with room for the pages of `tokens` tokens, so that growing it does not
    /// allocate.
    pub fn table(&self, tokens: usize) -> PageTable {
        let pages = Vec::with_capacity(tokens.div_ceil(self.page_tokens()));
        PageTable { pool: self.clone(), pages }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the lists consistent before anything could panic.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "a page is shared while somebody holds it");
        *holders += 1;
    }

    fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

/// The pages of one sequence, first tokens first. Dropping it lets them go.
#[derive(Debug)]
pub struct PageTable {
    pool: PagePool,
    pages: Vec<u32>,
}

impl PageTable {
    /// The pages' numbers: page `i` holds the tokens `i * page_tokens .. (i + 1) * page_tokens`.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Whether the pages are of this pool.
    pub fn is_of(&self, pool: &PagePool) -> bool {
        Arc::ptr_eq(&self.pool.shared, &pool.shared)
    }

    /// How many tokens the pages have room for.
    pub fn tokens(&self) -> usize {
        self.pages.len() * self.pool.page_tokens()
    }

    /// How many more pages `tokens` tokens in all would need.
    pub fn missing(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.pool.page_tokens()).saturating_sub(self.pages.len())
    }

    /// Takes pages until `tokens` tokens fit.
    ///
    /// # Errors
    /// [`Error::OutOfPages`], in which case nothing is taken.
    pub fn grow(&mut self, tokens: usize) -> Result<()> {
        let wanted = self.missing(tokens);
        let mut state = self.pool.state();
        let free = state.free.len();
        if wanted > free {
            let (total, page_tokens) = (self.pool.total(), self.pool.page_tokens());
            return Err(Error::OutOfPages { wanted, free, total, page_tokens });
        }
        for _ in 0..wanted {
            let page = state.free.pop().expect("as many pages are free as were counted above");
            state.holders[page as usize] = 1;
            self.pages.push(page);
        }
        Ok(())
    }

    /// Lets go of the pages that `tokens` tokens do not need.
    pub fn truncate(&mut self, tokens: usize) {
        let kept = tokens.div_ceil(self.pool.page_tokens()).min(self.pages.len());
        let mut state = self.pool.state();
        for page in self.pages.drain(kept..).rev() {
            state.release(page);
        }
    }

    /// Holds these pages, which others hold as well, in place of its own.
    pub(crate) fn adopt(&mut self, pages: &[u32]) {
        let mut state = self.pool.state();
        pages.iter().for_each(|&page| state.hold(page));
        for page in self.pages.drain(..).rev() {
            state.release(page);
        }
        drop(state);
        self.pages.extend_from_slice(pages);
    }

    /// A second table that holds the pages filled by the first `tokens` tokens; a page that they fill only in
    /// part is not shared, since its rest is still to be written.
    pub fn share(&self, tokens: usize) -> PageTable {
        let whole = (tokens / self.pool.page_tokens()).min(self.pages.len());
        let mut pages = Vec::with_capacity(self.pages.capacity());
        pages.extend_from_slice(&self.pages[..whole]);
        let mut state = self.pool.state();
        pages.iter().for_each(|&page| state.hold(page));
        drop(state);
        PageTable { pool: self.pool.clone(), pages }
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_come_back_when_the_last_holder_lets_go() {
        let pool = PagePool::new(5, 64);
        let mut first = pool.table(320);
        first.grow(130).unwrap();
        assert_eq!((first.pages(), pool.free()), (&[0, 1, 2][..], 2));
        let mut second = first.share(130);
        assert_eq!(
            (second.pages(), pool.free()),
            (&[0, 1][..], 2),
            "the half-filled third page is not shared"
        );
        second.grow(129).unwrap();
        assert_eq!(second.pages(), &[0, 1, 3]);
        first.truncate(64);
        assert_eq!(pool.free(), 2, "page 1 is still held by the second table, page 2 is free");
        drop(second);
        assert_eq!(pool.free(), 4);
        drop(first);
        assert_eq!(pool.free(), 5);
    }

    #[test]
    fn exhaustion_says_how_much_is_missing_and_takes_nothing() {
        let pool = PagePool::new(2, 64);
        let mut table = pool.table(640);
        table.grow(1).unwrap();
        let message = table.grow(640).unwrap_err().to_string();
        assert!(message.contains("9 more pages of 64 tokens are needed and 1 of 2 are free"), "{message}");
        assert_eq!((table.pages().len(), pool.free()), (1, 1));
    }

    #[test]
    fn random_growth_and_sharing_never_loses_or_doubles_a_page() {
        let pool = PagePool::new(40, 64);
        let mut tables: Vec<PageTable> = Vec::new();
        let mut state = 7u64;
        for _ in 0..5_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (state >> 33) as usize;
            let tokens = draw / 8 % 600;
            match (draw % 4, tables.len()) {
                (0, _) | (_, 0) => tables.push(pool.table(600)),
                (1, count) => _ = tables[draw % count].grow(tokens),
                (2, count) => tables.push(tables[draw % count].share(tokens)),
                (_, count) if draw % 8 == 3 => drop(tables.swap_remove(draw % count)),
                (_, count) => tables[draw % count].truncate(tokens),
            }
            let mut holders = vec![0; pool.total()];
            tables.iter().flat_map(PageTable::pages).for_each(|&page| holders[page as usize] += 1);
            assert_eq!(holders, pool.state().holders);
            assert_eq!(pool.free(), holders.iter().filter(|&&count| count == 0).count());
        }
    }
}
