//! Raw text in, raw text out, without a template: what `POST /v1/completions` and base models need. Knows no
//! HTTP.

use std::ops::ControlFlow;

use token::{END_OF_TEXT, SpecialTokens, StreamDecoder};

use crate::local::Answer;
use crate::stream::{TextStream, token_text};
use crate::{AnswerOptions, Delta, FinishReason, Local, OnDelta, Result, TokenText, Usage};

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
        let ask = self.engine_request(self.prompt_ids(&request.prompt), &request.options)?;
        self.engine.check(&ask)?;
        let usage = Usage { prompt_tokens: ask.prompt.len(), completion_tokens: 0 };
        let opening = if request.echo { self.echo(&ask)? } else { Delta::default() };
        let offset = opening.text.chars().count();
        let mut reply = CompletionReply {
            text: opening.text.clone(),
            finish: FinishReason::Length,
            usage,
            tokens: opening.tokens.clone(),
        };
        if request.echo && on_delta(opening).is_break() {
            return Ok(CompletionReply { finish: FinishReason::Cancelled, ..reply });
        }
        if ask.max_tokens == 0 {
            return Ok(reply);
        }
        let mut answer = Answer::new(TextStream::new(&self.tokenizer, &request.options, offset)?);
        let finish = self.engine.generate(&ask, &mut |token| answer.push(token, on_delta))?;
        let done = answer.finish(&finish, on_delta);
        reply.text += &done.text;
        reply.tokens.extend(done.tokens);
        Ok(CompletionReply { finish: done.finish, usage: done.usage, ..reply })
    }

    fn prompt_ids(&self, prompt: &Prompt) -> Vec<u32> {
        match prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let mut ids = self.tokenizer.opening_ids().to_vec();
                if ids.is_empty() && text.is_empty() {
                    let begins = [
                        self.tokenizer.special(END_OF_TEXT),
                        self.tokenizer.bos_id(),
                        self.tokenizer.eos_id(),
                    ];
                    ids.extend(begins.into_iter().flatten().next());
                }
                self.tokenizer.encode_into(text, &mut ids);
                ids
            }
        }
    }

    /// The prompt as the beginning of the answer.
    fn echo(&mut self, ask: &engine::Request) -> Result<Delta> {
        let mut known = Vec::new();
        if let Some(top) = ask.logprobs {
            let score = engine::Request { max_tokens: 0, prompt_logprobs: Some(top), ..ask.clone() };
            known = self.engine.generate(&score, &mut |_| ControlFlow::Continue(()))?.prompt_logprobs;
        }
        let mut decoder = StreamDecoder::new(&self.tokenizer, SpecialTokens::Hide);
        let (mut text, mut characters, mut tokens) = (String::new(), 0, Vec::new());
        for (position, &id) in ask.prompt.iter().enumerate() {
            if ask.logprobs.is_some() {
                // Nothing precedes the first id, so there is no probability for it.
                let known = position.checked_sub(1).map(|index| &known[index]);
                tokens.push(token_text(&self.tokenizer, id, characters, known));
            }
            let piece = decoder.push(id);
            characters += piece.chars().count();
            text += &piece;
        }
        text += &decoder.finish();
        Ok(Delta { text, tokens })
    }
}
