//! Messages in, messages out: [`ChatModel`], and [`Local`], which answers with a model of this machine.
//!
//! This is the one place where stop strings live, and where ids meet text: below it the engine knows ids
//! only, above it nobody sees an id. It must not know HTTP or wire formats.

mod answer;
mod codec;
mod completion;
mod error;
pub mod format;
mod local;
mod stop;
mod stream;
mod structure;
pub mod terminal;

use std::ops::ControlFlow;

pub use answer::{AnswerEvent, AnswerId, OnAnswer};
pub use codec::{ChatPrompt, Codec};
pub use completion::{CompletionReply, CompletionRequest, Prompt};
pub use engine::{Dry, Sampling, Statistics};
pub use error::{Error, Result};
pub use local::{Local, LocalOptions, model_name};
pub use stop::StopStrings;
pub use structure::{Structure, Structures};
pub use token::{Message, Role, TemplateOptions, ToolCall};

/// Anything that answers a conversation.
pub trait ChatModel {
    /// Continues a conversation with one message of the assistant. Text goes to `on_delta` as soon as it is
    /// certain; the deltas' texts put together are the reply's. Where `on_delta` breaks, the reply ends
    /// there, with [`FinishReason::Cancelled`].
    ///
    /// # Errors
    /// A request that this model cannot answer (too long, a value outside its range), or a failure on the
    /// way.
    fn reply(&mut self, request: &ChatRequest, on_delta: OnDelta<'_>) -> Result<Reply>;

    /// Answers many conversations, in their order; a model that can work on several at once does.
    ///
    /// # Errors
    /// As [`ChatModel::reply`]; one that cannot be answered fails all.
    fn reply_many(&mut self, requests: &[ChatRequest]) -> Result<Vec<Reply>> {
        requests.iter().map(|request| self.reply(request, &mut |_| ControlFlow::Continue(()))).collect()
    }

    /// The tokens that a conversation takes, with the assistant's turn opened; what remains of
    /// [`ChatModel::context_tokens`] is there for the answer.
    ///
    /// # Errors
    /// Where the conversation cannot be rendered.
    fn count_tokens(&self, messages: &[Message]) -> Result<usize>;

    /// The most tokens that a conversation and its answer may take together.
    fn context_tokens(&self) -> usize;

    /// The model's name.
    fn name(&self) -> &str;
}

/// Receives the pieces of an answer.
pub type OnDelta<'a> = &'a mut dyn FnMut(Delta) -> ControlFlow<()>;

/// A conversation and how to answer it.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Tools and what else the template is to know.
    pub template: TemplateOptions,
    /// How to answer.
    pub options: AnswerOptions,
}

/// How text is to be generated.
#[derive(Clone, Debug, Default)]
pub struct AnswerOptions {
    /// The most tokens of the answer; `None`: what the context leaves.
    pub max_tokens: Option<usize>,
    /// The adapters to answer with, by their name; `None`: the base model alone.
    pub adapter: Option<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The answer ends before the first of these that it would contain.
    pub stop: Vec<String>,
    /// It also ends before any of these ids.
    pub stop_ids: Vec<u32>,
    /// Whether it goes on where the model would end it; stop strings and `stop_ids` still end it.
    pub ignore_end: bool,
    /// What it may consist of, as [`Structures::constraint`] makes it; `None`: anything.
    pub constraint: Option<Box<dyn engine::Constraint>>,
    /// `Some(n)`: log-probabilities for every token of the answer, and the `n` most probable tokens there.
    pub logprobs: Option<usize>,
}

/// A piece of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Text, in whole characters.
    pub text: String,
    /// The tokens whose text ends in this piece, where log-probabilities were asked for.
    pub tokens: Vec<TokenText>,
    /// How many ids of the answer led to this piece; those of an echoed prompt do not count.
    pub ids: usize,
}

/// One token as text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenText {
    /// The token's text; what is not valid UTF-8 on its own shows as U+FFFD.
    pub text: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Characters (Unicode scalar values) of the whole text that were certain before this token; where the
    /// token before it broke off within a character, the U+FFFD that stands for it comes after this offset.
    pub text_offset: usize,
    /// ln p(token | everything before it); `None` for the first token of all.
    pub logprob: Option<f32>,
    /// The most probable tokens there, most probable first.
    pub top: Vec<TopToken>,
}

/// One of the most probable tokens at a position.
#[derive(Clone, Debug, PartialEq)]
pub struct TopToken {
    /// The token's text, as in [`TokenText::text`].
    pub text: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// ln p(token | everything before it).
    pub logprob: f32,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The assistant's message.
    pub message: Message,
    /// Why it ended.
    pub finish: FinishReason,
    /// What was counted.
    pub usage: Usage,
    /// The answer's tokens, where log-probabilities were asked for.
    pub tokens: Vec<TokenText>,
    /// The stop string that ended it, if one did.
    pub stop: Option<String>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It reached its limit of tokens.
    Length,
    /// Whoever received it asked to stop.
    Cancelled,
}

/// Tokens counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Of the prompt's tokens, those that were known from earlier requests and not computed again.
    pub cached_tokens: usize,
    /// Of the tokens generated, those of reasoning, marks included, as far as who takes answers apart has counted them.
    pub reasoning_tokens: usize,
}
