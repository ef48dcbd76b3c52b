//! Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`: their requests. Knows no transport.

use ::chat::format::AnswerFormat;
use ::chat::{Codec, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::tools::{Style, Tools, read_anthropic_choice, read_tools};
use super::{ApiError, Conversation, Fields, Streaming, wrong_type};

/// Where the fields are in the table of the interface.
const PATH: &str = "/v1/messages";
const COUNT_PATH: &str = "/v1/messages/count_tokens";

/// A request that can be answered, or counted.
#[derive(Debug)]
pub(crate) struct MessagesCall {
    pub conversation: Conversation,
    pub tools: Tools,
}

impl MessagesCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields, codec: &Codec) -> Result<Self, ApiError> {
        let mut call = Self::read_conversation(&mut fields, codec.format())?;
        let max_tokens = fields.required("max_tokens")?;
        fields.put("max_tokens", max_tokens);
        let max_tokens = fields.integer("max_tokens", 1, i64::MAX)?;
        let mut options = super::read_sampling(&mut fields, codec)?;
        options.max_tokens = max_tokens.map(|tokens| tokens as usize);
        options.stop = super::read_stop(&mut fields, "stop_sequences")?;
        call.conversation.options = options;
        call.conversation.streaming = Streaming { stream: fields.flag("stream")?, include_usage: true };
        fields.refuse(PATH)?;
        fields.finish()?;
        Ok(call)
    }

    /// Reads a request that only counts.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read_count(mut fields: Fields, format: &AnswerFormat) -> Result<Self, ApiError> {
        let call = Self::read_conversation(&mut fields, format)?;
        fields.refuse(COUNT_PATH)?;
        fields.finish()?;
        Ok(call)
    }

    fn read_conversation(fields: &mut Fields, format: &AnswerFormat) -> Result<Self, ApiError> {
        let mut messages = Vec::new();
        if let Some(system) = fields.take("system") {
            messages.push(Message::new(Role::System, read_text("system", system)?));
        }
        read_messages(fields.required("messages")?, &mut messages)?;
        super::check_calls(&messages, format, "messages")?;
        let mut template = super::read_template(fields)?;
        if let Some(thinking) = fields.object("thinking")? {
            let thinks = match thinking.get("type").and_then(Value::as_str) {
                Some("enabled" | "adaptive") => true,
                Some("disabled") => false,
                _ => {
                    let message = "'thinking.type' is none of 'enabled', 'adaptive' and 'disabled'.";
                    return Err(ApiError::invalid(Some("thinking"), message));
                }
            };
            template.variables.entry("enable_thinking").or_insert(json!(thinks));
        }
        let wanted = super::structure::read_output_config(fields, &mut template.variables)?;
        let tools = read_tools(fields, Style::Anthropic)?;
        let (choice, parallel) = read_anthropic_choice(fields)?;
        let tools = Tools { tools, choice, parallel }.checked(format)?;
        template.tools.clone_from(&tools.tools);
        let conversation = Conversation { messages, template, wanted, choices: 1, ..Conversation::default() };
        Ok(Self { conversation, tools })
    }
}

fn read_messages(value: Value, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let Value::Array(messages) = value else {
        return Err(wrong_type("messages", "an array of messages", &value));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid(Some("messages"), "'messages' is empty; give at least one message."));
    }
    for (index, message) in messages.into_iter().enumerate() {
        let place = format!("messages.{index}");
        let Value::Object(mut fields) = message else {
            return Err(wrong_type(&place, "an object", &message));
        };
        let role = match fields.remove("role").as_ref().and_then(Value::as_str) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system") => Role::System,
            _ => {
                let name = format!("{place}.role");
                return Err(ApiError::invalid(
                    Some(&name),
                    format!("'{name}' is neither 'user' nor 'assistant'."),
                ));
            }
        };
        let content = fields.remove("content").unwrap_or_default();
        if let Some((name, _)) = fields.into_iter().find(|(_, value)| !value.is_null()) {
            let name = format!("{place}.{name}");
            return Err(ApiError::invalid(Some(&name), format!("'{name}' is not supported by this server.")));
        }
        match content {
            Value::String(text) => out.push(Message::new(role, text)),
            Value::Array(blocks) => read_blocks(&place, role, blocks, out)?,
            other => {
                return Err(wrong_type(
                    &format!("{place}.content"),
                    "a string or an array of blocks",
                    &other,
                ));
            }
        }
    }
    Ok(())
}

/// The blocks of a message: text and calls of the assistant, text and tools' results of the user, which become messages of
/// their own.
fn read_blocks(place: &str, role: Role, blocks: Vec<Value>, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut message = Message::new(role, "");
    let mut has_text = blocks.is_empty();
    for (index, block) in blocks.into_iter().enumerate() {
        let place = format!("{place}.content.{index}");
        let Value::Object(fields) = block else { return Err(wrong_type(&place, "an object", &block)) };
        let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let text = |name: &str| {
            let missing = || {
                ApiError::invalid(
                    Some(&format!("{place}.{name}")),
                    format!("'{place}' has no string '{name}'."),
                )
            };
            fields.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(missing)
        };
        match (kind.as_str(), role) {
            ("text", _) => {
                message.content += &text("text")?;
                has_text = true;
            }
            ("thinking", Role::Assistant) => message.reasoning_content = Some(text("thinking")?),
            ("redacted_thinking", Role::Assistant) => {}
            ("tool_use", Role::Assistant) => {
                let arguments = fields.get("input").cloned().unwrap_or_else(|| json!({}));
                let arguments = arguments.to_string();
                message.tool_calls.push(ToolCall { id: text("id")?, name: text("name")?, arguments });
            }
            ("tool_result", Role::User) => {
                let content = fields.get("content").cloned().unwrap_or_else(|| json!(""));
                let mut result = Message::new(Role::Tool, read_text(&format!("{place}.content"), content)?);
                result.tool_call_id = Some(text("tool_use_id")?);
                out.push(result);
            }
            _ => {
                let message = format!("'{place}' is of type '{kind}', which this model does not read here.");
                return Err(ApiError::invalid(Some(&place), message).with_code("unsupported_parameter"));
            }
        }
    }
    if has_text || role == Role::Assistant {
        out.push(message);
    }
    Ok(())
}

/// A text, or blocks that are all text.
fn read_text(place: &str, value: Value) -> Result<String, ApiError> {
    let blocks = match value {
        Value::String(text) => return Ok(text),
        Value::Array(blocks) => blocks,
        other => return Err(wrong_type(place, "a string or an array of blocks", &other)),
    };
    let mut text = String::new();
    for (index, block) in blocks.iter().enumerate() {
        match (block["type"].as_str(), block["text"].as_str()) {
            (Some("text"), Some(piece)) => text += piece,
            (kind, _) => {
                let name = format!("{place}.{index}");
                let message =
                    format!("'{name}' is of type '{}'; this model reads text only.", kind.unwrap_or("?"));
                return Err(ApiError::invalid(Some(&name), message));
            }
        }
    }
    Ok(text)
}

/// The input of a call as the object that Anthropic's clients read.
pub(crate) fn input_of(call: &ToolCall) -> Value {
    serde_json::from_str::<Map<String, Value>>(&call.arguments).map_or_else(|_| json!({}), Value::Object)
}
