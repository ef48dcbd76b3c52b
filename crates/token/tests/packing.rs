//! Best-fit packing: each token once, no sequence too long, few cuts, quick on many documents.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;
use token::pack::{Packing, Room, best_fit};

/// Verifies what every packing must hold.
fn check(lengths: &[u64], limit: usize, room: Room) -> Packing {
    let packing = best_fit(lengths, limit, room).unwrap();
    let mut parts: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    let mut short = 0;
    let mut segments = 0;
    for sequence in packing.iter() {
        let used: u64 = sequence.iter().map(|segment| u64::from(segment.length)).sum();
        assert!(used > 0 && used <= limit as u64, "a sequence of {used} tokens, limit {limit}");
        short += usize::from(used < limit as u64);
        segments += sequence.len() as u64;
        for segment in sequence {
            assert!(segment.length > 0);
            parts
                .entry(segment.document)
                .or_default()
                .push((segment.start, segment.start + u64::from(segment.length)));
        }
    }
    for (document, &length) in lengths.iter().enumerate() {
        let mut ranges = parts.remove(&(document as u32)).unwrap_or_default();
        ranges.sort_unstable();
        let mut position = 0;
        for (start, end) in ranges {
            assert_eq!(start, position, "document {document}: a token is missing or comes twice");
            position = end;
        }
        assert_eq!(position, length, "document {document}");
    }
    assert!(parts.is_empty());
    let documents = lengths.iter().filter(|&&length| length > 0).count() as u64;
    assert_eq!(segments, documents + packing.long_cuts + packing.fill_cuts, "cuts are counted exactly");
    let unavoidable: u64 = lengths.iter().map(|length| length.div_ceil(limit as u64).saturating_sub(1)).sum();
    assert_eq!(packing.long_cuts, unavoidable);
    match room {
        Room::Fill => assert!(short <= 1, "{short} sequences are not full"),
        Room::Leave => assert_eq!(packing.fill_cuts, 0),
    }
    packing
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
    #[test]
    fn each_token_once(lengths in prop::collection::vec(0u64..300, 0..80), limit in 1usize..200, fill: bool) {
        check(&lengths, limit, if fill { Room::Fill } else { Room::Leave });
    }
}

#[test]
fn chosen_cases() {
    let cases: [(&[u64], usize, Room, usize, u64); 8] = [
        (&[], 8, Room::Fill, 0, 0),
        (&[0, 0], 8, Room::Fill, 0, 0),
        (&[8, 8], 8, Room::Fill, 2, 0),
        (&[5, 3, 6, 2], 8, Room::Fill, 2, 0),
        (&[5, 5, 5], 8, Room::Leave, 3, 0),
        (&[5, 5, 5], 8, Room::Fill, 2, 1),
        (&[20], 8, Room::Leave, 3, 0),
        (&[1; 64], 64, Room::Leave, 1, 0),
    ];
    for (lengths, limit, room, sequences, fill_cuts) in cases {
        let packing = check(lengths, limit, room);
        assert_eq!((packing.len(), packing.fill_cuts), (sequences, fill_cuts), "{lengths:?}");
    }
    assert!(best_fit(&[1], 0, Room::Fill).unwrap_err().to_string().contains("at least one"));
}

#[test]
fn best_fit_needs_nearly_the_fewest_sequences_and_few_cuts() {
    // Lengths as documents have them: many short, some long (a fixed linear congruence, so no generator is needed).
    let lengths: Vec<u64> =
        (0..200_000u64).map(|index| 20 + (index * 7919 % 10_007).pow(2) / 25_000).collect();
    let tokens: u64 = lengths.iter().sum();
    for limit in [256usize, 2048, 8192] {
        let fewest = tokens.div_ceil(limit as u64) as usize;
        let left = check(&lengths, limit, Room::Leave);
        assert!(left.len() <= fewest + fewest / 50 + 1, "{} sequences, at least {fewest}", left.len());
        let filled = check(&lengths, limit, Room::Fill);
        assert_eq!(filled.len(), fewest);
        // Cutting the whole stream every `limit` tokens would cut about once a sequence, besides long documents.
        assert!(filled.fill_cuts <= fewest as u64 / 2, "{} cuts in {fewest}", filled.fill_cuts);
    }
}

#[test]
fn a_million_documents_are_quick_and_the_same_each_time() {
    let lengths: Vec<u64> = (0..1_000_000u64).map(|index| 1 + index * 7919 % 3001).collect();
    let start = std::time::Instant::now();
    let packing = best_fit(&lengths, 2048, Room::Fill).unwrap();
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(best_fit(&lengths, 2048, Room::Fill).unwrap(), packing);
}
