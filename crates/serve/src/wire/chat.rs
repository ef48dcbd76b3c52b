//! `POST /v1/chat/completions`: its request and its answers, whole and in pieces. Knows no transport.

use ::chat::{
    AnswerOptions, ChatRequest, Delta, FinishReason, Message, Reply, Role, TokenText, TopToken, Usage,
};
use serde_json::{Map, Value, json};

use super::fields::wrong_type;
use super::{ApiError, Fields, Streaming, TOP_LOGPROBS_MAX, finish_json, usage_json};

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct ChatCall {
    /// What is asked of the model.
    pub request: ChatRequest,
    /// How the answer is to be sent.
    pub streaming: Streaming,
}

impl ChatCall {
    /// # Errors
    /// A refusal that names the field.
    pub fn parse(body: &[u8], model: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        super::read_model(&mut fields, model)?;
        let messages = read_messages(fields.required("messages")?)?;
        let mut options = super::read_options(&mut fields)?;
        let old_name = fields.integer("max_tokens", 1, i64::MAX)?;
        let new_name = fields.integer("max_completion_tokens", 1, i64::MAX)?;
        options.max_tokens = new_name.or(old_name).map(|tokens| tokens as usize);
        options.logprobs = read_logprobs(&mut fields)?;
        let streaming = Streaming::read(&mut fields)?;
        super::read_ignored(&mut fields)?;
        fields.refuse(&[
            ("n", json!(1)),
            ("presence_penalty", json!(0)),
            ("frequency_penalty", json!(0)),
            ("logit_bias", json!({})),
            ("response_format", json!({"type": "text"})),
            ("tools", json!([])),
            ("tool_choice", json!("none")),
            ("parallel_tool_calls", json!(true)),
            ("functions", json!([])),
            ("function_call", json!("none")),
            ("modalities", json!(["text"])),
            ("audio", Value::Null),
            ("prediction", Value::Null),
            ("reasoning_effort", json!("none")),
            ("service_tier", json!("auto")),
            ("store", json!(false)),
            ("verbosity", json!("medium")),
            ("web_search_options", Value::Null),
        ])?;
        fields.finish()?;
        Ok(Self { request: ChatRequest { messages, options }, streaming })
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

fn read_messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(messages) = value else {
        return Err(wrong_type("messages", "an array of messages", &value));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid(Some("messages"), "'messages' is empty; give at least one message."));
    }
    messages.into_iter().enumerate().map(|(index, message)| read_message(index, message)).collect()
}

fn read_message(index: usize, value: Value) -> Result<Message, ApiError> {
    let place = format!("messages[{index}]");
    let Value::Object(mut fields) = value else { return Err(wrong_type(&place, "an object", &value)) };
    let refuse = |field: &str, message: String| ApiError::invalid(Some(&format!("{place}.{field}")), message);
    let role = match fields.remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(wrong_type(&format!("{place}.role"), "a string", &other)),
        None => return Err(refuse("role", format!("Missing required parameter: '{place}.role'."))),
    };
    let role = read_role(&role).ok_or_else(|| {
        let allowed = "'system', 'developer', 'user' and 'assistant'";
        refuse("role", format!("Invalid value for '{place}.role': '{role}'; this server knows {allowed}."))
    })?;
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => read_parts(&place, parts)?,
        Some(Value::Null) | None => {
            return Err(refuse("content", format!("'{place}.content' must hold text.")));
        }
        Some(other) => {
            return Err(wrong_type(&format!("{place}.content"), "a string or an array of parts", &other));
        }
    };
    fields.remove("name");
    match fields.into_iter().find(|(_, value)| !asks_for_nothing(value)) {
        Some((name, _)) => Err(refuse(&name, format!("'{place}.{name}' is not supported by this server."))),
        None => Ok(Message { role, content }),
    }
}

/// What clients write where they give a message back that they received.
fn asks_for_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The text of a message that is written in parts.
fn read_parts(place: &str, parts: Vec<Value>) -> Result<String, ApiError> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(piece)) => text += piece,
            (Some("text"), None) => {
                return Err(ApiError::invalid(Some(&place), format!("'{place}' has no string 'text'.")));
            }
            (Some(other), _) => {
                let message =
                    format!("'{place}' is of type '{other}'; this model reads parts of type 'text' only.");
                return Err(ApiError::invalid(Some(&place), message));
            }
            (None, _) => {
                return Err(ApiError::invalid(Some(&place), format!("'{place}' has no string 'type'.")));
            }
        }
    }
    Ok(text)
}

/// What all pieces of one answer have in common.
#[derive(Clone, Debug)]
pub(crate) struct ChatShape {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    logprobs: bool,
}

impl ChatShape {
    /// The shape of the answer to a request.
    pub fn new(model: &str, options: &AnswerOptions, streaming: Streaming) -> Self {
        Self {
            id: crate::ids::answer_id("chatcmpl-"),
            created: crate::ids::unix_seconds(),
            model: model.to_owned(),
            include_usage: streaming.include_usage,
            logprobs: options.logprobs.is_some(),
        }
    }

    /// A whole answer.
    pub fn whole(&self, reply: &Reply) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": reply.message.content, "refusal": null},
                "logprobs": self.logprobs_json(&reply.tokens),
                "finish_reason": finish_json(reply.finish),
            }],
            "usage": usage_json(reply.usage),
        })
    }

    /// The first piece, which names the role.
    pub fn first(&self) -> Value {
        self.piece(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null, Value::Null)
    }

    /// A piece of text.
    pub fn delta(&self, delta: &Delta) -> Value {
        self.piece(json!({"content": delta.text}), self.logprobs_json(&delta.tokens), Value::Null)
    }

    /// The piece that says why the answer ended.
    pub fn last(&self, finish: FinishReason) -> Value {
        self.piece(json!({}), Value::Null, json!(finish_json(finish)))
    }

    /// The piece with the usage, where it was asked for.
    pub fn usage(&self, usage: Usage) -> Option<Value> {
        self.include_usage.then(|| {
            let mut piece = self.frame(json!([]));
            piece["usage"] = usage_json(usage);
            piece
        })
    }

    fn piece(&self, delta: Value, logprobs: Value, finish: Value) -> Value {
        self.frame(json!([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]))
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
        let top = |top: &TopToken| token_json(&top.text, &top.bytes, Some(top.logprob));
        let token = |token: &TokenText| {
            let mut entry = token_json(&token.text, &token.bytes, token.logprob);
            entry.insert("top_logprobs".to_owned(), token.top.iter().map(top).map(Value::Object).collect());
            Value::Object(entry)
        };
        json!({"content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null})
    }
}

fn token_json(text: &str, bytes: &[u8], logprob: Option<f32>) -> Map<String, Value> {
    let fields = [("token", json!(text)), ("logprob", json!(logprob)), ("bytes", json!(bytes))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn read_role(name: &str) -> Option<Role> {
    match name {
        // The newer name of the same thing.
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        _ => None,
    }
}
