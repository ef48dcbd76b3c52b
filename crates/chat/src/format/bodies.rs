//! What stands in a block of tool calls, as calls: the bodies that are JSON or nearly so. Knows no streams.

use serde_json::{Map, Value};
use token::ToolCall;

use super::{Body, tags};

/// Why a body holds no calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It breaks off within a text, which may hold anything, the closing mark too.
    Incomplete,
    /// It is no call, whatever follows.
    Malformed,
}

pub(crate) type Parsed<T> = Result<T, Fault>;

impl Body {
    /// The calls in a block's body, at least one; `tools` says of which type parameters are where the text does not.
    pub fn parse(self, text: &str, tools: &[Value]) -> Parsed<Vec<ToolCall>> {
        let calls = match self {
            Body::Json => json_calls(text.trim())?,
            Body::Llama => llama(text)?,
            Body::Mistral => mistral(text)?,
            Body::FunctionTags => vec![tags::function_tags(text, tools)?],
            Body::ArgKeys => vec![tags::arg_keys(text, tools)?],
            Body::DeepSeek => deepseek(text)?,
            Body::Dsml => tags::dsml(text)?,
            Body::Gemma(quote) => vec![gemma(text, quote)?],
        };
        if calls.is_empty() { Err(Fault::Malformed) } else { Ok(calls) }
    }
}

/// A call without an identifier.
pub(crate) fn call(name: &str, arguments: String) -> ToolCall {
    ToolCall { id: String::new(), name: name.to_owned(), arguments }
}

fn parse_json(text: &str) -> Parsed<Value> {
    serde_json::from_str(text)
        .map_err(|_| if ends_in_string(text) { Fault::Incomplete } else { Fault::Malformed })
}

/// Whether JSON text breaks off within a string, which may hold anything.
pub(super) fn ends_in_string(text: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// `{"name", "arguments"}` or a list of such.
fn json_calls(text: &str) -> Parsed<Vec<ToolCall>> {
    match parse_json(text)? {
        Value::Array(items) => items.into_iter().map(json_call).collect(),
        other => Ok(vec![json_call(other)?]),
    }
}

fn json_call(value: Value) -> Parsed<ToolCall> {
    let Value::Object(mut fields) = value else { return Err(Fault::Malformed) };
    if let Some(Value::Object(function)) = fields.remove("function") {
        fields = function;
    }
    let name = fields.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or(Fault::Malformed)?.to_owned();
    let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"));
    let arguments = match arguments {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) => parse_json(&text).map_err(|_| Fault::Malformed)?,
        Some(other) => other,
    };
    if !arguments.is_object() {
        return Err(Fault::Malformed);
    }
    Ok(call(&name, arguments.to_string()))
}

/// Objects one after another, with semicolons between; or a built-in tool's call in Python's syntax.
fn llama(text: &str) -> Parsed<Vec<ToolCall>> {
    let mut rest = text.trim();
    if !rest.starts_with(['{', '[']) {
        return Ok(vec![python_call(rest)?]);
    }
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = values.next().ok_or(Fault::Malformed)?;
        let value = value.map_err(|_| Fault::Malformed)?;
        let end = values.byte_offset();
        match value {
            Value::Array(items) => {
                for item in items {
                    calls.push(json_call(item)?);
                }
            }
            other => calls.push(json_call(other)?),
        }
        rest = rest[end..].trim_start().trim_start_matches(';').trim_start();
        rest = rest.strip_prefix("<|python_tag|>").unwrap_or(rest).trim_start();
    }
    Ok(calls)
}

/// `name.call(key="value", other=1)`.
fn python_call(text: &str) -> Parsed<ToolCall> {
    let (name, rest) = text.split_once(".call(").ok_or(Fault::Malformed)?;
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|character| character.is_alphanumeric() || "_-.".contains(character))
    };
    let mut rest = rest.trim_end().strip_suffix(')').ok_or(Fault::Malformed)?.trim();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(Fault::Malformed)?;
        let after = after.trim_start();
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        let (value, end) = match (values.next(), after) {
            (Some(Ok(value)), _) => (value, values.byte_offset()),
            (_, text) if text.starts_with("True") => (Value::Bool(true), 4),
            (_, text) if text.starts_with("False") => (Value::Bool(false), 5),
            (_, text) if text.starts_with("None") => (Value::Null, 4),
            _ => return Err(Fault::Malformed),
        };
        if !is_name(key.trim()) {
            return Err(Fault::Malformed);
        }
        arguments.insert(key.trim().to_owned(), value);
        rest = after[end..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return Err(Fault::Malformed),
        };
    }
    if is_name(name) { Ok(call(name, Value::Object(arguments).to_string())) } else { Err(Fault::Malformed) }
}

/// Lists of objects, or names with arguments, each after a mark of its own but the first, which has been read.
fn mistral(text: &str) -> Parsed<Vec<ToolCall>> {
    let (mut rest, mut calls) = (text.trim(), Vec::new());
    while !rest.is_empty() {
        let name = if rest.starts_with(['[', '{']) && !rest.starts_with("[ARGS]") {
            None
        } else {
            let (name, after) = match (rest.find("[ARGS]"), rest.find('{')) {
                (Some(mark), brace) if brace.is_none_or(|brace| mark < brace) => {
                    (&rest[..mark], &rest[mark + "[ARGS]".len()..])
                }
                (_, Some(brace)) => rest.split_at(brace),
                (_, None) => return Err(Fault::Malformed),
            };
            rest = after;
            let name = name.split("[CALL_ID]").next().unwrap_or_default().trim();
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(Fault::Malformed);
            }
            Some(name)
        };
        let value = first_value(&mut rest)?;
        match (name, value) {
            (Some(name), value @ Value::Object(_)) => calls.push(call(name, value.to_string())),
            (Some(_), _) => return Err(Fault::Malformed),
            (None, Value::Array(items)) => {
                for item in items {
                    calls.push(json_call(item)?);
                }
            }
            (None, value) => calls.push(json_call(value)?),
        }
        rest = rest.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix("[TOOL_CALLS]").ok_or(Fault::Malformed)?.trim_start();
        }
    }
    Ok(calls)
}

/// The JSON value that a text begins with; the text then begins after it.
fn first_value(text: &mut &str) -> Parsed<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().ok_or(Fault::Malformed)?;
    let value = value.map_err(|_| if ends_in_string(text) { Fault::Incomplete } else { Fault::Malformed })?;
    *text = &text[values.byte_offset()..];
    Ok(value)
}

/// The text before the first of a mark that stands outside of JSON's strings, and the text after it.
fn split_after_json<'a>(text: &'a str, mark: &str) -> Parsed<(&'a str, &'a str)> {
    let mut ends = text.match_indices(mark).map(|(at, _)| at);
    let fault = if ends_in_string(text) { Fault::Incomplete } else { Fault::Malformed };
    let end = ends.find(|&at| !ends_in_string(&text[..at])).ok_or(fault)?;
    Ok((&text[..end], &text[end + mark.len()..]))
}

/// Calls between tokens; `function`, a separator, the name and a fenced block, or the name, a separator and the arguments.
fn deepseek(text: &str) -> Parsed<Vec<ToolCall>> {
    let (mut rest, mut calls) = (text.trim(), Vec::new());
    while !rest.is_empty() {
        rest = rest.strip_prefix("<｜tool▁call▁begin｜>").ok_or(Fault::Malformed)?;
        let (body, after) = split_after_json(rest, "<｜tool▁call▁end｜>")?;
        let (kind, body) = body.split_once("<｜tool▁sep｜>").ok_or(Fault::Malformed)?;
        let (name, arguments) = match body.split_once("```json") {
            Some((name, fenced)) if kind.trim() == "function" => {
                (name, fenced.trim_end().strip_suffix("```").ok_or(Fault::Malformed)?)
            }
            _ => (kind, body),
        };
        let arguments = parse_json(arguments.trim()).map_err(|_| Fault::Malformed)?;
        if name.trim().is_empty() || !arguments.is_object() {
            return Err(Fault::Malformed);
        }
        calls.push(call(name.trim(), arguments.to_string()));
        rest = after.trim_start();
    }
    Ok(calls)
}

/// `call:name{key:value,…}` with strings between quotes that are tokens.
fn gemma(text: &str, quote: &'static str) -> Parsed<ToolCall> {
    let text = text.trim().strip_prefix("call:").ok_or(Fault::Malformed)?;
    let open = text.find('{').ok_or(Fault::Malformed)?;
    let name = text[..open].trim();
    let mut reader = Gemma { rest: &text[open..], quote, depth: 0 };
    let value = reader.value()?;
    if name.is_empty() || name.contains(char::is_whitespace) || !reader.rest.trim().is_empty() {
        return Err(Fault::Malformed);
    }
    Ok(call(name, value.to_string()))
}

/// The deepest nesting of values that is followed.
const DEPTH_MAX: usize = 64;

struct Gemma<'a> {
    rest: &'a str,
    quote: &'static str,
    depth: usize,
}

impl Gemma<'_> {
    fn value(&mut self) -> Parsed<Value> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Malformed);
        }
        self.rest = self.rest.trim_start();
        let value = if let Some(text) = self.quoted()? {
            Ok(Value::String(text))
        } else if self.take("{") {
            self.object()
        } else if self.take("[") {
            self.list()
        } else {
            let end = self.rest.find([',', '}', ']']).ok_or(Fault::Malformed)?;
            let (bare, rest) = self.rest.split_at(end);
            self.rest = rest;
            let bare = bare.trim();
            if bare.is_empty() {
                return Err(Fault::Malformed);
            }
            Ok(serde_json::from_str(bare).unwrap_or_else(|_| Value::String(bare.to_owned())))
        };
        self.depth -= 1;
        value
    }

    fn take(&mut self, sign: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn quoted(&mut self) -> Parsed<Option<String>> {
        if !self.take(self.quote) {
            return Ok(None);
        }
        let (text, rest) = self.rest.split_once(self.quote).ok_or(Fault::Incomplete)?;
        self.rest = rest;
        Ok(Some(text.to_owned()))
    }

    fn object(&mut self) -> Parsed<Value> {
        let mut fields = Map::new();
        while !self.take("}") {
            let key = match self.quoted()? {
                Some(key) => key,
                None => {
                    let end = self.rest.find(':').ok_or(Fault::Malformed)?;
                    let key = self.rest[..end].trim().to_owned();
                    self.rest = &self.rest[end..];
                    key
                }
            };
            if !self.take(":") {
                return Err(Fault::Malformed);
            }
            let value = self.value()?;
            fields.insert(key, value);
            self.separator('}')?;
        }
        Ok(Value::Object(fields))
    }

    fn list(&mut self) -> Parsed<Value> {
        let mut items = Vec::new();
        while !self.take("]") {
            items.push(self.value()?);
            self.separator(']')?;
        }
        Ok(Value::Array(items))
    }

    /// A comma, or the end that follows.
    fn separator(&mut self, end: char) -> Parsed<()> {
        if self.take(",") || self.rest.starts_with(end) { Ok(()) } else { Err(Fault::Malformed) }
    }
}
