//! Guessing ids ahead, so that one step can check several of them. Knows neither logits nor how guesses are
//! checked.
//!
//! A guess comes from the sequence itself: what followed the last time that its last ids stood there (prompt
//! lookup, Saxena 2023), or from a small model. Where guesses are seldom right, the answer pauses guessing.

use std::collections::BTreeMap;

use super::Ticket;
use crate::sampler::highest;
use crate::{Chunk, Engine, LogitRows, Sequence};

/// Most and fewest last ids whose earlier place is looked for.
const PATTERN: std::ops::RangeInclusive<usize> = 2..=4;

/// The share of right guesses below which guessing costs more than it gives: a row that is computed in vain
/// costs about as much as half a token.
const RIGHT_MIN: f32 = 0.4;

/// Tokens for which an answer pauses whose guesses were seldom right.
const PAUSE_TOKENS: usize = 48;

/// How an answer's guesses have fared.
#[derive(Clone, Debug)]
pub(super) struct Guessing {
    /// Guesses in the sequence that the step under way checks.
    pub open: usize,
    /// A running mean of the share of right ones.
    right: f32,
    /// Guesses at a time.
    length: usize,
    /// Tokens until guessing begins again.
    pause: usize,
}

impl Default for Guessing {
    fn default() -> Self {
        Self { open: 0, right: 0.6, length: 2, pause: 0 }
    }
}

impl Guessing {
    /// How many ids to guess now, of at most `limit`.
    pub fn wanted(&mut self, limit: usize) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.length.min(limit)
    }

    /// Notes how many of the open guesses were right.
    pub fn checked(&mut self, right: usize) {
        let open = std::mem::take(&mut self.open);
        if open == 0 {
            return;
        }
        self.length = if right == open { open * 2 } else { right + 1 };
        self.right += 0.25 * (right as f32 / open as f32 - self.right);
        if self.right < RIGHT_MIN {
            // After the pause one wrong guess is enough for the next.
            *self = Self { pause: PAUSE_TOKENS, right: RIGHT_MIN, length: 1, open: 0 };
        }
    }
}

/// What followed the latest earlier place of the longest known pattern of last ids, at most `count` ids.
pub(super) fn look_up(ids: &[u32], count: usize) -> &[u32] {
    for length in PATTERN.rev().filter(|&length| length < ids.len()) {
        let pattern = &ids[ids.len() - length..];
        let before = &ids[..ids.len() - 1];
        if let Some(place) = before.windows(length).rposition(|window| window == pattern) {
            let next = place + length;
            return &ids[next..ids.len().min(next + count)];
        }
    }
    &[]
}

/// A small model that guesses for many answers.
pub(super) struct DraftModel {
    engine: Engine,
    sequences: BTreeMap<Ticket, Sequence>,
}

impl DraftModel {
    pub fn new(engine: Engine) -> Self {
        Self { engine, sequences: BTreeMap::new() }
    }

    /// Forgets an answer that steps no more.
    pub fn forget(&mut self, ticket: Ticket) {
        self.sequences.remove(&ticket);
    }

    pub fn forget_all(&mut self) {
        self.sequences.clear();
    }

    /// The most probable ids after each sequence, as many as each wants; none where this model's cache or context
    /// has no room.
    pub fn guess(&mut self, wants: &[(Ticket, &[u32], usize)]) -> Vec<Vec<u32>> {
        let mut chunks: Vec<Chunk> =
            wants.iter().map(|&(ticket, ids, count)| self.chunk(ticket, ids, count)).collect();
        let mut guesses = vec![Vec::new(); wants.len()];
        let most = wants.iter().map(|want| want.2).max().unwrap_or(0);
        for round in 0..most {
            for (chunk, &(_, ids, count)) in chunks.iter_mut().zip(wants) {
                let fits = ids.len() + count <= self.engine.context_tokens();
                chunk.rows = if round < count && fits { chunk.sequence.pending() } else { 0 };
            }
            let Ok(logits) = self.engine.step(&mut chunks) else { break };
            let found = (0..chunks.len()).map(|index| {
                logits.of(index).iter().next().and_then(|row| highest(row, 1).first().map(|best| best.id))
            });
            let found: Vec<Option<u32>> = found.collect();
            for ((chunk, guesses), id) in chunks.iter_mut().zip(&mut guesses).zip(found) {
                if let Some(id) = id {
                    guesses.push(id);
                    chunk.sequence.push(id);
                }
            }
        }
        for (chunk, &(ticket, ..)) in chunks.into_iter().zip(wants) {
            self.sequences.insert(ticket, chunk.sequence);
        }
        guesses
    }

    /// An answer's sequence in this model, brought to the answer's ids.
    fn chunk(&mut self, ticket: Ticket, ids: &[u32], count: usize) -> Chunk {
        let known = self.sequences.remove(&ticket);
        let mut sequence = known.unwrap_or_else(|| self.engine.sequence(ids.len() + count));
        // The last id is computed again where it is known, since its logits are needed.
        let same = crate::prefix::common(sequence.ids(), &ids[..ids.len() - 1]);
        sequence.truncate(same);
        sequence.extend(&ids[same..]);
        Chunk { sequence, rows: 0, logits: LogitRows::Last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_last_ids_before_is_guessed() {
        let check = |ids: &[u32], count: usize, expected: &[u32]| assert_eq!(look_up(ids, count), expected);
        check(&[1, 2, 3, 4, 1, 2], 2, &[3, 4]);
        check(&[1, 2, 3, 4, 1, 2], 9, &[3, 4, 1, 2]);
        // The latest place counts, and a longer pattern before a later one.
        check(&[1, 2, 5, 1, 2, 6, 1, 2], 1, &[6]);
        check(&[9, 1, 2, 5, 1, 2, 6, 9, 1, 2], 1, &[5]);
        // A pattern may overlap itself.
        check(&[7, 7, 7, 7], 3, &[7]);
        check(&[1, 2, 3], 4, &[]);
        check(&[1], 4, &[]);
        check(&[], 4, &[]);
    }

    #[test]
    fn guessing_pauses_where_it_is_seldom_right_and_tries_again() {
        let mut guessing = Guessing::default();
        let mut asked = Vec::new();
        for _ in 0..200 {
            guessing.open = guessing.wanted(8);
            asked.push(guessing.open);
            guessing.checked(0);
        }
        let count = asked.iter().filter(|&&count| count > 0).count();
        assert!((3..=8).contains(&count), "{asked:?}");
        let mut guessing = Guessing::default();
        for _ in 0..5 {
            guessing.open = guessing.wanted(8);
            let open = guessing.open;
            guessing.checked(open);
        }
        assert_eq!(guessing.wanted(8), 8, "all right: as many as are allowed");
    }
}
