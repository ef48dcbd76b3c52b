//! A model of this machine behind [`ChatModel`]: tokenizer, chat template and engine. Knows neither HTTP nor
//! the terminal.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use engine::{Device, Engine};
use token::{ChatTemplate, MESSAGE_END, Message, Role, Tokenizer};

use crate::stream::TextStream;
use crate::{
    AnswerOptions, ChatModel, ChatRequest, Delta, Error, FinishReason, OnDelta, Reply, Result, Usage,
};

/// How a local model is set up.
#[derive(Clone, Debug, Default)]
pub struct LocalOptions {
    /// The name that it goes by; `None`: the folder's.
    pub name: Option<String>,
    /// A PEFT folder whose adapters are merged into the weights, if any.
    pub adapter: Option<PathBuf>,
    /// The engine's limits.
    pub engine: engine::Options,
    /// How the weights are read.
    pub loading: engine::Loading,
}

/// A model of this machine.
pub struct Local {
    name: String,
    pub(crate) tokenizer: Tokenizer,
    template: ChatTemplate,
    pub(crate) engine: Engine,
    pub(crate) stop_ids: Vec<u32>,
}

impl Local {
    /// Reads a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json` with its companions.
    ///
    /// # Errors
    /// [`Error::Load`], saying which file is missing or damaged, or what does not fit together.
    pub fn load(folder: &Path, device: Device, options: LocalOptions) -> Result<Self> {
        let failed = |reason: String| Error::Load { folder: folder.to_owned(), reason };
        let tokenizer = Tokenizer::load(folder).map_err(|error| failed(error.to_string()))?;
        let engine = match &options.adapter {
            None => Engine::load(folder, device, options.engine, options.loading),
            Some(adapter) => Engine::load_merged(folder, adapter, device, options.engine),
        };
        let engine = engine.map_err(|error| failed(error.to_string()))?;
        let name = options.name.unwrap_or_else(|| folder_name(folder));
        Self::new(name, tokenizer, engine).map_err(|error| match error {
            Error::Conversation(reason) => failed(reason),
            other => other,
        })
    }

    /// Puts a tokenizer and an engine together.
    ///
    /// # Errors
    /// [`Error::Conversation`] where the tokenizer has more ids than the model or its chat template does not
    /// compile.
    pub fn new(name: String, tokenizer: Tokenizer, engine: Engine) -> Result<Self> {
        let (ids, vocabulary) = (tokenizer.vocab_size(), engine.config().vocab_size);
        if ids > vocabulary {
            return Err(Error::Conversation(format!(
                "the tokenizer has {ids} ids, but the model's vocabulary only {vocabulary}; \
                 they do not belong together"
            )));
        }
        let template = tokenizer.chat_template().map_err(|error| Error::Conversation(error.to_string()))?;
        let mut stop_ids = engine.config().eos_token_ids.clone();
        let ends = [tokenizer.special(MESSAGE_END), tokenizer.eos_id(), tokenizer.answer_end(&template)];
        stop_ids.extend(ends.into_iter().flatten().chain(tokenizer.end_ids().iter().copied()));
        stop_ids.sort_unstable();
        stop_ids.dedup();
        Ok(Self { name, tokenizer, template, engine, stop_ids })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be run with ids.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The ids that end an answer.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Answers many conversations together, as [`ChatModel::reply_many`], and hands each piece out as it is
    /// certain: the conversation's index and the piece. `Break` ends that answer alone.
    ///
    /// # Errors
    /// As [`ChatModel::reply`]; all conversations are checked before the first is answered.
    pub fn reply_together(
        &mut self,
        requests: &[ChatRequest],
        on_delta: &mut dyn FnMut(usize, Delta) -> ControlFlow<()>,
    ) -> Result<Vec<Reply>> {
        let prompts =
            requests.iter().map(|request| self.encode(&request.messages)).collect::<Result<Vec<_>>>()?;
        let prompts = prompts.into_iter().zip(requests.iter().map(|request| &request.options));
        let prompts =
            prompts.map(|(ids, options)| self.engine_request(ids, options)).collect::<Result<Vec<_>>>()?;
        let Self { tokenizer, engine, .. } = self;
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(Answer::new(TextStream::new(tokenizer, &request.options, 0)?));
        }
        let finishes = engine.generate_many(&prompts, &mut |index, token| {
            answers[index].push(token, &mut |delta| on_delta(index, delta))
        })?;
        let finished = answers.into_iter().zip(finishes).enumerate();
        Ok(finished
            .map(|(index, (answer, finish))| answer.finish(&finish, &mut |delta| on_delta(index, delta)))
            .map(|answer| Reply {
                message: Message::new(Role::Assistant, answer.text),
                finish: answer.finish,
                usage: answer.usage,
                tokens: answer.tokens,
            })
            .collect())
    }

    /// The ids of a conversation with the assistant's turn opened.
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let encoded = self.tokenizer.encode_chat(&self.template, messages, true);
        Ok(encoded.map_err(|error| Error::Conversation(error.to_string()))?.ids)
    }

    /// What to ask of the engine for a prompt.
    pub(crate) fn engine_request(
        &self,
        prompt: Vec<u32>,
        options: &AnswerOptions,
    ) -> Result<engine::Request> {
        let (prompt_tokens, context_tokens) = (prompt.len(), self.context_tokens());
        let left = context_tokens.saturating_sub(prompt_tokens);
        let max_tokens = options.max_tokens.unwrap_or(left.max(1));
        if max_tokens > left {
            return Err(Error::ContextLength { prompt_tokens, answer_tokens: max_tokens, context_tokens });
        }
        Ok(engine::Request {
            prompt,
            max_tokens,
            sampling: options.sampling.clone(),
            stop_ids: self.stop_ids.clone(),
            logprobs: options.logprobs,
            prompt_logprobs: None,
        })
    }
}

impl ChatModel for Local {
    fn reply(&mut self, request: &ChatRequest, on_delta: OnDelta<'_>) -> Result<Reply> {
        let mut replies =
            self.reply_together(std::slice::from_ref(request), &mut |_, delta| on_delta(delta))?;
        Ok(replies.pop().expect("one conversation has one reply"))
    }

    fn reply_many(&mut self, requests: &[ChatRequest]) -> Result<Vec<Reply>> {
        self.reply_together(requests, &mut |_, _| ControlFlow::Continue(()))
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<usize> {
        Ok(self.encode(messages)?.len())
    }

    fn context_tokens(&self) -> usize {
        self.engine.context_tokens()
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// One answer as it grows: what its stream lets out is handed on and kept.
pub(crate) struct Answer<'a> {
    stream: TextStream<'a>,
    text: String,
    tokens: Vec<crate::TokenText>,
}

/// An answer that has ended.
pub(crate) struct Finished {
    pub text: String,
    pub tokens: Vec<crate::TokenText>,
    pub finish: FinishReason,
    pub usage: Usage,
}

impl<'a> Answer<'a> {
    pub fn new(stream: TextStream<'a>) -> Self {
        Self { stream, text: String::new(), tokens: Vec::new() }
    }

    /// Takes the next token; `Break` where a stop string ended the answer or the receiver did.
    pub fn push(&mut self, token: &engine::Token, on_delta: OnDelta<'_>) -> ControlFlow<()> {
        let delta = self.stream.push(token);
        self.hand_on(delta, on_delta)?;
        if self.stream.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Hands on what was held back and closes the answer.
    pub fn finish(mut self, finish: &engine::Finish, on_delta: OnDelta<'_>) -> Finished {
        let cancelled = finish.reason == engine::FinishReason::Cancelled && !self.stream.stopped();
        if !cancelled {
            let delta = self.stream.finish();
            // The answer is over, so whether its receiver wants more makes no difference.
            let _ = self.hand_on(delta, on_delta);
        }
        let reason = match finish.reason {
            _ if self.stream.stopped() => FinishReason::Stop,
            engine::FinishReason::StopId(_) => FinishReason::Stop,
            engine::FinishReason::Length => FinishReason::Length,
            engine::FinishReason::Cancelled => FinishReason::Cancelled,
        };
        let usage =
            Usage { prompt_tokens: finish.prompt_tokens, completion_tokens: finish.completion_tokens };
        Finished { text: self.text, tokens: self.tokens, finish: reason, usage }
    }

    /// An empty delta is handed on too, so that a receiver that went away is noticed while text is held back.
    fn hand_on(&mut self, delta: Delta, on_delta: OnDelta<'_>) -> ControlFlow<()> {
        self.text += &delta.text;
        self.tokens.extend_from_slice(&delta.tokens);
        on_delta(delta)
    }
}

fn folder_name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let names = absolute.components().rev().map(|part| part.as_os_str().to_string_lossy().into_owned());
    // A run keeps its model in `runs/<name>/model`.
    names.into_iter().find(|name| name != "model").unwrap_or_else(|| "model".to_owned())
}
