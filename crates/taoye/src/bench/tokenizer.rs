//! `taoye bench tokenizer`: training a vocabulary and encoding, in megabytes a second.

use crate::cli::BenchTokenizer;
use crate::commands::texts;
use crate::context::Context;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Instant;
use token::{Tokenizer, TrainOptions};

/// Rounds of encoding, of which the median counts.
const ROUNDS: usize = 5;
/// Texts are cut into pieces of about this many bytes, at line ends.
const PIECE_BYTES: usize = 20_000;
/// Most bytes that encoding is timed on.
const ENCODE_BYTES: usize = 20_000_000;

/// Measures and prints.
///
/// # Errors
/// When the input cannot be read or holds no text.
pub fn run(context: &Context, flags: &BenchTokenizer) -> Result<()> {
    let texts = texts::read(context, &flags.inputs, flags.megabytes.saturating_mul(1_000_000))?;
    let bytes: usize = texts.iter().map(String::len).sum();
    ensure!(bytes > 0, "the input holds no text");
    let options = TrainOptions { vocab_size: flags.vocab_size, ..TrainOptions::default() };
    let started = Instant::now();
    let tokenizer = Tokenizer::train(&texts, &options, context.threads)?;
    let train_seconds = started.elapsed().as_secs_f64();
    let pieces = pieces(&texts);
    let piece_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut tokens = 0;
    let one = median_seconds(|| tokens = pieces.iter().map(|piece| tokenizer.encode(piece).len()).sum());
    let all = median_seconds(|| drop(tokenizer.encode_batch(&pieces, context.threads)));
    let rate = |seconds: f64| piece_bytes as f64 / seconds / 1e6;
    let json = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads,
        "peak_rss_bytes": base::machine::peak_rss_bytes(), "vocab_size": tokenizer.vocab_size(),
        "train_bytes": bytes, "train_seconds": train_seconds, "encode_bytes": piece_bytes,
        "bytes_per_token": piece_bytes as f64 / tokens as f64,
        "mb_per_s": rate(one), "mb_per_s_one_thread": rate(one), "mb_per_s_all_threads": rate(all),
    });
    let text = format!(
        "{}\ntraining {} entries on {:.1} MB: {train_seconds:.2} s ({} threads)\n\
         encoding {:.1} MB: {:.1} MB/s on one thread, {:.1} on {}; {:.2} bytes a token",
        base::machine::cpu_name(),
        tokenizer.vocab_size(),
        bytes as f64 / 1e6,
        context.threads,
        piece_bytes as f64 / 1e6,
        rate(one),
        rate(all),
        context.threads,
        piece_bytes as f64 / tokens as f64,
    );
    context.print(&text, &json);
    Ok(())
}

fn median_seconds(mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

fn pieces(texts: &[String]) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut bytes = 0;
    for text in texts {
        let mut rest = text.as_str();
        while !rest.is_empty() && bytes < ENCODE_BYTES {
            let cut = rest.as_bytes().iter().skip(PIECE_BYTES).position(|byte| *byte == b'\n');
            let (piece, left) = rest.split_at(cut.map_or(rest.len(), |at| PIECE_BYTES + at + 1));
            pieces.push(piece);
            bytes += piece.len();
            rest = left;
        }
    }
    pieces
}
