//! Bits per byte on held-out documents, beside what `zstd -19` needs for the same bytes.
//!
//! It must not know how log-probabilities are computed, nor where documents come from.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use token::Tokenizer;

/// The level of the yardstick.
pub const ZSTD_LEVEL: i32 = 19;

/// How documents are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The id that every window starts with, usually `<|endoftext|>`; it is not scored itself.
    pub start_id: u32,
    /// The longest window in tokens, its start token included.
    pub context: usize,
}

/// What documents cost a model and what they cost `zstd -19`, per byte of UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// The model's bits per byte: −Σ ln p / ln 2 / bytes.
    pub bits_per_byte: f64,
    /// `zstd -19` on each document whole, a frame with its size each.
    pub zstd_bits_per_byte: f64,
    /// `zstd -19` on exactly the windows that the model saw, a frame each: neither sees further back than the other.
    pub zstd_windows_bits_per_byte: f64,
    /// `bits_per_byte / zstd_bits_per_byte`.
    pub ratio: f64,
    /// Documents measured.
    pub documents: usize,
    /// Windows that the documents were cut into.
    pub windows: usize,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens scored, start tokens not counted.
    pub tokens: u64,
}

/// Measures `documents`, each on its own.
///
/// A document longer than the context is cut into windows of `context - 1` tokens, the last one shorter, and every
/// window starts afresh from the start token, so that its first token is charged too. A document's end is not
/// charged; the frames of zstd hold the size.
///
/// `log_probabilities` gets the ids of a window, start token first, and returns ln p of each id but the first given
/// all ids before it: one value fewer than ids.
///
/// # Errors
/// If there is no text, the context is below two tokens, the model fails, or what it returns is no log-probability.
pub fn bits_per_byte<S, E>(
    documents: &[S],
    tokenizer: &Tokenizer,
    options: Options,
    mut log_probabilities: impl FnMut(&[u32]) -> std::result::Result<Vec<f32>, E>,
) -> Result<BitsPerByte>
where
    S: AsRef<str>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if options.context < 2 {
        return Err(Error::Context { context: options.context });
    }
    let mut yardstick = Yardstick::new()?;
    let mut totals = Totals::default();
    let mut window = Vec::with_capacity(options.context);
    for (number, document) in documents.iter().enumerate() {
        let text = document.as_ref();
        if text.is_empty() {
            continue;
        }
        totals.documents += 1;
        totals.bytes += text.len() as u64;
        totals.zstd_bytes += yardstick.compressed_bytes(text.as_bytes(), number)?;
        for ids in tokenizer.encode(text).chunks(options.context - 1) {
            window.clear();
            window.push(options.start_id);
            window.extend_from_slice(ids);
            let what = || format!("document {number}, window {}", totals.windows);
            let values = log_probabilities(&window)
                .map_err(|error| Error::Model { what: what(), source: error.into() })?;
            totals.nats -= sum_log_probabilities(&values, ids.len(), what)?;
            totals.windows += 1;
            totals.tokens += ids.len() as u64;
            totals.zstd_window_bytes += yardstick.compressed_bytes(&bytes_of(tokenizer, ids), number)?;
        }
    }
    totals.finish()
}

/// Which documents to measure: a repeatable random choice of about `budget_bytes`.
///
/// `lengths_bytes` are the sizes of all held-out documents. Documents are taken in an order that depends only on
/// `seed` and their number, passing over those that no longer fit and empty ones, so the choice never exceeds the budget unless even
/// the first document does. Returns places in ascending order.
#[must_use]
pub fn choose_documents(lengths_bytes: &[u64], budget_bytes: u64, seed: u64) -> Vec<usize> {
    let count = lengths_bytes.len() as u64;
    let order = (0..count).map(|index| base::seed::permute(seed, count, index) as usize);
    let mut left_bytes = budget_bytes;
    let mut chosen: Vec<usize> = Vec::new();
    for place in order {
        let length_bytes = lengths_bytes[place];
        if length_bytes > 0 && (length_bytes <= left_bytes || chosen.is_empty()) {
            left_bytes = left_bytes.saturating_sub(length_bytes);
            chosen.push(place);
        }
    }
    chosen.sort_unstable();
    chosen
}

#[derive(Default)]
struct Totals {
    nats: f64,
    documents: usize,
    windows: usize,
    bytes: u64,
    tokens: u64,
    zstd_bytes: u64,
    zstd_window_bytes: u64,
}

impl Totals {
    fn finish(self) -> Result<BitsPerByte> {
        if self.bytes == 0 {
            return Err(Error::NoText);
        }
        let bytes = self.bytes as f64;
        let bits_per_byte = self.nats / std::f64::consts::LN_2 / bytes;
        let zstd_bits_per_byte = 8.0 * self.zstd_bytes as f64 / bytes;
        Ok(BitsPerByte {
            bits_per_byte,
            zstd_bits_per_byte,
            zstd_windows_bits_per_byte: 8.0 * self.zstd_window_bytes as f64 / bytes,
            ratio: bits_per_byte / zstd_bits_per_byte,
            documents: self.documents,
            windows: self.windows,
            bytes: self.bytes,
            tokens: self.tokens,
        })
    }
}

/// The sum of a window's log-probabilities, each checked.
fn sum_log_probabilities(values: &[f32], expected: usize, what: impl Fn() -> String) -> Result<f64> {
    if values.len() != expected {
        return Err(Error::LogProbabilities { what: what(), expected, found: values.len() });
    }
    let mut sum = 0.0;
    for (place, &value) in values.iter().enumerate() {
        // Rounding may lift a sure token's log-probability a little above zero.
        if !value.is_finite() || value > 1e-3 {
            return Err(Error::NotALogProbability { what: what(), position: place + 1, value });
        }
        sum += f64::from(value);
    }
    Ok(sum)
}

fn bytes_of(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap_or_default()).copied().collect()
}

/// A zstd encoder that is used again for every document.
struct Yardstick {
    compressor: zstd::bulk::Compressor<'static>,
}

impl Yardstick {
    fn new() -> Result<Yardstick> {
        let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)
            .map_err(|source| Error::Compression { what: "anything".to_owned(), source })?;
        Ok(Yardstick { compressor })
    }

    fn compressed_bytes(&mut self, bytes: &[u8], number: usize) -> Result<u64> {
        let frame = self
            .compressor
            .compress(bytes)
            .map_err(|source| Error::Compression { what: format!("document {number}"), source })?;
        Ok(frame.len() as u64)
    }
}

#[cfg(test)]
mod tests;
