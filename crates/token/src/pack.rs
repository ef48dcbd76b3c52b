//! Packing: documents of any length into sequences of one length, with few cuts.
//! Knows lengths only; must not know ids, files or batches.
//!
//! Best-fit decreasing after Ding et al., "Fewer Truncations Improve Language Modeling" (2024), section 3: documents
//! are first cut into pieces of at most the sequence length, then each piece, the longest first, goes where the least
//! room is left. What room remains is filled here by cutting the contents of the emptiest sequences.

use crate::error::{Error, Result};

/// A stretch of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The document's index.
    pub document: u32,
    /// The first token, counted from the document's start.
    pub start: u64,
    /// The number of tokens; at least 1.
    pub length: u32,
}

/// What becomes of the room that best fit leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Documents are cut to fill it: all sequences but the last are full (pretraining).
    Fill,
    /// It stays, to be padded; only documents longer than a sequence are cut (fine-tuning).
    Leave,
}

/// Sequences as lists of segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Packing {
    segments: Vec<Segment>,
    starts: Vec<usize>,
    /// Cuts in documents longer than a sequence, which no packing avoids.
    pub long_cuts: u64,
    /// Cuts made to fill sequences.
    pub fill_cuts: u64,
}

/// Packs documents of the given lengths (in tokens) into sequences of `sequence_tokens`. Every token comes in exactly
/// one segment. Takes time in proportion to the number of pieces times log64 of `sequence_tokens`; deterministic.
///
/// # Errors
/// [`Error::Packing`] for sequences of no tokens or more than 2³² documents or tokens in a sequence.
pub fn best_fit(lengths: &[u64], sequence_tokens: usize, room: Room) -> Result<Packing> {
    if sequence_tokens == 0 {
        return Err(Error::Packing("sequences of no tokens hold nothing; ask for at least one".into()));
    }
    if u32::try_from(lengths.len()).is_err() || sequence_tokens >= u32::MAX as usize {
        return Err(Error::Packing(format!(
            "{} documents or {sequence_tokens} tokens a sequence are more than 32 bits hold; pack each shard alone",
            lengths.len()
        )));
    }
    let (full, pieces, long_cuts) = cut_long(lengths, sequence_tokens as u64);
    let mut bins = place(pieces, sequence_tokens);
    let fill_cuts = if room == Room::Fill { fill(&mut bins, sequence_tokens) } else { 0 };
    let mut packing = Packing { segments: full, starts: Vec::new(), long_cuts, fill_cuts };
    packing.starts = (0..=packing.segments.len()).collect();
    for bin in bins {
        packing.segments.extend(bin.segments);
        packing.starts.push(packing.segments.len());
    }
    Ok(packing)
}

impl Packing {
    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// True when there was nothing to pack.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segments of one sequence, in order. Panics when `sequence` is not below [`Packing::len`].
    pub fn sequence(&self, sequence: usize) -> &[Segment] {
        &self.segments[self.starts[sequence]..self.starts[sequence + 1]]
    }

    /// All sequences, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[Segment]> {
        self.starts.windows(2).map(|ends| &self.segments[ends[0]..ends[1]])
    }
}

struct Bin {
    segments: Vec<Segment>,
    used: usize,
}

/// Full sequences from the fronts of long documents, the pieces that remain, and the number of cuts.
fn cut_long(lengths: &[u64], limit: u64) -> (Vec<Segment>, Vec<Segment>, u64) {
    let (mut full, mut rest, mut cuts) = (Vec::new(), Vec::new(), 0);
    for (document, &length) in lengths.iter().enumerate() {
        let document = document as u32;
        cuts += length.div_ceil(limit).saturating_sub(1);
        full.extend((0..length / limit).map(|index| Segment {
            document,
            start: index * limit,
            length: limit as u32,
        }));
        let tail = length % limit;
        if tail > 0 {
            rest.push(Segment { document, start: length - tail, length: tail as u32 });
        }
    }
    (full, rest, cuts)
}

/// Best fit in descending order of length; equal lengths in order of documents.
fn place(mut pieces: Vec<Segment>, sequence_tokens: usize) -> Vec<Bin> {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.length));
    let mut bins: Vec<Bin> = Vec::new();
    // Bins by the room that they have left, and which amounts of room occur.
    let mut by_room: Vec<Vec<u32>> = vec![Vec::new(); sequence_tokens + 1];
    let mut rooms = BitTree::new(sequence_tokens + 1);
    for piece in pieces {
        let length = piece.length as usize;
        let bin = match rooms.next_from(length) {
            Some(room) => {
                let bin = by_room[room].pop().expect("the bit says that a bin has this room");
                if by_room[room].is_empty() {
                    rooms.clear(room);
                }
                bin as usize
            }
            None => {
                bins.push(Bin { segments: Vec::new(), used: 0 });
                bins.len() - 1
            }
        };
        bins[bin].segments.push(piece);
        bins[bin].used += length;
        let room = sequence_tokens - bins[bin].used;
        if room > 0 {
            by_room[room].push(bin as u32);
            rooms.set(room);
        }
    }
    bins
}

/// Empties the emptiest bins into the room of the fuller ones; returns the number of cuts.
fn fill(bins: &mut Vec<Bin>, sequence_tokens: usize) -> u64 {
    bins.sort_by_key(|bin| std::cmp::Reverse(bin.used));
    let mut cuts = 0;
    let mut target = bins.partition_point(|bin| bin.used == sequence_tokens);
    while target + 1 < bins.len() {
        let room = sequence_tokens - bins[target].used;
        if room == 0 {
            target += 1;
            continue;
        }
        let source = bins.last_mut().expect("the loop's condition: a bin after the target");
        let Some(piece) = source.segments.pop() else {
            bins.pop();
            continue;
        };
        let taken = room.min(piece.length as usize);
        source.used -= taken;
        if taken < piece.length as usize {
            let left = piece.length - taken as u32;
            source.segments.push(Segment { start: piece.start + taken as u64, length: left, ..piece });
            cuts += 1;
        }
        bins[target].segments.push(Segment { length: taken as u32, ..piece });
        bins[target].used += taken;
    }
    bins.retain(|bin| bin.used > 0);
    cuts
}

/// A set of small integers that finds the next member at or above a number in a few steps: each level's bit says
/// whether 64 bits of the level below hold anything.
struct BitTree {
    levels: Vec<Vec<u64>>,
}

impl BitTree {
    fn new(size: usize) -> BitTree {
        let mut levels = vec![vec![0; size.div_ceil(64)]];
        while levels[levels.len() - 1].len() > 1 {
            levels.push(vec![0; levels[levels.len() - 1].len().div_ceil(64)]);
        }
        BitTree { levels }
    }

    fn set(&mut self, mut index: usize) {
        for level in &mut self.levels {
            level[index / 64] |= 1 << (index % 64);
            index /= 64;
        }
    }

    fn clear(&mut self, mut index: usize) {
        for level in &mut self.levels {
            level[index / 64] &= !(1 << (index % 64));
            if level[index / 64] != 0 {
                return;
            }
            index /= 64;
        }
    }

    fn next_from(&self, mut index: usize) -> Option<usize> {
        for (height, level) in self.levels.iter().enumerate() {
            let word = *level.get(index / 64)?;
            let above = word & (u64::MAX << (index % 64));
            if above != 0 {
                let mut found = index / 64 * 64 + above.trailing_zeros() as usize;
                for below in self.levels[..height].iter().rev() {
                    found = found * 64 + below[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            index = index / 64 + 1;
        }
        None
    }
}
