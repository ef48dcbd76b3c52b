//! `POST /v1/completions`: its request and its answers, whole and in pieces. Knows no transport.

use ::chat::{
    AnswerOptions, CompletionReply, CompletionRequest, Delta, FinishReason, Prompt, TokenText, Usage,
};
use serde_json::{Map, Value, json};

use super::fields::wrong_type;
use super::{ApiError, Fields, Streaming, finish_json, usage_json};

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
    /// How the answer is to be sent.
    pub streaming: Streaming,
}

impl CompletionCall {
    /// # Errors
    /// A refusal that names the field.
    pub fn parse(body: &[u8], model: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        super::read_model(&mut fields, model)?;
        let prompts = read_prompts(fields.required("prompt")?)?;
        let mut options = super::read_options(&mut fields)?;
        let max_tokens = fields.integer("max_tokens", 0, i64::MAX)?.unwrap_or(TOKENS_DEFAULT);
        options.max_tokens = Some(max_tokens as usize);
        options.logprobs = fields.integer("logprobs", 0, LOGPROBS_MAX)?.map(|top| top as usize);
        let echo = fields.flag("echo")?;
        let streaming = Streaming::read(&mut fields)?;
        super::read_ignored(&mut fields)?;
        fields.refuse(&[
            ("n", json!(1)),
            ("best_of", json!(1)),
            ("suffix", json!("")),
            ("presence_penalty", json!(0)),
            ("frequency_penalty", json!(0)),
            ("logit_bias", json!({})),
        ])?;
        fields.finish()?;
        let request = |prompt| CompletionRequest { prompt, echo, options: options.clone() };
        Ok(Self { requests: prompts.into_iter().map(request).collect(), streaming })
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
    let id = |item: &Value| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            ApiError::invalid(Some("prompt"), format!("Invalid 'prompt': {item} is not a token id."))
        })
    };
    Ok(Prompt::Ids(items.iter().map(id).collect::<Result<_, _>>()?))
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
    pub fn new(model: &str, options: &AnswerOptions, streaming: Streaming) -> Self {
        Self {
            id: crate::ids::answer_id("cmpl-"),
            created: crate::ids::unix_seconds(),
            model: model.to_owned(),
            include_usage: streaming.include_usage,
            logprobs: options.logprobs.is_some(),
        }
    }

    /// A whole answer: one choice for each prompt.
    pub fn whole(&self, replies: &[CompletionReply]) -> Value {
        let choices = replies.iter().enumerate();
        let choices =
            choices.map(|(index, reply)| self.choice(index, &reply.text, &reply.tokens, Some(reply.finish)));
        let mut whole = self.frame(choices.collect());
        whole["usage"] = usage_json(total(replies.iter().map(|reply| reply.usage)));
        whole
    }

    /// A piece of the text that continues the prompt at `index`.
    pub fn delta(&self, index: usize, delta: &Delta) -> Value {
        self.frame(json!([self.choice(index, &delta.text, &delta.tokens, None)]))
    }

    /// The piece that says why the answer to the prompt at `index` ended.
    pub fn last(&self, index: usize, finish: FinishReason) -> Value {
        self.frame(json!([self.choice(index, "", &[], Some(finish))]))
    }

    /// The piece with the usage, where it was asked for.
    pub fn usage(&self, usage: Usage) -> Option<Value> {
        self.include_usage.then(|| {
            let mut piece = self.frame(json!([]));
            piece["usage"] = usage_json(usage);
            piece
        })
    }

    fn frame(&self, choices: Value) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            frame["usage"] = Value::Null;
        }
        frame
    }

    fn choice(&self, index: usize, text: &str, tokens: &[TokenText], finish: Option<FinishReason>) -> Value {
        let logprobs = if self.logprobs { logprobs_json(tokens) } else { Value::Null };
        json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish.map(finish_json)})
    }
}

/// The sum of several answers' counts.
pub(crate) fn total(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage::default(), |sum, usage| Usage {
        prompt_tokens: sum.prompt_tokens + usage.prompt_tokens,
        completion_tokens: sum.completion_tokens + usage.completion_tokens,
        cached_tokens: sum.cached_tokens + usage.cached_tokens,
    })
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
