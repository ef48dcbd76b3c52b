//! `POST /v1/completions`: its request and its answers, whole and in pieces. Knows no transport.

use ::chat::{Codec, CompletionRequest, FinishReason, Prompt, TokenText};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{ApiError, CHOICES_MAX, Fields, Frame, Streaming, Wanted, finish_json, usage_json, wrong_type};
use crate::answer::{Shape, Sse};
use crate::progress::{Change, Progress};

/// Where the fields are in the table of the interface.
pub(crate) const PATH: &str = "/v1/completions";

/// The most prompts of one request.
const PROMPTS_MAX: usize = 128;
/// The most probable tokens that a request may ask for at each position; OpenAI's limit for this endpoint.
const LOGPROBS_MAX: i64 = 5;
/// Tokens of an answer where the request does not say, as in OpenAI's interface.
const TOKENS_DEFAULT: i64 = 16;

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct CompletionCall {
    /// One for each prompt.
    pub requests: Vec<CompletionRequest>,
    /// What each answer must look like.
    pub wanted: Option<Wanted>,
    /// Answers to each.
    pub choices: usize,
    /// How the answer is to be sent.
    pub streaming: Streaming,
}

impl CompletionCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields, codec: &Codec) -> Result<Self, ApiError> {
        let prompts = read_prompts(fields.required("prompt")?)?;
        let mut options = super::read_sampling(&mut fields, codec)?;
        options.stop = super::read_stop(&mut fields, "stop")?;
        let max_tokens = fields.integer("max_tokens", 0, i64::MAX)?.unwrap_or(TOKENS_DEFAULT);
        options.max_tokens = Some(max_tokens as usize);
        options.logprobs = fields.integer("logprobs", 0, LOGPROBS_MAX)?.map(|top| top as usize);
        let wanted = super::structure::read_structure(&mut fields)?;
        let echo = fields.flag("echo")?;
        let choices = fields.integer("n", 1, CHOICES_MAX)?.unwrap_or(1);
        // More answers than are wanted would only be thrown away by their probabilities, which is refused.
        let best_of = fields.integer("best_of", 1, CHOICES_MAX)?.unwrap_or(choices);
        if best_of != choices {
            let message = "'best_of' is not supported by this server beyond 'n'; leave it out.";
            return Err(ApiError::invalid(Some("best_of"), message).with_code("unsupported_parameter"));
        }
        let streaming = Streaming::read(&mut fields)?;
        fields.refuse(PATH)?;
        fields.finish()?;
        let request = |prompt| CompletionRequest { prompt, echo, options: options.clone() };
        let requests = prompts.into_iter().map(request).collect();
        Ok(Self { requests, wanted, choices: choices as usize, streaming })
    }
}

/// A string, an array of strings, an array of ids, or an array of arrays of ids.
fn read_prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let wanted = "a string, an array of strings, an array of token ids or an array of arrays of token ids";
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            return Ok(vec![read_ids(&items)?]);
        }
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", wanted, &other)),
    };
    if items.is_empty() || items.len() > PROMPTS_MAX {
        let message =
            format!("Invalid 'prompt': {} prompts; between 1 and {PROMPTS_MAX} are possible.", items.len());
        return Err(ApiError::invalid(Some("prompt"), message));
    }
    let prompt = |item: Value| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => read_ids(&ids),
        other => Err(wrong_type("prompt", wanted, &other)),
    };
    items.into_iter().map(prompt).collect()
}

fn read_ids(items: &[Value]) -> Result<Prompt, ApiError> {
    Ok(Prompt::Ids(super::vectors::read_ids("prompt", items)?))
}

/// What all pieces of one answer have in common.
#[derive(Clone, Debug)]
pub(crate) struct CompletionShape {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    logprobs: bool,
}

impl CompletionShape {
    /// The shape of the answer to a request.
    pub fn new(model: &str, call: &CompletionCall) -> Self {
        Self {
            id: crate::ids::answer_id("cmpl-"),
            created: crate::ids::unix_seconds(),
            model: model.to_owned(),
            include_usage: call.streaming.include_usage,
            logprobs: call.requests.first().is_some_and(|request| request.options.logprobs.is_some()),
        }
    }

    fn frame<C>(&self, choices: C) -> Frame<'_, C> {
        let (id, created, model) = (&self.id, self.created, &self.model);
        let usage = self.include_usage.then_some(Value::Null);
        Frame { id, object: "text_completion", created, model, choices, usage }
    }

    fn piece<'a>(
        &self,
        index: usize,
        text: &'a str,
        tokens: &[TokenText],
        finish: Option<FinishReason>,
    ) -> Piece<'a> {
        let logprobs = if self.logprobs { logprobs_json(tokens) } else { Value::Null };
        Piece { text, index, logprobs, finish_reason: finish.map(finish_json) }
    }
}

/// A choice, or a piece of it.
#[derive(Serialize)]
struct Piece<'a> {
    text: &'a str,
    index: usize,
    logprobs: Value,
    finish_reason: Option<&'static str>,
}

impl Shape for CompletionShape {
    fn whole(&self, progress: &Progress) -> Value {
        let choices = progress.choices.iter().enumerate();
        let choices =
            choices.map(|(index, choice)| self.piece(index, &choice.text, &choice.tokens, choice.finish));
        let usage = Some(usage_json(progress.usage()));
        json!(Frame { usage, ..self.frame(choices.collect::<Vec<_>>()) })
    }

    fn open(&mut self, _: &mut Sse) {}

    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse) {
        let piece = match change {
            Change::Text(index, text, tokens) => self.piece(*index, text, tokens, None),
            Change::End(index) => self.piece(*index, "", &[], progress.choices[*index].finish),
            // Texts are not taken apart.
            _ => return,
        };
        out.data(&self.frame([piece]));
    }

    fn close(&mut self, progress: &Progress, out: &mut Sse) {
        let last = self.include_usage.then(|| self.frame([(); 0]));
        super::close_stream(last, progress, out);
    }
}

fn logprobs_json(tokens: &[TokenText]) -> Value {
    let top = |token: &TokenText| match token.logprob {
        None => Value::Null,
        // The most probable of those that look alike, such as halves of characters, comes first and stays.
        Some(_) => Value::Object(
            token.top.iter().rev().map(|top| (top.text.clone(), json!(top.logprob))).collect::<Map<_, _>>(),
        ),
    };
    json!({
        "tokens": tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(|token| token.text_offset).collect::<Vec<_>>(),
    })
}
