//! Bodies of tool calls that are written in tags, one a parameter. Knows no streams.

use serde_json::{Map, Value};
use token::ToolCall;

use super::bodies::{Fault, Parsed, call, ends_in_string};

/// `<function=name>` with one `<parameter=key>` each.
pub(crate) fn function_tags(text: &str, tools: &[Value]) -> Parsed<ToolCall> {
    let text = text.trim();
    if is_open(text, "<parameter=", "</parameter>") {
        return Err(Fault::Incomplete);
    }
    let rest = text.strip_prefix("<function=").ok_or(Fault::Malformed)?;
    let (name, rest) = rest.split_once('>').ok_or(Fault::Malformed)?;
    let mut rest = rest.strip_suffix("</function>").ok_or(Fault::Malformed)?.trim_start();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let parameter = rest.strip_prefix("<parameter=").ok_or(Fault::Malformed)?;
        let (key, parameter) = parameter.split_once('>').ok_or(Fault::Malformed)?;
        let schema = schema(tools, name, key.trim());
        let (value, after) = split_value(parameter, "</parameter>", schema)?;
        arguments.insert(key.trim().to_owned(), typed(without_frame(value), schema));
        rest = after.trim_start();
    }
    finished(name, arguments)
}

/// The name, then keys and values by turns.
pub(crate) fn arg_keys(text: &str, tools: &[Value]) -> Parsed<ToolCall> {
    let text = text.trim();
    if is_open(text, "<arg_value>", "</arg_value>") {
        return Err(Fault::Incomplete);
    }
    let (name, mut rest) = text.split_at(text.find("<arg_key>").unwrap_or(text.len()));
    let name = name.trim();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let key = rest.strip_prefix("<arg_key>").ok_or(Fault::Malformed)?;
        let (key, after) = key.split_once("</arg_key>").ok_or(Fault::Malformed)?;
        let value = after.trim_start().strip_prefix("<arg_value>").ok_or(Fault::Malformed)?;
        let schema = schema(tools, name, key.trim());
        let (value, after) = split_value(value, "</arg_value>", schema)?;
        arguments.insert(key.trim().to_owned(), typed(value, schema));
        rest = after.trim_start();
    }
    finished(name, arguments)
}

/// `<｜DSML｜invoke name="…">` with one `<｜DSML｜parameter name="…" string="true|false">` each.
pub(crate) fn dsml(text: &str) -> Parsed<Vec<ToolCall>> {
    let (mut rest, mut calls) = (text.trim(), Vec::new());
    while !rest.is_empty() {
        let invoke = rest.strip_prefix("<｜DSML｜invoke name=\"").ok_or(Fault::Malformed)?;
        let (name, body) = invoke.split_once("\">").ok_or(Fault::Malformed)?;
        let (mut body, mut arguments) = (body.trim_start(), Map::new());
        let after = loop {
            if let Some(after) = body.strip_prefix("</｜DSML｜invoke>") {
                break after;
            }
            let parameter = body.strip_prefix("<｜DSML｜parameter name=\"").ok_or(Fault::Malformed)?;
            let (head, parameter) = parameter.split_once('>').ok_or(Fault::Malformed)?;
            let (key, kind) = head.split_once('"').ok_or(Fault::Malformed)?;
            let is_json = kind.contains("false");
            // What breaks off within a value may hold anything, the closing mark of the block too.
            let cut = split_at(parameter, "</｜DSML｜parameter>", is_json).ok_or(Fault::Incomplete)?;
            let value = match is_json {
                true => serde_json::from_str(cut.0.trim()).map_err(|_| Fault::Malformed)?,
                false => Value::String(cut.0.to_owned()),
            };
            arguments.insert(key.to_owned(), value);
            body = cut.1.trim_start();
        };
        calls.push(finished(name, arguments)?);
        rest = after.trim_start();
    }
    Ok(calls)
}

/// A value and what follows its mark; in JSON the mark may stand within a string.
fn split_value<'a>(text: &'a str, mark: &str, schema: Option<&Value>) -> Parsed<(&'a str, &'a str)> {
    let is_json = !allows(schema, "string") && text.trim_start().starts_with(['{', '[', '"']);
    let missing = if text.contains(mark) { Fault::Incomplete } else { Fault::Malformed };
    split_at(text, mark, is_json).ok_or(missing)
}

/// What stands before a mark and after it; in JSON the mark is none within a string.
fn split_at<'a>(text: &'a str, mark: &str, is_json: bool) -> Option<(&'a str, &'a str)> {
    let mut ends = text.match_indices(mark).map(|(at, _)| at);
    let end = ends.find(|&at| !is_json || !ends_in_string(&text[..at]))?;
    Some((&text[..end], &text[end + mark.len()..]))
}

/// Whether the text breaks off within a value, which may hold anything.
fn is_open(text: &str, open: &str, close: &str) -> bool {
    match (text.rfind(open), text.rfind(close)) {
        (Some(open), close) => close.is_none_or(|close| close < open),
        (None, _) => false,
    }
}

fn finished(name: &str, arguments: Map<String, Value>) -> Parsed<ToolCall> {
    let is_name =
        !name.is_empty() && !name.contains(|character: char| character.is_whitespace() || character == '<');
    if is_name { Ok(call(name, Value::Object(arguments).to_string())) } else { Err(Fault::Malformed) }
}

/// What the tool's parameter of that name may be.
fn schema<'a>(tools: &'a [Value], function: &str, parameter: &str) -> Option<&'a Value> {
    let tool = tools.iter().find(|tool| tool["function"]["name"] == function)?;
    tool["function"]["parameters"]["properties"].get(parameter)
}

/// A value without the line breaks that the tags stand on lines of their own for.
fn without_frame(value: &str) -> &str {
    let value = value.strip_prefix('\n').unwrap_or(value);
    value.strip_suffix('\n').unwrap_or(value)
}

/// Whether a schema names this type.
fn allows(schema: Option<&Value>, kind: &str) -> bool {
    match schema.map(|schema| &schema["type"]) {
        Some(Value::String(only)) => only == kind,
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        _ => false,
    }
}

/// The text as what the schema says; where it allows texts, or does not say and it is no JSON, the text.
fn typed(text: &str, schema: Option<&Value>) -> Value {
    let as_text = || Value::String(text.to_owned());
    if allows(schema, "string") {
        return as_text();
    }
    // Models write Python's constants too.
    let trimmed = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    serde_json::from_str(trimmed).unwrap_or_else(|_| as_text())
}
