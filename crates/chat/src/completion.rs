//! Raw text in, raw text out, without a template: what `POST /v1/completions` and base models need. Knows no
//! HTTP.

use crate::answer::{AnswerId, Echo, Kind};
use crate::local::Opening;
use crate::{AnswerEvent, AnswerOptions, FinishReason, Local, OnDelta, Result, TokenText, Usage};

/// What is to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text; what looks like a special token is ordinary text. Before it comes what the tokenizer begins texts with, if
    /// anything. Empty text stands for the beginning of a document.
    Text(String),
    /// Ids.
    Ids(Vec<u32>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// A prompt and how to continue it.
#[derive(Clone, Debug, Default)]
pub struct CompletionRequest {
    /// What is to be continued.
    pub prompt: Prompt,
    /// Whether the prompt itself is to stand before its continuation, with its log-probabilities where asked
    /// for.
    pub echo: bool,
    /// How to continue.
    pub options: AnswerOptions,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionReply {
    /// The text, after the prompt's where it was to be echoed.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// What was counted.
    pub usage: Usage,
    /// The tokens of `text`, where log-probabilities were asked for.
    pub tokens: Vec<TokenText>,
}

impl Local {
    /// Continues a prompt. Pieces go to `on_delta` as in [`crate::ChatModel::reply`], the echoed prompt
    /// first.
    ///
    /// # Errors
    /// Where prompt and answer exceed the context, an id is unknown, or a value is outside its range.
    pub fn complete(
        &mut self,
        request: &CompletionRequest,
        on_delta: OnDelta<'_>,
    ) -> Result<CompletionReply> {
        let openings = vec![self.opening_of(request)?];
        let mut replies = self.answer_together(openings, &mut |_, delta| on_delta(delta))?;
        match replies.pop() {
            Some(AnswerEvent::Completion(reply)) => Ok(reply),
            other => unreachable!("a completion ends as one, not as {other:?}"),
        }
    }

    /// Begins to continue a prompt, `choices` times, each with the next seed; [`Local::step`] does the work.
    ///
    /// # Errors
    /// As [`Local::complete`]; then nothing has begun.
    pub fn begin_completion(&mut self, request: &CompletionRequest, choices: usize) -> Result<Vec<AnswerId>> {
        let opening = self.opening_of(request)?;
        self.begin_choices(opening, choices)
    }

    fn opening_of(&self, request: &CompletionRequest) -> Result<Opening> {
        let mut ask = self.engine_request(self.codec.prompt_ids(&request.prompt), &request.options)?;
        let echo = request.echo.then(|| {
            ask.prompt_logprobs = ask.logprobs;
            Echo { prompt: ask.prompt.clone(), scored: ask.logprobs.is_some() }
        });
        Ok(Opening { ask, kind: Kind::Completion(echo), stop: request.options.stop.clone() })
    }
}
