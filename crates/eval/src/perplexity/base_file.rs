//! A model's distributions on disk, in the form of llama.cpp's `--kl-divergence-base` (tools/perplexity): a mark, the
//! window's length, the vocabulary and the number of windows, the ids, then for each scored token a scale, the least
//! log-probability and a 16-bit number for each id. It must not know how distributions are compared over a text.

use super::Row;
use crate::{Error, Result};
use base::fs::AtomicFile;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

const MARK: &[u8; 8] = b"_logits_";
/// Log-probabilities lower than the highest by more than this are cut off.
const RANGE: f32 = 16.0;
/// What is below this has no weight in the divergence.
const LOG_PROB_MIN: f32 = -16.0;

/// Writes distributions.
pub struct BaseWriter {
    path: PathBuf,
    file: AtomicFile,
    vocabulary: usize,
}

/// Reads them in their order.
pub struct BaseReader {
    path: PathBuf,
    file: BufReader<File>,
    values: Vec<u16>,
}

/// One distribution, rounded.
pub(super) struct Distribution<'a> {
    scale: f32,
    least: f32,
    values: &'a [u16],
}

impl BaseWriter {
    /// A file for a vocabulary of that many ids; it is there once everything is written.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, vocabulary: usize) -> Result<BaseWriter> {
        let file = AtomicFile::create(path).map_err(Error::Base)?;
        Ok(BaseWriter { path: path.to_owned(), file, vocabulary })
    }

    pub(super) fn begin(&mut self, windows: &[Vec<u32>], context: usize) -> Result<()> {
        let numbers = [context, self.vocabulary, windows.len()].map(|number| (number as u32).to_le_bytes());
        let ids = windows.iter().flatten().flat_map(|id| id.to_le_bytes());
        let bytes: Vec<u8> = MARK.iter().copied().chain(numbers.into_iter().flatten()).chain(ids).collect();
        self.put(&bytes)
    }

    pub(super) fn write(&mut self, row: &Row<'_>) -> Result<()> {
        let least_logit = row.min.max(row.max - RANGE);
        let scale = (row.max - least_logit) / 65_535.0;
        let least = least_logit - row.max - row.log_sum as f32;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let value = |&logit: &f32| (inverse * (logit - least_logit).max(0.0)).round_ties_even() as u16;
        let mut bytes: Vec<u8> = [scale, least].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(row.logits.iter().flat_map(|logit| value(logit).to_le_bytes()));
        bytes.resize(row_bytes(self.vocabulary), 0);
        self.put(&bytes)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.file.commit().map_err(Error::Base)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::Base(base::Error::io("write", &self.path, source)))
    }
}

impl BaseReader {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<BaseReader> {
        let file = File::open(path).map_err(|source| Error::Base(base::Error::io("open", path, source)))?;
        Ok(BaseReader {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 20, file),
            values: Vec::new(),
        })
    }

    pub(super) fn check(&mut self, windows: &[Vec<u32>], context: usize) -> Result<()> {
        let mut head = [0; 20];
        self.take(&mut head)?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (found_context, found_windows) = (number(8), number(16));
        if &head[..8] != MARK {
            return Err(self.damaged("it does not begin as such a file does".into()));
        }
        if found_context != context || found_windows < windows.len() {
            return Err(self.damaged(format!(
                "it has {found_windows} windows of {found_context} tokens, and {} of {context} are wanted: use \
                 the same --window and no more --windows",
                windows.len()
            )));
        }
        for (index, window) in windows.iter().enumerate() {
            let mut bytes = vec![0; 4 * context];
            self.take(&mut bytes)?;
            let ids = bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
            if !ids.eq(window.iter().copied()) {
                return Err(
                    self.damaged(format!("window {index} holds another text, or another tokenizer's ids"))
                );
            }
        }
        let mut rest = vec![0; 4 * context * (found_windows - windows.len()).min(1 << 16)];
        self.take(&mut rest)
    }

    pub(super) fn read(&mut self, vocabulary: usize) -> Result<Distribution<'_>> {
        let mut bytes = vec![0; row_bytes(vocabulary)];
        self.take(&mut bytes)?;
        let number = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (scale, least) = (number(0), number(4));
        self.values.clear();
        let values = bytes[8..].chunks_exact(2).take(vocabulary);
        self.values.extend(values.map(|value| u16::from_le_bytes([value[0], value[1]])));
        Ok(Distribution { scale, least, values: &self.values })
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|error| self.damaged(format!("it ends too early ({error})")))
    }

    fn damaged(&self, reason: String) -> Error {
        Error::BaseFile { path: self.path.clone(), reason }
    }
}

impl Distribution<'_> {
    pub(super) fn log_prob(&self, id: usize) -> f64 {
        f64::from(self.scale * f32::from(self.values[id]) + self.least)
    }

    /// Σ p · (ln p − ln q) where this is p, and the most probable id.
    pub(super) fn divergence(&self, other: &Row<'_>) -> (f64, usize) {
        let normaliser = f64::from(other.max) + other.log_sum;
        let (mut sum, mut top) = (0.0, 0);
        for (id, (&value, &logit)) in self.values.iter().zip(other.logits).enumerate() {
            let log_prob = self.scale * f32::from(value) + self.least;
            if log_prob > LOG_PROB_MIN {
                let log_prob = f64::from(log_prob);
                sum += log_prob.exp() * (log_prob - f64::from(logit) + normaliser);
            }
            if value > self.values[top] {
                top = id;
            }
        }
        (sum, top)
    }
}

/// Bytes of a distribution: two floats, a 16-bit number an id, an even number of them.
fn row_bytes(vocabulary: usize) -> usize {
    2 * (4 + vocabulary.next_multiple_of(2))
}
