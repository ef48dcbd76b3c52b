//! Tools in conversations: the calls that a model makes, and what a template is given beside the messages. Knows JSON as
//! OpenAI's interface has it; must not know how a family of models writes a call down.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A call of a tool that the assistant makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub struct ToolCall {
    /// What the tool's answer names it by; empty where nobody gave one.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The function's arguments as JSON text, as the model wrote them.
    pub arguments: String,
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateOptions {
    /// The tools that may be called, each as `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Vec<Value>,
    /// Further variables, such as `enable_thinking` or `documents`.
    pub variables: Map<String, Value>,
}

impl TemplateOptions {
    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty() && self.variables.is_empty()
    }
}

impl From<ToolCall> for Value {
    fn from(call: ToolCall) -> Value {
        call.to_json(Value::String(call.arguments.clone()))
    }
}

impl TryFrom<Value> for ToolCall {
    type Error = String;

    /// Reads a call of OpenAI's interface; arguments may be text or, as training data often has them, an object.
    fn try_from(value: Value) -> Result<ToolCall, String> {
        let fields = value.as_object().ok_or("a tool call is not an object")?;
        if let Some(kind) = fields.get("type").filter(|kind| !kind.is_null() && **kind != "function") {
            return Err(format!("a tool call is of type {kind}; only \"function\" is supported"));
        }
        let id = match fields.get("id") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(id)) => id.clone(),
            Some(other) => return Err(format!("a tool call's id is {other}, which is no text")),
        };
        let function = match fields.get("function") {
            Some(Value::Object(function)) => function,
            Some(_) => return Err("a tool call's function is not an object".into()),
            None => fields,
        };
        let name = function.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or("a tool call lacks the function's name")?.to_owned();
        let arguments = match function.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            Some(object @ Value::Object(_)) => object.to_string(),
            None | Some(Value::Null) => "{}".to_owned(),
            Some(other) => {
                return Err(format!("a tool call's arguments are {other}, not an object or its text"));
            }
        };
        Ok(ToolCall { id, name, arguments })
    }
}

impl ToolCall {
    /// OpenAI's shape with these arguments.
    fn to_json(&self, arguments: Value) -> Value {
        let mut call = json!({"type": "function", "function": {"name": self.name, "arguments": arguments}});
        if !self.id.is_empty() {
            call["id"] = json!(self.id);
        }
        call
    }

    /// As templates take it: arguments as an object, or as they are where they are none.
    pub(crate) fn for_template(&self, arguments: Arguments) -> Value {
        let text = || Value::String(self.arguments.clone());
        let arguments = match arguments {
            Arguments::Text => text(),
            Arguments::Object => {
                serde_json::from_str(&self.arguments).ok().filter(Value::is_object).unwrap_or_else(text)
            }
        };
        self.to_json(arguments)
    }
}

/// How a template wants the arguments of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// As an object that it writes itself: most.
    Object,
    /// As text that it puts between its own (DeepSeek).
    Text,
}

/// Stands within what would be a special token if it were the template's. A non-character, so no text has reason to hold it.
pub(crate) const GUARD: char = '\u{fffff}';

/// The text with a [`GUARD`] in each special token that it spells; `find` gives where the first one is.
fn guarded(text: &str, find: &dyn Fn(&str) -> Option<(usize, usize)>) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((start, end)) = find(rest) {
        let first = rest[start..].chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..start + first]);
        out.push(GUARD);
        // What follows the first character may spell another one.
        let next = if first < end - start { start + first } else { end };
        rest = &rest[next..];
    }
    out.push_str(rest);
    out
}

/// The same value with all its texts, keys too, guarded.
pub(crate) fn guarded_json(value: &Value, find: &dyn Fn(&str) -> Option<(usize, usize)>) -> Value {
    match value {
        Value::String(text) => Value::String(guarded(text, find)),
        Value::Array(items) => items.iter().map(|item| guarded_json(item, find)).collect(),
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, field)| (guarded(name, find), guarded_json(field, find))).collect(),
        ),
        other => other.clone(),
    }
}

/// Does any text in it hold this character?
pub(crate) fn holds(value: &Value, character: char) -> bool {
    match value {
        Value::String(text) => text.contains(character),
        Value::Array(items) => items.iter().any(|item| holds(item, character)),
        Value::Object(fields) => {
            fields.iter().any(|(name, field)| name.contains(character) || holds(field, character))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_are_read_in_every_shape_and_written_in_openais() {
        let check = |text: &str, expected: Result<(&str, &str, &str), &str>| {
            let read: Result<ToolCall, _> = serde_json::from_str(text);
            match (read, expected) {
                (Ok(call), Ok((id, name, arguments))) => {
                    assert_eq!((&*call.id, &*call.name, &*call.arguments), (id, name, arguments));
                    let back: ToolCall =
                        serde_json::from_str(&serde_json::to_string(&call).unwrap()).unwrap();
                    assert_eq!(back, call);
                }
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        };
        check(
            r#"{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}"#,
            Ok(("a", "f", "{\"x\": 1}")),
        );
        check(r#"{"function":{"name":"f","arguments":{"x":1}}}"#, Ok(("", "f", "{\"x\":1}")));
        check(r#"{"name":"f"}"#, Ok(("", "f", "{}")));
        check(r#"{"type":"custom","name":"f"}"#, Err("only \"function\""));
        check(r#"{"function":{"name":"","arguments":"{}"}}"#, Err("lacks the function's name"));
        check(r#"{"function":{"name":"f","arguments":[1]}}"#, Err("not an object or its text"));
    }

    #[test]
    fn guards_break_every_special_token() {
        let find = |text: &str| text.find("<s>").map(|start| (start, start + 3));
        assert_eq!(guarded("a<s><s>b", &find), format!("a<{GUARD}s><{GUARD}s>b"));
        assert_eq!(guarded("plain", &find), "plain");
        let value = guarded_json(&json!({"<s>": ["<s>", 1]}), &find);
        assert!(find(&value.to_string()).is_none());
    }
}
