//! `POST /v1/chat/completions`: its request and its answers, whole and in pieces. Knows no transport.

use ::chat::{Codec, TokenText, ToolCall, TopToken};
use serde_json::{Map, Value, json};

use super::structure::read_structure;
use super::tools::{Style, Tools, read_choice, read_tools};
use super::{
    ApiError, CHOICES_MAX, Conversation, Fields, Streaming, TOP_LOGPROBS_MAX, finish_json, usage_json,
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

    fn piece(&self, index: usize, delta: Value, logprobs: Value, finish: Value) -> Value {
        self.frame(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]))
    }

    fn frame(&self, choices: Value) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            frame["usage"] = Value::Null;
        }
        frame
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
            let delta = json!({"role": "assistant", "content": "", "refusal": null});
            out.data(&self.piece(index, delta, Value::Null, Value::Null));
        }
    }

    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse) {
        let piece = match change {
            Change::Reasoning(index, text) => {
                self.piece(*index, json!({"reasoning_content": text}), Value::Null, Value::Null)
            }
            Change::Text(index, text, tokens) => {
                self.piece(*index, json!({"content": text}), self.logprobs_json(tokens), Value::Null)
            }
            Change::CallBegin(index, number) => {
                let ToolCall { id, name, .. } = &progress.choices[*index].calls[*number];
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": number, "id": id, "type": "function", "function": function});
                self.piece(*index, json!({"tool_calls": [call]}), Value::Null, Value::Null)
            }
            Change::Arguments(index, number, text) => {
                let call = json!({"index": number, "function": {"arguments": text}});
                self.piece(*index, json!({"tool_calls": [call]}), Value::Null, Value::Null)
            }
            Change::CallEnd(..) => return,
            Change::End(index) => {
                self.piece(*index, json!({}), Value::Null, json!(finish_reason(&progress.choices[*index])))
            }
        };
        out.data(&piece);
    }

    fn close(&mut self, progress: &Progress, out: &mut Sse) {
        let last = self.include_usage.then(|| self.frame(json!([])));
        super::close_stream(last, progress, out);
    }
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
