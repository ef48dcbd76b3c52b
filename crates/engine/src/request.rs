//! What is asked of the engine and what it answers, in ids. Knows no text.

use crate::{Error, Result};

/// How the next id is chosen from the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this before the softmax; 0 takes the most probable id (the lowest of equals).
    pub temperature: f32,
    /// Only the `top_k` most probable ids may be drawn; 0 means all.
    pub top_k: usize,
    /// Only the fewest most probable ids whose probabilities sum to at least this may be drawn; 1 means all.
    pub top_p: f32,
    /// The same seed, prompt and settings give the same ids.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// The most probable id every time.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// # Errors
    /// [`Error::Parameter`] where a value is outside its range.
    pub fn check(&self) -> Result<()> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let value = self.temperature.to_string();
            return Err(Error::Parameter {
                name: "temperature",
                value,
                allowed: "a finite number, 0 or more",
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let value = self.top_p.to_string();
            return Err(Error::Parameter { name: "top_p", value, allowed: "above 0 and at most 1" });
        }
        Ok(())
    }
}

/// One prompt and how to continue it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// The most ids to generate; `prompt.len() + max_tokens` must fit the context.
    pub max_tokens: usize,
    /// How ids are chosen.
    pub sampling: Sampling,
    /// Ids that end the answer. The id that ended it is not among the tokens given out.
    pub stop_ids: Vec<u32>,
    /// `Some(n)`: log-probabilities for every generated id, and those of the `n` most probable ids there.
    pub logprobs: Option<usize>,
    /// `Some(n)`: the same for the prompt's ids, in [`crate::Event::Prompt`].
    pub prompt_logprobs: Option<usize>,
}

/// An id and the natural logarithm of its probability, before temperature and cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProb {
    /// The id.
    pub id: u32,
    /// ln p(id | everything before it).
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// The id that stands there.
    pub chosen: LogProb,
    /// The most probable ids there, most probable first, the lower id first among equals.
    pub top: Vec<LogProb>,
}

/// One generated id.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The id.
    pub id: u32,
    /// 0 for the first generated id.
    pub index: usize,
    /// Present where [`Request::logprobs`] asked for it.
    pub logprobs: Option<TokenLogProbs>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model gave this stop id.
    StopId(u32),
    /// `max_tokens` ids were generated.
    Length,
    /// The receiver of the tokens asked to stop.
    Cancelled,
}

/// How an answer ended, and what was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Ids in the prompt.
    pub prompt_tokens: usize,
    /// Ids generated and given out (a stop id is not counted).
    pub completion_tokens: usize,
    /// Of the prompt's ids, those whose keys and values the cache still held from other requests when the
    /// answer began.
    pub cached_tokens: usize,
}

/// A whole answer, as batches give it.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// One for each prompt id but the first, which nothing precedes; empty unless asked for.
    pub prompt_logprobs: Vec<TokenLogProbs>,
    /// The generated tokens.
    pub tokens: Vec<Token>,
    /// How it ended.
    pub finish: Finish,
}

impl Completion {
    /// The generated ids alone.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}
