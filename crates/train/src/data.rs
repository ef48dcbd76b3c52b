//! From packed sequences to batches: which sequence comes when, and what each row should predict.
//!
//! The order is a function of the seed and the number of the sample, so that a resumed run repeats and skips
//! nothing. It must not know the model, nor what a token means.

use crate::{Error, Result, TrainOptions};
use base::seed::permute;
use std::ops::Range;
use std::path::Path;
use token::Tokenizer;
use token::pack::{Packing, Room, best_fit};
use token::shard::Reader;

/// A packed sequence: pieces of documents, one after the other, at most [`Samples::context`] tokens in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 1 where the loss counts when this token is predicted, else 0; as long as `ids`.
    pub mask: Vec<u8>,
    /// Lengths of the pieces; their sum is the number of ids.
    pub lengths: Vec<usize>,
}

/// Numbered packed sequences.
pub trait Samples {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that a sequence holds at most.
    fn context(&self) -> usize;

    /// What the sequences hold, as a hash: equal ones train equally.
    fn fingerprint(&self) -> &str;

    /// Writes sequence `index` over `sequence`.
    fn read(&self, index: usize, sequence: &mut Sequence);

    /// Which sequence is the `sample`-th of a run with this seed; see [`sequence_index`].
    fn index(&self, seed: u64, sample: u64) -> usize {
        sequence_index(seed, sample, self.len())
    }
}

/// Sequences packed from the documents of shards, which stay memory-mapped.
pub struct PackedShards {
    shards: Vec<(Reader, Packing)>,
    /// Where each shard's sequences begin, and the end.
    starts: Vec<usize>,
    context: usize,
    /// Packed bins that lie side by side in one sequence; more than one where documents are cut shorter.
    bins: usize,
    fingerprint: String,
}

impl PackedShards {
    /// Opens shards of `tokenizer`, verifies them and packs the documents of each.
    ///
    /// # Errors
    /// [`Error::Token`] for a shard that is missing, damaged or of another tokenizer; [`Error::Data`] when there is
    /// nothing to train on.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        tokenizer: &Tokenizer,
        context: usize,
        room: Room,
    ) -> Result<PackedShards> {
        PackedShards::open_cut(paths, tokenizer, context, 1, room)
    }

    /// As [`PackedShards::open`], with `bins` bins of `context / bins` tokens side by side in each sequence.
    fn open_cut<P: AsRef<Path>>(
        paths: &[P],
        tokenizer: &Tokenizer,
        context: usize,
        bins: usize,
        room: Room,
    ) -> Result<PackedShards> {
        let fingerprint = String::new();
        let mut packed = PackedShards { shards: Vec::new(), starts: vec![0], context, bins, fingerprint };
        let mut parts = vec![match bins {
            1 => format!("{context} {room:?}"),
            _ => format!("{bins} × {} {room:?}", context / bins),
        }];
        for path in paths {
            let reader = Reader::open(path)?;
            reader.check_tokenizer(tokenizer)?;
            let packing = best_fit(&reader.document_lengths(), context / bins, room)?;
            let start = packed.len();
            packed.starts.push(start + packing.len().div_ceil(bins));
            packed.shards.push((reader, packing));
            parts.push(base::hash::hash_file(path.as_ref())?);
        }
        packed.fingerprint = base::hash::hash_parts(parts.iter().map(String::as_str));
        if packed.is_empty() {
            let names: Vec<String> = paths.iter().map(|path| path.as_ref().display().to_string()).collect();
            let message = format!("no tokens in {}; are there documents in the corpus?", names.join(", "));
            return Err(Error::Data { message });
        }
        Ok(packed)
    }

    /// Tokens in all sequences.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|(reader, _)| reader.tokens()).sum()
    }

    /// Documents in all shards.
    pub fn documents(&self) -> usize {
        self.shards.iter().map(|(reader, _)| reader.documents()).sum()
    }
}

impl Samples for PackedShards {
    fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn context(&self) -> usize {
        self.context
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn read(&self, index: usize, sequence: &mut Sequence) {
        let shard = self.starts.partition_point(|&start| start <= index) - 1;
        let (reader, packing) = &self.shards[shard];
        let Sequence { ids, mask, lengths } = sequence;
        lengths.clear();
        let first = (index - self.starts[shard]) * self.bins;
        let bins = first..(first + self.bins).min(packing.len());
        let segments = || bins.clone().flat_map(|bin| packing.sequence(bin));
        lengths.extend(segments().map(|segment| segment.length as usize));
        let tokens: usize = lengths.iter().sum();
        ids.resize(tokens, 0);
        mask.resize(tokens, 0);
        let mut at = 0;
        for segment in segments() {
            let start = reader.document(segment.document as usize).start + segment.start;
            let rows = at..at + segment.length as usize;
            reader.read_ids(start, &mut ids[rows.clone()]);
            reader.read_mask(start, &mut mask[rows.clone()]);
            at = rows.end;
        }
    }
}

/// Shards whose documents are first cut short, then packed whole: attention over short pieces costs less, and a
/// batch of them holds more documents, while a young model has little use for what lies far back (Li et al. 2022,
/// "The Stability-Efficiency Dilemma: Investigating Sequence Length Warmup for Training GPT Models").
///
/// Every sequence has the same number of tokens throughout; of the short ones several lie side by side.
pub struct GrowingContext {
    short: Option<PackedShards>,
    long: PackedShards,
    /// Samples of a run that are short.
    short_samples: u64,
    fingerprint: String,
}

impl GrowingContext {
    /// Opens shards as `options` ask: pieces of `options.short_context` tokens for `options.short_steps` steps,
    /// then of `options.context`.
    ///
    /// # Errors
    /// As [`PackedShards::open`]; [`Error::Options`] for a short context that does not divide the other.
    pub fn open<P: AsRef<Path>>(
        paths: &[P],
        tokenizer: &Tokenizer,
        options: &TrainOptions,
        room: Room,
    ) -> Result<GrowingContext> {
        options.check()?;
        let (context, short_context) = (options.context, options.short_context);
        let long = PackedShards::open(paths, tokenizer, context, room)?;
        if short_context == 0 || options.short_steps == 0 {
            let fingerprint = long.fingerprint.clone();
            return Ok(GrowingContext { short: None, long, short_samples: 0, fingerprint });
        }
        let short = PackedShards::open_cut(paths, tokenizer, context, context / short_context, room)?;
        let short_samples = (options.short_steps * options.batch_sequences) as u64;
        let parts = [short.fingerprint(), long.fingerprint(), &short_samples.to_string()];
        let fingerprint = base::hash::hash_parts(parts);
        Ok(GrowingContext { short: Some(short), long, short_samples, fingerprint })
    }

    /// The sequences of the whole context.
    pub fn whole(&self) -> &PackedShards {
        &self.long
    }

    fn short_len(&self) -> usize {
        self.short.as_ref().map_or(0, Samples::len)
    }
}

impl Samples for GrowingContext {
    fn len(&self) -> usize {
        self.short_len() + self.long.len()
    }

    fn context(&self) -> usize {
        self.long.context()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn read(&self, index: usize, sequence: &mut Sequence) {
        match &self.short {
            Some(short) if index < short.len() => short.read(index, sequence),
            _ => self.long.read(index - self.short_len(), sequence),
        }
    }

    fn index(&self, seed: u64, sample: u64) -> usize {
        match &self.short {
            Some(short) if sample < self.short_samples => short.index(seed, sample),
            _ => self.short_len() + self.long.index(seed, sample),
        }
    }
}

/// Sequences held in memory.
pub struct MemorySamples {
    sequences: Vec<Sequence>,
    context: usize,
    fingerprint: String,
}

impl MemorySamples {
    /// Sequences as given.
    ///
    /// # Errors
    /// [`Error::Data`] for a sequence that is longer than `context`, or whose parts do not fit together.
    pub fn new(sequences: Vec<Sequence>, context: usize) -> Result<MemorySamples> {
        for (index, Sequence { ids, mask, lengths }) in sequences.iter().enumerate() {
            let total: usize = lengths.iter().sum();
            if ids.len() > context || mask.len() != ids.len() || total != ids.len() {
                let message = format!(
                    "sequence {index} has {} ids, {} mask entries and pieces of {total} tokens; context {context}",
                    ids.len(),
                    mask.len()
                );
                return Err(Error::Data { message });
            }
        }
        let texts = sequences.iter().map(|sequence| format!("{sequence:?}"));
        let texts: Vec<String> = texts.chain([context.to_string()]).collect();
        let fingerprint = base::hash::hash_parts(texts.iter().map(String::as_str));
        Ok(MemorySamples { sequences, context, fingerprint })
    }
}

impl Samples for MemorySamples {
    fn len(&self) -> usize {
        self.sequences.len()
    }

    fn context(&self) -> usize {
        self.context
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn read(&self, index: usize, sequence: &mut Sequence) {
        let from = &self.sequences[index];
        sequence.ids.clone_from(&from.ids);
        sequence.mask.clone_from(&from.mask);
        sequence.lengths.clone_from(&from.lengths);
    }
}

/// Which sequence is the `sample`-th of a run: each epoch visits every sequence once, in an order of its own.
pub fn sequence_index(seed: u64, sample: u64, sequences: usize) -> usize {
    let sequences = sequences as u64;
    let (epoch, place) = (sample / sequences, sample % sequences);
    // A stream of its own for each epoch; the multiplier is that of SplitMix64 (Steele et al. 2014).
    let epoch_seed = seed.wrapping_add(epoch.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    permute(epoch_seed, sequences, place) as usize
}

/// Rows that go through the model at once. Every sequence fills `context` rows: what it lacks is padded with a
/// document of its own that predicts nothing, so that all batches have one size.
#[derive(Default)]
pub(crate) struct MicroBatch {
    /// (rows)
    pub(crate) ids: Vec<u32>,
    /// The token that follows in the same document piece, (rows).
    pub(crate) targets: Vec<u32>,
    /// 1 where there is such a token and its loss counts, (rows).
    pub(crate) weights: Vec<f32>,
    /// Position in the document piece, (rows).
    pub(crate) positions: Vec<u32>,
    /// Rows of each document piece.
    pub(crate) documents: Vec<Range<usize>>,
    sequence: Sequence,
}

impl MicroBatch {
    /// Takes the sequences with the given numbers.
    ///
    /// # Errors
    /// [`Error::Data`] when an id is outside the vocabulary.
    pub(crate) fn fill(
        &mut self,
        samples: &dyn Samples,
        indices: impl Iterator<Item = usize>,
        vocab_size: usize,
    ) -> Result<()> {
        self.ids.clear();
        self.targets.clear();
        self.weights.clear();
        self.positions.clear();
        self.documents.clear();
        for index in indices {
            let mut sequence = std::mem::take(&mut self.sequence);
            samples.read(index, &mut sequence);
            if let Some(id) = sequence.ids.iter().find(|&&id| id as usize >= vocab_size) {
                let message = format!(
                    "sequence {index} holds id {id}, outside the model's vocabulary of {vocab_size}; \
                     were the shards made with this model's tokenizer?"
                );
                return Err(Error::Data { message });
            }
            self.push(&sequence, samples.context());
            self.sequence = sequence;
        }
        Ok(())
    }

    /// Sum of all weights: the number of targets.
    pub(crate) fn target_count(&self) -> u64 {
        self.weights.iter().filter(|&&weight| weight > 0.0).count() as u64
    }

    fn push(&mut self, sequence: &Sequence, context: usize) {
        let mut at = 0;
        for &length in &sequence.lengths {
            let piece = at..at + length;
            let (ids, mask) = (&sequence.ids[piece.clone()], &sequence.mask[piece]);
            self.piece(length);
            self.ids.extend_from_slice(ids);
            self.targets.extend(ids.iter().skip(1).chain([&0]).take(length));
            let weights = mask.iter().skip(1).map(|&counts| f32::from(counts.min(1)));
            self.weights.extend(weights.chain([0.0]).take(length));
            at += length;
        }
        let padding = context - at;
        if padding > 0 {
            self.piece(padding);
            let rows = self.ids.len() + padding;
            self.ids.resize(rows, 0);
            self.targets.resize(rows, 0);
            self.weights.resize(rows, 0.0);
        }
    }

    fn piece(&mut self, length: usize) {
        let start = self.positions.len();
        self.documents.push(start..start + length);
        self.positions.extend(0..length as u32);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_epoch_visits_every_sequence_once_in_its_own_order() {
        for (seed, sequences) in [(0, 1), (1, 2), (7, 97), (8, 1_000)] {
            let epoch = |number: usize| -> Vec<usize> {
                let samples = number * sequences..(number + 1) * sequences;
                samples.map(|sample| sequence_index(seed, sample as u64, sequences)).collect()
            };
            for number in 0..3 {
                let visited: BTreeSet<usize> = epoch(number).into_iter().collect();
                assert_eq!(visited, (0..sequences).collect(), "seed {seed}, epoch {number}");
            }
            if sequences > 50 {
                assert_ne!(epoch(0), epoch(1));
                assert_ne!(epoch(0), (0..sequences).collect::<Vec<_>>());
                assert_ne!(
                    epoch(0)[0..20],
                    (0..20).map(|s| sequence_index(seed + 1, s, sequences)).collect::<Vec<_>>()
                );
            }
        }
    }

    fn samples(sequences: Vec<Sequence>) -> MemorySamples {
        MemorySamples::new(sequences, 8).unwrap()
    }

    #[test]
    fn targets_stay_in_their_document_and_heed_the_mask() {
        let sequence =
            Sequence { ids: vec![1, 2, 3, 4, 5, 6], mask: vec![1, 0, 1, 1, 1, 1], lengths: vec![3, 1, 2] };
        let mut batch = MicroBatch::default();
        batch.fill(&samples(vec![sequence]), [0, 0].into_iter(), 7).unwrap();
        let once = |values: &[u32]| [values, values].concat();
        assert_eq!(batch.ids, once(&[1, 2, 3, 4, 5, 6, 0, 0]));
        assert_eq!(batch.targets, once(&[2, 3, 0, 0, 6, 0, 0, 0]));
        assert_eq!(batch.positions, once(&[0, 1, 2, 0, 0, 1, 0, 1]));
        assert_eq!(batch.weights, [[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]; 2].concat());
        assert_eq!(batch.documents, [0..3, 3..4, 4..6, 6..8, 8..11, 11..12, 12..14, 14..16]);
        assert_eq!(batch.target_count(), 4);
    }

    #[test]
    fn a_batch_that_was_larger_leaves_nothing_behind() {
        let long = Sequence { ids: vec![1; 8], mask: vec![1; 8], lengths: vec![8] };
        let short = Sequence { ids: vec![2; 2], mask: vec![1; 2], lengths: vec![2] };
        let all = samples(vec![long, short]);
        let (mut reused, mut fresh) = (MicroBatch::default(), MicroBatch::default());
        reused.fill(&all, [0, 0, 0].into_iter(), 9).unwrap();
        reused.fill(&all, [1].into_iter(), 9).unwrap();
        fresh.fill(&all, [1].into_iter(), 9).unwrap();
        assert_eq!(
            (reused.ids, reused.documents, reused.weights),
            (fresh.ids, fresh.documents, fresh.weights)
        );
    }

    #[test]
    fn misfits_are_refused_with_their_number() {
        let alien = Sequence { ids: vec![9], mask: vec![1], lengths: vec![1] };
        let mut batch = MicroBatch::default();
        let error = batch.fill(&samples(vec![alien]), [0].into_iter(), 9).unwrap_err().to_string();
        assert!(error.contains("sequence 0 holds id 9"), "{error}");
        for bad in [
            Sequence { ids: vec![1; 9], mask: vec![1; 9], lengths: vec![9] },
            Sequence { ids: vec![1; 2], mask: vec![1; 1], lengths: vec![2] },
            Sequence { ids: vec![1; 2], mask: vec![1; 2], lengths: vec![1] },
        ] {
            assert!(MemorySamples::new(vec![bad.clone()], 8).is_err(), "{bad:?}");
        }
    }
}
