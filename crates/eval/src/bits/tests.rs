//! Bits per byte against distributions whose cost is known by arithmetic.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use token::{Tokenizer, TrainOptions};

use super::*;

fn tokenizer() -> Tokenizer {
    let text = "the quick brown fox jumps over the lazy dog 春夏秋冬 ".repeat(20);
    let options = TrainOptions { vocab_size: 320, ..TrainOptions::default() };
    Tokenizer::train(&[text], &options, 1).unwrap()
}

fn options(tokenizer: &Tokenizer, context: usize) -> Options {
    Options { start_id: tokenizer.special("<|endoftext|>").unwrap(), context }
}

/// A model that gives every id the same probability.
fn uniform(vocabulary: usize) -> impl FnMut(&[u32]) -> std::result::Result<Vec<f32>, Infallible> {
    move |ids| Ok(vec![-(vocabulary as f32).ln(); ids.len() - 1])
}

#[test]
fn a_uniform_model_costs_the_logarithm_of_the_vocabulary() {
    let tokenizer = tokenizer();
    let documents = ["the quick brown 春夏 fox", "", "q"];
    for context in [2, 3, 1_000] {
        let found =
            bits_per_byte(&documents, &tokenizer, options(&tokenizer, context), uniform(1_024)).unwrap();
        let tokens: usize = documents.iter().map(|text| tokenizer.encode(text).len()).sum();
        let bytes: usize = documents.iter().map(|text| text.len()).sum();
        assert_eq!((found.documents, found.bytes, found.tokens), (2, bytes as u64, tokens as u64));
        assert!((found.bits_per_byte - 10.0 * tokens as f64 / bytes as f64).abs() < 1e-6);
        assert!((found.ratio - found.bits_per_byte / found.zstd_bits_per_byte).abs() < 1e-12);
        let windows: usize =
            documents.iter().map(|text| tokenizer.encode(text).len().div_ceil(context - 1)).sum();
        assert_eq!(found.windows, windows);
    }
}

#[test]
fn every_window_starts_afresh_and_every_token_is_seen_once() {
    let tokenizer = tokenizer();
    let text = "jumps over the lazy dog, 秋冬 and 春夏; jumps";
    let start = tokenizer.special("<|endoftext|>").unwrap();
    let mut seen = Vec::new();
    let found = bits_per_byte(&[text], &tokenizer, options(&tokenizer, 4), |ids: &[u32]| {
        assert_eq!(ids[0], start);
        assert!((2..=4).contains(&ids.len()));
        seen.extend_from_slice(&ids[1..]);
        Ok::<_, Infallible>(vec![0.0; ids.len() - 1])
    })
    .unwrap();
    assert_eq!(seen, tokenizer.encode(text));
    assert_eq!(found.bits_per_byte, 0.0);
}

#[test]
fn zstd_compresses_each_document_and_each_window_alone() {
    let tokenizer = tokenizer();
    let documents = ["the lazy dog ".repeat(40), "春夏秋冬".repeat(30)];
    let whole = bits_per_byte(&documents, &tokenizer, options(&tokenizer, 100_000), uniform(2)).unwrap();
    let frames: usize =
        documents.iter().map(|text| zstd::bulk::compress(text.as_bytes(), ZSTD_LEVEL).unwrap().len()).sum();
    assert!((whole.zstd_bits_per_byte - 8.0 * frames as f64 / whole.bytes as f64).abs() < 1e-12);
    assert_eq!(whole.zstd_bits_per_byte, whole.zstd_windows_bits_per_byte);
    let cut = bits_per_byte(&documents, &tokenizer, options(&tokenizer, 8), uniform(2)).unwrap();
    assert_eq!(cut.zstd_bits_per_byte, whole.zstd_bits_per_byte);
    assert!(cut.zstd_windows_bits_per_byte > whole.zstd_bits_per_byte);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let tokenizer = tokenizer();
    let fox = ["fox"];
    let run = |documents: &[&str], context, values: fn(usize) -> Vec<f32>| {
        bits_per_byte(documents, &tokenizer, options(&tokenizer, context), |ids: &[u32]| {
            Ok::<_, Infallible>(values(ids.len() - 1))
        })
    };
    let fair = |count| vec![-1.0; count];
    assert!(matches!(run(&[], 8, fair), Err(Error::NoText)));
    assert!(matches!(run(&[""], 8, fair), Err(Error::NoText)));
    assert!(matches!(run(&fox, 1, fair), Err(Error::Context { context: 1 })));
    assert!(matches!(run(&fox, 8, |count| vec![-1.0; count + 1]), Err(Error::LogProbabilities { .. })));
    for value in [f32::NAN, f32::NEG_INFINITY, 0.5] {
        let found = bits_per_byte(&fox, &tokenizer, options(&tokenizer, 8), |ids: &[u32]| {
            Ok::<_, Infallible>(vec![value; ids.len() - 1])
        });
        assert!(matches!(found, Err(Error::NotALogProbability { position: 1, .. })), "{value}");
    }
    let broken = bits_per_byte(&fox, &tokenizer, options(&tokenizer, 8), |_: &[u32]| Err("no memory"));
    assert_eq!(broken.unwrap_err().to_string(), "the model failed on document 0, window 0: no memory");
}

#[test]
fn the_choice_of_documents_fits_the_budget_and_repeats() {
    let lengths: Vec<u64> = (0..500).map(|place| (place * 37) % 900).collect();
    for (budget, seed) in [(10_000, 1), (10_000, 2), (1_000_000, 1)] {
        let chosen = choose_documents(&lengths, budget, seed);
        let total: u64 = chosen.iter().map(|&place| lengths[place]).sum();
        assert!(total <= budget && chosen.is_sorted() && chosen.iter().all(|&place| lengths[place] > 0));
        assert_eq!(chosen, choose_documents(&lengths, budget, seed));
        let all: u64 = lengths.iter().sum();
        assert!(total == all || budget - total < 900, "{total} of {budget}");
    }
    assert_ne!(choose_documents(&lengths, 10_000, 1), choose_documents(&lengths, 10_000, 2));
    assert_eq!(choose_documents(&[5_000], 10, 1), [0]);
    assert!(choose_documents(&[], 10, 1).is_empty());
}
