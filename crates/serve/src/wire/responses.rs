//! `POST /v1/responses`: its request. Knows no transport.

use ::chat::{Codec, Message, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::conversation::{read_parts, read_role};
use super::tools::{Style, Tools, read_choice, read_tools};
use super::{ApiError, Conversation, Fields, Streaming, wrong_type};

/// Where the fields are in the table of the interface.
pub(crate) const PATH: &str = "/v1/responses";

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct ResponsesCall {
    pub conversation: Conversation,
    pub tools: Tools,
    /// What the answer repeats of the request.
    pub echo: Map<String, Value>,
}

impl ResponsesCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields, codec: &Codec) -> Result<Self, ApiError> {
        let mut echo = Map::new();
        for name in [
            "metadata",
            "tools",
            "tool_choice",
            "temperature",
            "top_p",
            "instructions",
            "max_output_tokens",
            "user",
            "text",
        ] {
            if let Some(value) = fields.peek(name) {
                echo.insert(name.to_owned(), value.clone());
            }
        }
        let mut messages = read_input(fields.required("input")?)?;
        if let Some(instructions) = fields.string("instructions")? {
            messages.insert(0, Message::new(Role::System, instructions));
        }
        super::check_calls(&messages, codec.format(), "input")?;
        let mut options = super::read_sampling(&mut fields, codec)?;
        options.max_tokens = fields.integer("max_output_tokens", 1, i64::MAX)?.map(|tokens| tokens as usize);
        let wanted = super::structure::read_text(&mut fields)?;
        let streaming = Streaming::read(&mut fields)?;
        let mut template = super::read_template(&mut fields)?;
        if let Some(reasoning) = fields.object("reasoning")? {
            let mut reasoning = Fields::from(reasoning);
            if let Some(effort) = reasoning.string("effort")? {
                super::set_effort(&effort, "reasoning.effort", &mut template.variables)?;
                echo.insert("reasoning".into(), json!({"effort": effort, "summary": null}));
            }
            reasoning.finish().map_err(|error| error.within("reasoning"))?;
        }
        let tools = read_tools(&mut fields, Style::Responses)?;
        let (choice, parallel) = read_choice(&mut fields, false)?;
        let tools = Tools { tools, choice, parallel }.checked(codec.format())?;
        template.tools.clone_from(&tools.tools);
        fields.refuse(PATH)?;
        fields.finish()?;
        let conversation = Conversation { messages, template, options, wanted, choices: 1, streaming };
        Ok(Self { conversation, tools, echo })
    }
}

/// A text, or a list of messages, calls and their outputs.
fn read_input(value: Value) -> Result<Vec<Message>, ApiError> {
    let items = match value {
        Value::String(text) => return Ok(vec![Message::new(Role::User, text)]),
        Value::Array(items) if !items.is_empty() => items,
        Value::Array(_) => {
            return Err(ApiError::invalid(Some("input"), "'input' is empty; give at least one item."));
        }
        other => return Err(wrong_type("input", "a string or an array of items", &other)),
    };
    let mut messages: Vec<Message> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("input[{index}]");
        let Value::Object(mut fields) = item else { return Err(wrong_type(&place, "an object", &item)) };
        let kind = match fields.remove("type") {
            Some(Value::String(kind)) => kind,
            _ => "message".to_owned(),
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let missing = |name: &str| {
            let name = format!("{place}.{name}");
            ApiError::invalid(Some(&name), format!("Missing required parameter: '{name}'."))
        };
        match kind.as_str() {
            "message" => messages.push(read_message(&place, fields)?),
            "function_call" => {
                let call = ToolCall {
                    id: text("call_id").ok_or_else(|| missing("call_id"))?,
                    name: text("name").ok_or_else(|| missing("name"))?,
                    arguments: text("arguments").ok_or_else(|| missing("arguments"))?,
                };
                assistant(&mut messages).tool_calls.push(call);
            }
            "function_call_output" => {
                let output = match fields.remove("output") {
                    Some(Value::String(output)) => output,
                    Some(Value::Array(parts)) => read_parts(&place, parts, &["input_text"])?,
                    _ => return Err(missing("output")),
                };
                let mut message = Message::new(Role::Tool, output);
                message.tool_call_id = Some(
                    fields
                        .get("call_id")
                        .and_then(Value::as_str)
                        .ok_or_else(|| missing("call_id"))?
                        .to_owned(),
                );
                messages.push(message);
            }
            "reasoning" => {
                let parts = fields.remove("content").or_else(|| fields.remove("summary"));
                let parts = parts.and_then(|parts| parts.as_array().cloned()).unwrap_or_default();
                let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                let mut message = Message::new(Role::Assistant, "");
                message.reasoning_content = Some(text);
                messages.push(message);
            }
            other => {
                let name = format!("{place}.type");
                let message = format!(
                    "'{name}' is '{other}'; this server knows 'message', 'function_call', 'function_call_output' and 'reasoning'."
                );
                return Err(ApiError::invalid(Some(&name), message).with_code("unsupported_parameter"));
            }
        }
    }
    Ok(merged(messages))
}

fn read_message(place: &str, mut fields: Map<String, Value>) -> Result<Message, ApiError> {
    let role = fields.remove("role");
    let role = role.as_ref().and_then(Value::as_str).and_then(read_role).filter(|role| *role != Role::Tool);
    let role = role.ok_or_else(|| {
        let name = format!("{place}.role");
        ApiError::invalid(
            Some(&name),
            format!("'{name}' is none of 'system', 'developer', 'user' and 'assistant'."),
        )
    })?;
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => read_parts(place, parts, &["input_text", "output_text", "text"])?,
        other => {
            let name = format!("{place}.content");
            return Err(wrong_type(&name, "a string or an array of parts", &other.unwrap_or_default()));
        }
    };
    for name in ["id", "status"] {
        fields.remove(name);
    }
    match fields.into_iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => {
            let name = format!("{place}.{name}");
            Err(ApiError::invalid(Some(&name), format!("'{name}' is not supported by this server.")))
        }
        None => Ok(Message::new(role, content)),
    }
}

/// The assistant's message at the end, which calls belong to.
fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    if messages.last().is_none_or(|last| last.role != Role::Assistant) {
        messages.push(Message::new(Role::Assistant, ""));
    }
    messages.last_mut().expect("one has just been pushed where there was none")
}

/// Reasoning is an item of its own here, but belongs to the message of the assistant that follows it.
fn merged(messages: Vec<Message>) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match out.last_mut() {
            Some(last)
                if last.role == Role::Assistant
                    && message.role == Role::Assistant
                    && last.content.is_empty()
                    && last.tool_calls.is_empty() =>
            {
                last.content = message.content;
                last.tool_calls = message.tool_calls;
            }
            _ => out.push(message),
        }
    }
    out
}
