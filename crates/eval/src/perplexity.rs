//! Perplexity as llama.cpp defines it, and how far a model's distributions lie from another's, so that figures can be set
//! side by side with its own.
//!
//! The text's ids are cut into windows; each window's first id is replaced by the one that begins a text, where there is
//! one, and the second half of the window is scored. It must not know how logits are computed.

mod base_file;

pub use base_file::{BaseReader, BaseWriter};

use crate::{Error, Result};
use serde::Serialize;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tokens of a window.
    pub context: usize,
    /// Windows at most.
    pub windows_max: usize,
    /// What each window's first id is replaced by.
    pub begin_id: Option<u32>,
}

/// What comes of it.
#[derive(Clone, Debug, Serialize)]
pub struct Perplexity {
    /// exp of the mean negative log-probability.
    pub perplexity: f64,
    /// Its standard error, by the deviation of single tokens.
    pub standard_error: f64,
    /// Mean bits of a scored token.
    pub bits_per_token: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Beside another model's distributions, where these are given.
    pub divergence: Option<Divergence>,
}

/// Means over the scored tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Divergence {
    /// The other model's perplexity on the same tokens.
    pub base_perplexity: f64,
    /// Kullback–Leibler divergence of this model's distribution from the other's, in nats.
    pub kl_divergence: f64,
    /// The largest of them.
    pub kl_divergence_max: f64,
    /// The 99th percentile.
    pub kl_divergence_p99: f64,
    /// |difference| of the log-probabilities of the token that follows, in nats.
    pub log_prob_difference: f64,
    /// Share of tokens on whose most probable follower both agree.
    pub same_top: f64,
}

/// Where logits go: the row's number in its window and its logits, (vocabulary).
pub type OnLogits<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

/// Another model's distributions.
pub enum Base {
    /// None.
    None,
    /// This model's are written down.
    Write(BaseWriter),
    /// This model is measured beside what was written down.
    Read(BaseReader),
}

/// Cuts `ids` into windows and scores them. `logits` gets a window's ids and the first row that is wanted, and hands out
/// that row and all after it but the last, in order.
///
/// # Errors
/// There are fewer ids than two windows, the model fails or gives no numbers, or the base's file is damaged or another
/// text's.
pub fn perplexity<E>(
    ids: &[u32],
    options: Options,
    mut base: Base,
    mut logits: impl FnMut(&[u32], usize, OnLogits<'_>) -> std::result::Result<(), E>,
) -> Result<Perplexity>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Options { context, windows_max, begin_id } = options;
    if context < 4 {
        return Err(Error::Context { context });
    }
    if ids.len() < 2 * context {
        return Err(Error::TooShort { tokens: ids.len(), needed: 2 * context });
    }
    let mut windows: Vec<Vec<u32>> =
        ids.chunks_exact(context).take(windows_max).map(<[u32]>::to_vec).collect();
    base.begin(&windows, context)?;
    let first = context / 2;
    let mut totals = Totals::default();
    for (number, window) in windows.iter_mut().enumerate() {
        let mut failure = None;
        let kept = window[0];
        window[0] = begin_id.unwrap_or(kept);
        let outcome = logits(window, first, &mut |row, logits| {
            let outcome = totals.add(logits, window[row + 1], &mut base);
            if let Err(error) = &outcome {
                failure = Some(error.to_string());
            }
            outcome
        });
        outcome.map_err(|error| Error::Model {
            what: match failure {
                Some(reason) => format!("window {number} ({reason})"),
                None => format!("window {number}"),
            },
            source: error.into(),
        })?;
    }
    base.finish()?;
    totals.result(windows.len())
}

#[derive(Default)]
struct Totals {
    nats: f64,
    squares: f64,
    tokens: usize,
    base_nats: f64,
    differences: f64,
    same_top: usize,
    divergences: Vec<f32>,
}

impl Totals {
    fn add(&mut self, logits: &[f32], follower: u32, base: &mut Base) -> Result<()> {
        let row = Row::new(logits);
        let log_prob = row.log_prob(follower);
        if !log_prob.is_finite() {
            let (what, position) = ("perplexity".into(), self.tokens);
            return Err(Error::NotALogProbability { what, position, value: log_prob as f32 });
        }
        self.nats -= log_prob;
        self.squares += log_prob * log_prob;
        self.tokens += 1;
        match base {
            Base::None => {}
            Base::Write(file) => file.write(&row)?,
            Base::Read(file) => {
                let other = file.read(logits.len())?;
                let other_log_prob = other.log_prob(follower as usize);
                self.base_nats -= other_log_prob;
                self.differences += (log_prob - other_log_prob).abs();
                let (divergence, top) = other.divergence(&row);
                self.divergences.push(divergence as f32);
                self.same_top += usize::from(top == row.top);
            }
        }
        Ok(())
    }

    fn result(mut self, windows: usize) -> Result<Perplexity> {
        let count = self.tokens as f64;
        let mean = self.nats / count;
        let variance = (self.squares / count - mean * mean).max(0.0) / (count - 1.0).max(1.0);
        let divergence = (!self.divergences.is_empty()).then(|| {
            self.divergences.sort_by(f32::total_cmp);
            let at = |share: f64| f64::from(self.divergences[((count - 1.0) * share) as usize]);
            Divergence {
                base_perplexity: (self.base_nats / count).exp(),
                kl_divergence: self.divergences.iter().map(|&value| f64::from(value)).sum::<f64>() / count,
                kl_divergence_max: at(1.0),
                kl_divergence_p99: at(0.99),
                log_prob_difference: self.differences / count,
                same_top: self.same_top as f64 / count,
            }
        });
        Ok(Perplexity {
            perplexity: mean.exp(),
            standard_error: variance.sqrt() * mean.exp(),
            bits_per_token: mean / std::f64::consts::LN_2,
            tokens: self.tokens,
            windows,
            divergence,
        })
    }
}

impl Base {
    fn begin(&mut self, windows: &[Vec<u32>], context: usize) -> Result<()> {
        match self {
            Base::None => Ok(()),
            Base::Write(file) => file.begin(windows, context),
            Base::Read(file) => file.check(windows, context),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Base::Write(file) => file.finish(),
            Base::None | Base::Read(_) => Ok(()),
        }
    }
}

/// One row of logits and what normalises it.
pub(crate) struct Row<'a> {
    pub logits: &'a [f32],
    pub max: f32,
    pub min: f32,
    /// ln Σ exp(logit − max).
    pub log_sum: f64,
    pub top: usize,
}

impl<'a> Row<'a> {
    fn new(logits: &'a [f32]) -> Row<'a> {
        let (mut max, mut min, mut top) = (f32::NEG_INFINITY, f32::INFINITY, 0);
        for (index, &logit) in logits.iter().enumerate() {
            if logit > max {
                (max, top) = (logit, index);
            }
            min = min.min(logit);
        }
        let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        Row { logits, max, min, log_sum: sum.ln(), top }
    }

    fn log_prob(&self, id: u32) -> f64 {
        f64::from(self.logits[id as usize]) - f64::from(self.max) - self.log_sum
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Logits that depend on the id before and the place.
    fn model(
        window: &[u32],
        first: usize,
        vocabulary: usize,
        sharpness: f32,
        on: OnLogits<'_>,
    ) -> Result<()> {
        for (row, before) in window.iter().enumerate().take(window.len() - 1).skip(first) {
            let logit = |id: usize| sharpness * ((id * 7 + *before as usize * 3 + row) % 11) as f32 / 4.0;
            let logits: Vec<f32> = (0..vocabulary).map(logit).collect();
            on(row, &logits)?;
        }
        Ok(())
    }

    #[test]
    fn an_even_distribution_has_the_vocabulary_as_its_perplexity() {
        let ids: Vec<u32> = (0..64).map(|index| index % 13).collect();
        let options = Options { context: 16, windows_max: 100, begin_id: Some(0) };
        let found =
            perplexity(&ids, options, Base::None, |window, first, on| model(window, first, 13, 0.0, on));
        let found = found.unwrap();
        assert!((found.perplexity - 13.0).abs() < 1e-6, "{found:?}");
        assert_eq!((found.tokens, found.windows), (4 * (16 - 8 - 1), 4));
    }

    #[test]
    fn a_model_beside_itself_diverges_by_the_file_s_rounding_and_beside_another_by_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let ids: Vec<u32> = (0..80).map(|index| index * 5 % 13).collect();
        let options = Options { context: 20, windows_max: 3, begin_id: None };
        let run = |base: Base, sharpness: f32| {
            perplexity(&ids, options, base, |window, first, on| model(window, first, 13, sharpness, on))
                .unwrap()
        };
        run(Base::Write(BaseWriter::create(&path, 13).unwrap()), 1.0);
        let read = || Base::Read(BaseReader::open(&path).unwrap());
        let same = run(read(), 1.0).divergence.unwrap();
        // The logits span 2.5, so a step of the file's 16-bit numbers is 4e-5.
        assert!(same.kl_divergence.abs() < 4e-5 && same.log_prob_difference < 4e-5, "{same:?}");
        assert_eq!(same.same_top, 1.0);
        let other = run(read(), 0.5).divergence.unwrap();
        assert!(other.kl_divergence > 0.05, "{other:?}");
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..400]).unwrap();
        let cut = perplexity(&ids, options, read(), |window, first, on| model(window, first, 13, 1.0, on));
        assert!(cut.unwrap_err().to_string().contains("ends"), "a file that was cut short is told of");
    }
}
