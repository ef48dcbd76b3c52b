//! The messages of `POST /v1/chat/completions`. Knows no other field.

use ::chat::{Message, Role, ToolCall};
use serde_json::{Map, Value};

use super::{ApiError, wrong_type};

/// # Errors
/// A refusal that names the message and its field.
pub(crate) fn read_messages(value: Value) -> Result<Vec<Message>, ApiError> {
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
        let allowed = "'system', 'developer', 'user', 'assistant' and 'tool'";
        refuse("role", format!("Invalid value for '{place}.role': '{role}'; this server knows {allowed}."))
    })?;
    let tool_calls = if role == Role::Assistant { read_calls(&place, &mut fields)? } else { Vec::new() };
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => read_parts(&place, parts, &["text"])?,
        Some(Value::Null) | None if !tool_calls.is_empty() => String::new(),
        Some(Value::Null) | None => {
            return Err(refuse("content", format!("'{place}.content' must hold text.")));
        }
        Some(other) => {
            return Err(wrong_type(&format!("{place}.content"), "a string or an array of parts", &other));
        }
    };
    let mut message = Message::new(role, content);
    message.tool_calls = tool_calls;
    message.name = read_text(&place, "name", &mut fields)?;
    if role == Role::Assistant {
        let reasoning = read_text(&place, "reasoning_content", &mut fields)?;
        message.reasoning_content = reasoning.or(read_text(&place, "reasoning", &mut fields)?);
    }
    if role == Role::Tool {
        message.tool_call_id = read_text(&place, "tool_call_id", &mut fields)?;
        if message.tool_call_id.is_none() {
            return Err(refuse(
                "tool_call_id",
                format!("Missing required parameter: '{place}.tool_call_id'."),
            ));
        }
    }
    match fields.into_iter().find(|(_, value)| !asks_for_nothing(value)) {
        Some((name, _)) => Err(refuse(&name, format!("'{place}.{name}' is not supported by this server."))),
        None => Ok(message),
    }
}

fn read_calls(place: &str, fields: &mut Map<String, Value>) -> Result<Vec<ToolCall>, ApiError> {
    let name = format!("{place}.tool_calls");
    let calls = match fields.remove("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong_type(&name, "an array", &other)),
    };
    let call = |(index, call): (usize, Value)| {
        ToolCall::try_from(call).map_err(|reason| {
            let name = format!("{name}[{index}]");
            ApiError::invalid(Some(&name), format!("Invalid '{name}': {reason}."))
        })
    };
    calls.into_iter().enumerate().map(call).collect()
}

fn read_text(place: &str, name: &str, fields: &mut Map<String, Value>) -> Result<Option<String>, ApiError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(&format!("{place}.{name}"), "a string", &other)),
    }
}

/// What clients write where they give a message back that they received.
fn asks_for_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The text of a message that is written in parts of these types.
pub(crate) fn read_parts(place: &str, parts: Vec<Value>, types: &[&str]) -> Result<String, ApiError> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some(known), Some(piece)) if types.contains(&known) => text += piece,
            (Some(known), None) if types.contains(&known) => {
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

/// The role of a name.
pub(crate) fn read_role(name: &str) -> Option<Role> {
    match name {
        // The newer name of the same thing.
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" => Some(Role::Tool),
        _ => None,
    }
}
