//! `POST /v1/chat/completions`: its request and its answers, whole and in pieces. Knows no transport.

use ::chat::{Codec, TokenText, ToolCall, TopToken};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::structure::read_structure;
use super::tools::{Style, Tools, read_choice, read_tools};
use super::{
    ApiError, CHOICES_MAX, Conversation, Fields, Frame, Streaming, TOP_LOGPROBS_MAX, finish_json, usage_json,
};
use crate::answer::{Shape, Sse};
use crate::progress::{Change, Choice, Progress};

/// Where the fields are in the table of the interface.
pub(crate) const PATH: &str = "/v1/chat/completions";

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct ChatCall {
    pub conversation: Conversation,
    pub tools: Tools,
}

impl ChatCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields, codec: &Codec) -> Result<Self, ApiError> {
        let messages = super::conversation::read_messages(fields.required("messages")?)?;
        super::check_calls(&messages, codec.format(), "messages")?;
        let mut options = super::read_sampling(&mut fields, codec)?;
        options.stop = super::read_stop(&mut fields, "stop")?;
        let old_name = fields.integer("max_tokens", 1, i64::MAX)?;
        let new_name = fields.integer("max_completion_tokens", 1, i64::MAX)?;
        options.max_tokens = new_name.or(old_name).map(|tokens| tokens as usize);
        options.logprobs = read_logprobs(&mut fields)?;
        let wanted = read_structure(&mut fields)?;
        let choices = fields.integer("n", 1, CHOICES_MAX)?.unwrap_or(1) as usize;
        let streaming = Streaming::read(&mut fields)?;
        let mut template = super::read_template(&mut fields)?;
        let tools = read_tools(&mut fields, Style::Chat)?;
        let (choice, parallel) = read_choice(&mut fields, true)?;
        let tools = Tools { tools, choice, parallel }.checked(codec.format())?;
        template.tools.clone_from(&tools.tools);
        fields.refuse(PATH)?;
        fields.finish()?;
        let conversation = Conversation { messages, template, options, wanted, choices, streaming };
        Ok(Self { conversation, tools })
    }
}

fn read_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid(
            Some("top_logprobs"),
            "'top_logprobs' is only possible where 'logprobs' is true.",
        )),
    }
}

/// What all pieces of one answer have in common.
#[derive(Clone, Debug)]
pub(crate) struct ChatShape {
    id: String,
    created: u64,
    model: String,
    choices: usize,
    include_usage: bool,
    logprobs: bool,
}

impl ChatShape {
    /// The shape of the answer to a request.
    pub fn new(model: &str, conversation: &Conversation) -> Self {
        Self {
            id: crate::ids::answer_id("chatcmpl-"),
            created: crate::ids::unix_seconds(),
            model: model.to_owned(),
            choices: conversation.choices,
            include_usage: conversation.streaming.include_usage,
            logprobs: conversation.options.logprobs.is_some(),
        }
    }

    fn choice(&self, index: usize, choice: &Choice) -> Value {
        let content = match choice.text.is_empty() && !choice.calls.is_empty() {
            true => Value::Null,
            false => json!(choice.text),
        };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !choice.reasoning.is_empty() {
            message["reasoning_content"] = json!(choice.reasoning);
        }
        if !choice.calls.is_empty() {
            message["tool_calls"] = choice.calls.iter().map(call_json).collect();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs_json(&choice.tokens),
            "finish_reason": finish_reason(choice),
        })
    }

    fn frame<C>(&self, choices: C) -> Frame<'_, C> {
        let (id, created, model) = (&self.id, self.created, &self.model);
        let usage = self.include_usage.then_some(Value::Null);
        Frame { id, object: "chat.completion.chunk", created, model, choices, usage }
    }

    fn logprobs_json(&self, tokens: &[TokenText]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        json!({"content": logprobs_list(tokens), "refusal": null})
    }
}

impl Shape for ChatShape {
    fn whole(&self, progress: &Progress) -> Value {
        let choices = progress.choices.iter().enumerate();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices.map(|(index, choice)| self.choice(index, choice)).collect::<Vec<_>>(),
            "usage": usage_json(progress.usage()),
        })
    }

    fn open(&mut self, out: &mut Sse) {
        for index in 0..self.choices {
            let delta = Delta::Begin { role: "assistant", content: "", refusal: () };
            out.data(&self.frame([Piece::new(index, delta)]));
        }
    }

    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse) {
        let piece = match change {
            Change::Reasoning(index, text) => {
                Piece::new(*index, Delta::Reasoning { reasoning_content: text })
            }
            Change::Text(index, text, tokens) => Piece {
                logprobs: self.logprobs_json(tokens),
                ..Piece::new(*index, Delta::Text { content: text })
            },
            Change::CallBegin(index, number) => {
                let ToolCall { id, name, .. } = &progress.choices[*index].calls[*number];
                let function = CallPart { name: Some(name), arguments: "" };
                let call = CallDelta { index: *number, id: Some(id), kind: Some("function"), function };
                Piece::new(*index, Delta::Calls { tool_calls: [call] })
            }
            Change::Arguments(index, number, text) => {
                let function = CallPart { name: None, arguments: text };
                let call = CallDelta { index: *number, id: None, kind: None, function };
                Piece::new(*index, Delta::Calls { tool_calls: [call] })
            }
            Change::CallEnd(..) => return,
            Change::End(index) => {
                let finish_reason = finish_reason(&progress.choices[*index]);
                Piece { finish_reason, ..Piece::new(*index, Delta::End {}) }
            }
        };
        out.data(&self.frame([piece]));
    }

    fn close(&mut self, progress: &Progress, out: &mut Sse) {
        let last = self.include_usage.then(|| self.frame([(); 0]));
        super::close_stream(last, progress, out);
    }
}

/// What one piece adds to a choice.
#[derive(Serialize)]
struct Piece<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Value,
    finish_reason: Option<&'static str>,
}

impl<'a> Piece<'a> {
    fn new(index: usize, delta: Delta<'a>) -> Self {
        Self { index, delta, logprobs: Value::Null, finish_reason: None }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Delta<'a> {
    Begin { role: &'static str, content: &'static str, refusal: () },
    Reasoning { reasoning_content: &'a str },
    Text { content: &'a str },
    Calls { tool_calls: [CallDelta<'a>; 1] },
    End {},
}

/// The beginning of a call, with its id and name, or more of its arguments.
#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: CallPart<'a>,
}

#[derive(Serialize)]
struct CallPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// Why a choice ended.
fn finish_reason(choice: &Choice) -> Option<&'static str> {
    let finish = finish_json(choice.finish?);
    Some(if finish == "stop" && !choice.calls.is_empty() { "tool_calls" } else { finish })
}

fn call_json(call: &ToolCall) -> Value {
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}

/// Tokens with their log-probabilities, as this interface has them.
pub(crate) fn logprobs_list(tokens: &[TokenText]) -> Vec<Value> {
    let top = |top: &TopToken| token_json(&top.text, &top.bytes, Some(top.logprob));
    let token = |token: &TokenText| {
        let mut entry = token_json(&token.text, &token.bytes, token.logprob);
        entry.insert("top_logprobs".to_owned(), token.top.iter().map(top).map(Value::Object).collect());
        Value::Object(entry)
    };
    tokens.iter().map(token).collect()
}

fn token_json(text: &str, bytes: &[u8], logprob: Option<f32>) -> Map<String, Value> {
    let fields = [("token", json!(text)), ("logprob", json!(logprob)), ("bytes", json!(bytes))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
