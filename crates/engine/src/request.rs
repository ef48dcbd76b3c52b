//! What is asked of the engine and what it answers, in ids. Knows no text.

use crate::{Constraint, Error, Result};

/// How the next id is chosen from the logits.
///
/// In this order: [`Sampling::logit_bias`], the three penalties and [`Sampling::dry`] change logits; a
/// [`crate::Constraint`] forbids ids; the temperature is applied; then `min_p`, `top_k`, `typical_p` and `top_p`
/// each leave out ids, with the probabilities of what the ones before have left. At temperature 0 only the
/// first two steps matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this before the softmax; 0 takes the most probable id (the lowest of equals).
    pub temperature: f32,
    /// Only the `top_k` most probable ids may be drawn; 0 means all.
    pub top_k: usize,
    /// Only the fewest most probable ids whose probabilities sum to at least this may be drawn; 1 means all.
    pub top_p: f32,
    /// Only ids at least this many times as probable as the most probable one may be drawn; 0 means all.
    pub min_p: f32,
    /// Only the fewest ids whose -ln p is nearest to the entropy and whose probabilities sum to at least this may
    /// be drawn; 1 means all (Meister et al., Locally Typical Sampling, 2023).
    pub typical_p: f32,
    /// Positive logits of ids that the prompt or the answer has are divided by this, negative ones multiplied
    /// with it; 1 changes nothing (Keskar et al., CTRL, 2019, section 4.1).
    pub repetition_penalty: f32,
    /// Taken off the logits of ids that the answer has.
    pub presence_penalty: f32,
    /// Taken off the logits of ids that the answer has, once for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// What keeps sequences of ids from being repeated.
    pub dry: Option<Dry>,
    /// The same seed, prompt and settings give the same ids.
    pub seed: u64,
}

/// "Don't repeat yourself": an id that would continue a repetition of `n ≥ allowed_length` ids loses
/// `multiplier · base^(n - allowed_length)` from its logit (p-e-w, text-generation-webui pull request 5677).
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// Above 0.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    /// Repetitions shorter than this cost nothing; at least 1.
    pub allowed_length: usize,
    /// Only so many of the last ids are looked at; 0 means all.
    pub last_n: usize,
    /// Ids that no repetition goes across, in any order.
    pub breakers: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            dry: None,
            seed: 0,
        }
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
        let finite = |x: f32| x.is_finite();
        let share = |x: f32| x > 0.0 && x <= 1.0;
        type Rule<'a> = (&'static str, f32, &'a dyn Fn(f32) -> bool, &'static str);
        let mut rules: Vec<Rule<'_>> = vec![
            ("temperature", self.temperature, &|x| x.is_finite() && x >= 0.0, "a finite number, 0 or more"),
            ("top_p", self.top_p, &share, "above 0 and at most 1"),
            ("min_p", self.min_p, &|x| (0.0..=1.0).contains(&x), "from 0 to 1"),
            ("typical_p", self.typical_p, &share, "above 0 and at most 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                &|x| x.is_finite() && x > 0.0,
                "a finite number above 0",
            ),
            ("presence_penalty", self.presence_penalty, &finite, "a finite number"),
            ("frequency_penalty", self.frequency_penalty, &finite, "a finite number"),
        ];
        rules.extend(
            self.logit_bias
                .iter()
                .map(|&(_, bias)| -> Rule<'_> { ("logit_bias", bias, &finite, "finite numbers") }),
        );
        if let Some(dry) = &self.dry {
            let long_enough = dry.allowed_length as f32;
            rules.push((
                "dry_multiplier",
                dry.multiplier,
                &|x| x.is_finite() && x > 0.0,
                "a finite number above 0",
            ));
            rules.push(("dry_base", dry.base, &|x| x.is_finite() && x >= 1.0, "a finite number, 1 or more"));
            rules.push(("dry_allowed_length", long_enough, &|x| x >= 1.0, "1 or more"));
        }
        match rules.into_iter().find(|(_, value, allows, _)| !allows(*value)) {
            Some((name, value, _, allowed)) => {
                Err(Error::Parameter { name, value: value.to_string(), allowed })
            }
            None => Ok(()),
        }
    }
}

/// One prompt and how to continue it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// The most ids to generate; `prompt.len() + max_tokens` must fit the context.
    pub max_tokens: usize,
    /// The adapters to answer with, by their name; `None`: the base model alone.
    pub adapter: Option<String>,
    /// How ids are chosen.
    pub sampling: Sampling,
    /// Ids that end the answer. The id that ended it is not among the tokens given out.
    pub stop_ids: Vec<u32>,
    /// What the answer may consist of; `None`: anything.
    pub constraint: Option<Box<dyn Constraint>>,
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
    /// Of the stop id that ended it, where log-probabilities were asked for.
    pub stop_logprobs: Option<TokenLogProbs>,
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
