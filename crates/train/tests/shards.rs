//! Packed shards as training sees them: every token once, masks with their tokens, damage and emptiness refused.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use token::pack::Room;
use token::shard::{Loss, Writer};
use token::{Tokenizer, TrainOptions};
use train::{GrowingContext, PackedShards, Samples, Sequence};

const CONTEXT: usize = 32;

/// Documents of many lengths whose ids tell their document and place, as far as bytes can.
fn documents(first: u32, count: u32) -> Vec<Vec<u32>> {
    (first..first + count)
        .map(|index| (0..index * 7 % 90).map(|place| (index * 31 + place) % 256).collect())
        .collect()
}

fn mask(ids: &[u32]) -> Vec<u8> {
    ids.iter().map(|id| u8::from(id % 3 == 0)).collect()
}

fn tokenizer(vocab_size: usize) -> Tokenizer {
    let options = TrainOptions { vocab_size, special_tokens: Vec::new(), ..TrainOptions::default() };
    Tokenizer::train(&["any text, any text"], &options, 1).unwrap()
}

fn write(folder: &Path, name: &str, documents: &[Vec<u32>]) -> PathBuf {
    let path = folder.join(name);
    let mut writer = Writer::new(&path, &tokenizer(256), Loss::Masked);
    for ids in documents {
        writer.add(ids, &mask(ids)).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn counts(ids: impl IntoIterator<Item = u32>) -> Vec<usize> {
    let mut counts = vec![0; 256];
    ids.into_iter().for_each(|id| counts[id as usize] += 1);
    counts
}

#[test]
fn sequences_hold_every_token_once_with_its_mask() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (documents(1, 60), documents(200, 40));
    let paths = [write(folder.path(), "a", &first), write(folder.path(), "b", &second)];
    for room in [Room::Fill, Room::Leave] {
        let packed = PackedShards::open(&paths, &tokenizer(256), CONTEXT, room).unwrap();
        let (mut all, mut sequence) = (Vec::new(), Sequence::default());
        for index in 0..packed.len() {
            packed.read(index, &mut sequence);
            assert!(sequence.ids.len() <= CONTEXT);
            assert_eq!(sequence.lengths.iter().sum::<usize>(), sequence.ids.len());
            assert_eq!(sequence.mask, mask(&sequence.ids), "{room:?} {index}");
            let mut rest = sequence.ids.as_slice();
            for &length in &sequence.lengths {
                let (piece, after) = rest.split_at(length);
                assert!(
                    piece.windows(2).all(|pair| (pair[0] + 1) % 256 == pair[1]),
                    "one document: {piece:?}"
                );
                rest = after;
            }
            all.extend_from_slice(&sequence.ids);
        }
        let given = || first.iter().chain(&second).flatten().copied();
        assert_eq!(packed.tokens(), given().count() as u64);
        assert_eq!(counts(all), counts(given()), "{room:?}");
    }
}

#[test]
fn the_fingerprint_follows_content_context_and_packing() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a", &documents(1, 20));
    let same = write(folder.path(), "same", &documents(1, 20));
    let other = write(folder.path(), "other", &documents(2, 20));
    let of = |path: &PathBuf, context, room| {
        PackedShards::open(&[path], &tokenizer(256), context, room).unwrap().fingerprint().to_owned()
    };
    let expected = of(&a, CONTEXT, Room::Fill);
    assert_eq!(of(&same, CONTEXT, Room::Fill), expected);
    assert_ne!(of(&other, CONTEXT, Room::Fill), expected);
    assert_ne!(of(&a, CONTEXT + 1, Room::Fill), expected);
    assert_ne!(of(&a, CONTEXT, Room::Leave), expected);
}

#[test]
fn damaged_missing_and_empty_shards_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = write(folder.path(), "damaged", &documents(1, 20));
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let empty = write(folder.path(), "empty", &[]);
    let missing = folder.path().join("missing");
    let good = write(folder.path(), "good", &documents(1, 20));
    for (path, vocab_size, expected) in [
        (damaged, 256, "is damaged"),
        (empty, 256, "no tokens in"),
        (missing, 256, "cannot open"),
        (good, 257, "made with tokenizer"),
    ] {
        let opened = PackedShards::open(&[&path], &tokenizer(vocab_size), CONTEXT, Room::Fill);
        let message = opened.err().unwrap().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_growing_context_reads_short_pieces_first_and_then_long_ones() {
    let folder = tempfile::tempdir().unwrap();
    let texts = documents(1, 60);
    let paths = [write(folder.path(), "a", &texts)];
    let long = PackedShards::open(&paths, &tokenizer(256), CONTEXT, Room::Fill).unwrap();
    let mut options = train::TrainOptions::new(10, 4, CONTEXT);
    let plain = GrowingContext::open(&paths, &tokenizer(256), &options, Room::Fill).unwrap();
    assert_eq!((plain.fingerprint(), plain.len()), (long.fingerprint(), long.len()));
    (options.short_context, options.short_steps) = (CONTEXT / 4, 6);
    let growing = GrowingContext::open(&paths, &tokenizer(256), &options, Room::Fill).unwrap();
    assert_ne!(growing.fingerprint(), long.fingerprint());
    let (mut sequence, mut expected) = (Sequence::default(), Sequence::default());
    let mut short = Vec::new();
    for index in 0..growing.len() - long.len() {
        growing.read(index, &mut sequence);
        assert!(
            sequence.ids.len() <= CONTEXT && sequence.lengths.iter().all(|&length| length <= CONTEXT / 4)
        );
        assert_eq!(sequence.mask, mask(&sequence.ids));
        short.extend_from_slice(&sequence.ids);
    }
    assert_eq!(counts(short), counts(texts.iter().flatten().copied()), "short pieces are all of the text");
    let switch = (options.short_steps * options.batch_sequences) as u64;
    for sample in 0..2 * switch {
        let index = growing.index(3, sample);
        assert_eq!(index < growing.len() - long.len(), sample < switch, "sample {sample}");
        if sample >= switch {
            growing.read(index, &mut sequence);
            long.read(long.index(3, sample), &mut expected);
            assert_eq!(sequence, expected, "sample {sample}");
        }
    }
}
