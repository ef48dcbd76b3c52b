//! The grammar of a family's tool calls, for answers that must be calls and for calls that must obey their schemas:
//! llguidance's dialect of Lark. Knows no engine.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{AnswerFormat, Block, Body, gemma};
use crate::structure::{enforceable, spaced};
use crate::{Error, Result, Structure};

/// How an answer may call tools.
#[derive(Clone, Debug)]
pub struct CallRules<'a> {
    /// The tools that may be called, as templates take them.
    pub tools: &'a [Value],
    /// Whether it may call more than once.
    pub parallel: bool,
    /// What it may be beside calls.
    pub beside: Beside,
}

/// What an answer may be where it may call tools. Where it may be something else, arguments obey the schemas of those tools
/// whose `strict` is true; where it must call, those of all.
#[derive(Clone, Debug, PartialEq)]
pub enum Beside {
    /// It calls and says nothing.
    Nothing,
    /// It says what it likes, before, between and after calls.
    Text,
    /// It either calls or has this structure.
    Structure(Structure),
}

/// The id of a special token's text.
type Special<'a> = &'a dyn Fn(&str) -> Option<u32>;

impl AnswerFormat {
    /// The structure of answers with calls that [`super::AnswerParser`] finds; `special` gives the id of a special token's
    /// text. `None` where the family's calls have no grammar here.
    ///
    /// # Errors
    /// [`Error::Structure`]: the keyword of a tool's schema that cannot be enforced.
    pub fn call_structure(&self, calls: &CallRules<'_>, special: Special<'_>) -> Result<Option<Structure>> {
        let Some(block) = self.block else { return Ok(None) };
        // Between tags there is no way to write parameters that no schema describes.
        let tagged = matches!(block.body, Body::FunctionTags | Body::ArgKeys | Body::Dsml);
        let all = calls.beside == Beside::Nothing || tagged;
        let mut rules = Rules { text: String::new(), special };
        let tools = calls.tools.iter().enumerate();
        let tools = tools.map(|(index, tool)| Tool::read(index, tool, all)).collect::<Result<Vec<_>>>()?;
        let call = self.call(block, &tools, calls.parallel, &mut rules)?;
        let start = match &calls.beside {
            Beside::Nothing => call.alone(calls.parallel),
            Beside::Text => self.with_text(block, &call, calls.parallel, &mut rules),
            // Objects are read as calls there, whatever they were meant to be.
            Beside::Structure(_) if self.bare_json => return Ok(None),
            Beside::Structure(_) => format!("{} | @structured", call.alone(calls.parallel)),
        };
        let rules = format!("start: {start}\n{}", rules.text);
        Ok(Some(match &calls.beside {
            Beside::Structure(structure) => {
                Structure::Within { rules, structure: Box::new(structure.clone()) }
            }
            _ => Structure::Lark(rules),
        }))
    }

    /// A structure that begins after the reasoning that the prompt has begun.
    pub fn after_reasoning(&self, structure: Structure, special: Special<'_>) -> Structure {
        let Some((_, close)) = self.reasoning else { return structure };
        let mut rules = Rules { text: String::new(), special };
        let thought = rules.until("thought", close);
        let rules = format!("start: {thought} @structured\n{}", rules.text);
        Structure::Within { rules, structure: Box::new(structure) }
    }

    /// One call or block of calls.
    fn call(&self, block: Block, tools: &[Tool], parallel: bool, rules: &mut Rules<'_>) -> Result<Call> {
        let open = rules.mark(block.open);
        let close = block.close.map(|close| rules.mark(close)).unwrap_or_default();
        let list = |call: &str| match parallel {
            true => format!("\"[\" {call} (\",\" {call})* \"]\""),
            false => format!("\"[\" {call} \"]\""),
        };
        let again = |call: &str| if parallel { format!("{call}+") } else { call.to_owned() };
        Ok(match block.body {
            Body::Json if block.open == "<tool_calls>" => {
                let json = rules.json("call", objects(tools, "arguments"));
                Call { open, rest: format!("{} {close}", list(&json)), between: None }
            }
            Body::Json => {
                let json = rules.json("call", objects(tools, "arguments"));
                Call { open, rest: format!("\"\\n\" {json} \"\\n\" {close}"), between: Some("\"\\n\"") }
            }
            Body::Llama => {
                let json = rules.json("call", objects(tools, "parameters"));
                Call { open: String::new(), rest: json, between: Some("\"; \"") }
            }
            Body::Mistral if (rules.special)("[ARGS]").is_some() => {
                let rest = each(rules, tools, |rules, tool| {
                    let json = rules.json(&format!("arguments_{}", tool.index), tool.schema.clone());
                    Ok(format!("{} {} {json}", quoted(&tool.name), rules.mark("[ARGS]")))
                })?;
                Call { open, rest, between: Some("") }
            }
            Body::Mistral => {
                let json = rules.json("call", objects(tools, "arguments"));
                Call { open, rest: list(&json), between: None }
            }
            Body::DeepSeek => {
                let call = each(rules, tools, |rules, tool| Ok(deepseek(rules, tool, self.fenced)))?;
                Call { open, rest: format!("{} {close}", again(&call)), between: None }
            }
            Body::FunctionTags => {
                let rest = each(rules, tools, |rules, tool| {
                    let head = quoted(&format!("\n<function={}>\n", tool.name));
                    Ok(format!("{head} {} \"</function>\\n\"", tagged(rules, tool, TagStyle::Function)?))
                })?;
                Call { open, rest: format!("{rest} {close}"), between: Some("\"\\n\"") }
            }
            Body::ArgKeys => {
                let rest = each(rules, tools, |rules, tool| {
                    let head = quoted(&format!("{}\n", tool.name));
                    Ok(format!("{head} {}", tagged(rules, tool, TagStyle::Arg)?))
                })?;
                Call { open, rest: format!("{rest} {close}"), between: Some("\"\\n\"") }
            }
            Body::Dsml => {
                let call = each(rules, tools, dsml)?;
                Call { open, rest: format!("\"\\n\" {} {close}", again(&call)), between: None }
            }
            Body::Gemma(quote) => {
                let rest = each(rules, tools, |rules, tool| {
                    let head = quoted(&format!("call:{}", tool.name));
                    Ok(format!("{head} {}", gemma::arguments(rules, tool, quote)?))
                })?;
                Call { open, rest: format!("{rest} {close}"), between: Some("") }
            }
        })
    }

    /// An answer that may say something beside its calls.
    fn with_text(&self, block: Block, call: &Call, parallel: bool, rules: &mut Rules<'_>) -> String {
        let marks =
            [self.reasoning, self.wrapper].into_iter().flatten().flat_map(|(open, close)| [open, close]);
        // Special tokens are part of no text.
        let marks: Vec<String> = marks.filter_map(rules.special).map(|id| format!("<[{id}]>")).collect();
        if self.bare_json {
            // What begins with a brace is read as calls.
            rules.rule("text", "/[ \\t\\r\\n]*[^{ \\t\\r\\n](.|\\n)*/");
            return format!("{} | text", call.alone(parallel));
        }
        let many = if parallel { "*" } else { "?" };
        let rest = rules.rule("called", &call.rest);
        // Where the mark is a token of its own, text may not spell it either.
        let open = regex(block.open);
        rules.rule("SAID", &format!("/(.|\\n)+/ & ~/(.|\\n)*{open}(.|\\n)*/"));
        // Never two texts side by side, which together might spell the mark.
        let other = match marks.is_empty() {
            true => String::new(),
            false => format!("{}*", rules.rule("other", &format!("SAID? ({})", marks.join(" | ")))),
        };
        let head = match (rules.special)(block.open) {
            Some(id) => format!("SAID? <[{id}]>"),
            None => rules.until("head", block.open),
        };
        if block.close.is_none() {
            // Whatever follows the mark is read as calls.
            let more = if parallel { format!("({} {rest})*", call.open) } else { String::new() };
            return format!("{other} ({head} {rest} {more} | SAID)?");
        }
        format!("{other} ({head} {rest} {other}){many} SAID?")
    }
}

/// A call in a grammar's terms: its opening mark, what follows that, and what stands between two.
struct Call {
    open: String,
    rest: String,
    /// `None` where a block holds several calls itself.
    between: Option<&'static str>,
}

impl Call {
    fn alone(&self, parallel: bool) -> String {
        let whole = format!("{} {}", self.open, self.rest);
        match self.between {
            Some(between) if parallel => format!("{whole} ({between} {whole})*"),
            _ => whole,
        }
    }
}

/// A tool that may be called.
pub(super) struct Tool {
    pub index: usize,
    pub name: String,
    /// Of its arguments, an object; all of its keywords can be enforced in JSON.
    pub schema: Value,
}

impl Tool {
    fn read(index: usize, tool: &Value, all: bool) -> Result<Tool> {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default().to_owned();
        let refused = |reason: String| Error::Structure(format!("the tool '{name}': {reason}"));
        let mut schema = match &function["parameters"] {
            _ if !all && function["strict"] != true => json!({}),
            given @ Value::Object(keywords) if !keywords.is_empty() => enforceable(given).map_err(refused)?,
            _ => json!({"properties": {}, "additionalProperties": false}),
        };
        match schema.get("type") {
            None => schema["type"] = json!("object"),
            Some(kind) if kind == "object" => {}
            Some(_) => return Err(refused("its arguments must be of the type \"object\"".to_owned())),
        }
        Ok(Tool { index, name, schema })
    }
}

/// The rules beside `start`.
pub(super) struct Rules<'a> {
    text: String,
    special: Special<'a>,
}

impl Rules<'_> {
    pub fn rule(&mut self, name: &str, right: &str) -> String {
        writeln!(self.text, "{name}: {right}").expect("a String takes everything");
        name.to_owned()
    }

    pub fn json(&mut self, name: &str, schema: Value) -> String {
        self.rule(name, &format!("%json {}", spaced(schema)))
    }

    /// A special token, or a text with one in it, or the text where there is none.
    pub fn mark(&self, text: &str) -> String {
        match ((self.special)(text), self.split(text)) {
            (Some(id), _) => format!("<[{id}]>"),
            (None, Some((before, id, after))) => format!("{} <[{id}]> {}", quoted(before), quoted(after)),
            (None, None) => quoted(text),
        }
    }

    /// What stands before and after the special token in one of DeepSeek V3.2's marks, where it is one.
    fn split<'t>(&self, text: &'t str) -> Option<(&'t str, u32, &'t str)> {
        let id = (self.special)(DSML)?;
        let (before, after) = text.split_once(DSML)?;
        Some((before, id, after))
    }

    /// Any text up to and including a mark.
    pub fn until(&mut self, name: &str, mark: &str) -> String {
        let end = regex(mark);
        match (self.special)(mark) {
            None if self.split(mark).is_some() => {
                let (before, id, after) = self.split(mark).unwrap_or_default();
                let (inner, before) = (name.to_uppercase(), regex(before));
                self.rule(&inner, &format!("/(.|\\n)*{before}/ & ~/(.|\\n)*{end}(.|\\n)*/"));
                self.rule(name, &format!("{inner} <[{id}]> {}", quoted(after)))
            }
            None => {
                self.rule(&format!("{name}[lazy]"), &format!("/(.|\\n)*{end}/"));
                name.to_owned()
            }
            Some(id) => {
                let inner = name.to_uppercase();
                self.rule(&inner, &format!("/(.|\\n)+/ & ~/(.|\\n)*{end}(.|\\n)*/"));
                self.rule(name, &format!("{inner}? <[{id}]>"))
            }
        }
    }
}

/// One of the tools: an alternative of what `call` makes of it.
fn each(
    rules: &mut Rules<'_>,
    tools: &[Tool],
    call: impl Fn(&mut Rules<'_>, &Tool) -> Result<String>,
) -> Result<String> {
    let mut alternatives = Vec::with_capacity(tools.len());
    for tool in tools {
        let right = call(rules, tool)?;
        alternatives.push(rules.rule(&format!("call_{}", tool.index), &right));
    }
    Ok(rules.rule("any_call", &alternatives.join(" | ")))
}

/// One call of DeepSeek's, its arguments perhaps in a fenced block.
fn deepseek(rules: &mut Rules<'_>, tool: &Tool, fenced: bool) -> String {
    let marks = ["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"];
    let [begin, separator, end] = marks.map(|mark| rules.mark(mark));
    let json = rules.json(&format!("arguments_{}", tool.index), tool.schema.clone());
    let name = quoted(&tool.name);
    match fenced {
        true => format!("{begin} \"function\" {separator} {name} \"\\n```json\\n\" {json} \"\\n```\" {end}"),
        false => format!("{begin} {name} {separator} {json} {end}"),
    }
}

/// One call of DeepSeek V3.2's.
fn dsml(rules: &mut Rules<'_>, tool: &Tool) -> Result<String> {
    if tool.name.contains(['"', '<', '>']) || tool.name.contains(char::is_whitespace) {
        let what = "the name of a tool with quotes, brackets or blank space";
        let why = "cannot be enforced in this model's way of writing calls";
        return Err(Error::Structure(format!("the tool '{}': {what} {why}", tool.name)));
    }
    let head = rules.mark(&format!("<｜DSML｜invoke name=\"{}\">\n", tool.name));
    let parameters = tagged(rules, tool, TagStyle::Dsml)?;
    Ok(format!("{head} {parameters} {}", rules.mark("</｜DSML｜invoke>\n")))
}

/// The schema of `{"name", "arguments"}` for any of the tools.
fn objects(tools: &[Tool], arguments: &str) -> Value {
    let one = |tool: &Tool, place: String| {
        let schema = relocated(&tool.schema, &format!("{place}/properties/{arguments}"));
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: schema},
            "required": ["name", arguments],
            "additionalProperties": false,
        })
    };
    match tools {
        [tool] => one(tool, "#".to_owned()),
        tools => {
            let all = tools.iter().enumerate().map(|(index, tool)| one(tool, format!("#/anyOf/{index}")));
            json!({"anyOf": all.collect::<Vec<_>>()})
        }
    }
}

/// A schema whose references hold where it stands at another place of a document.
fn relocated(schema: &Value, place: &str) -> Value {
    match schema {
        Value::Object(keywords) => {
            let moved = keywords.iter().map(|(keyword, value)| {
                let value = match (keyword.as_str(), value) {
                    ("$ref", Value::String(to)) if to == "#" || to == "#/" => place.into(),
                    ("$ref", Value::String(to)) if to.starts_with("#/") => {
                        format!("{place}{}", &to[1..]).into()
                    }
                    ("const" | "enum" | "default" | "examples", value) => value.clone(),
                    (_, value) => relocated(value, place),
                };
                (keyword.clone(), value)
            });
            Value::Object(moved.collect())
        }
        Value::Array(items) => items.iter().map(|item| relocated(item, place)).collect(),
        other => other.clone(),
    }
}

/// How parameters are written in tags.
#[derive(Clone, Copy)]
enum TagStyle {
    /// `<parameter=key>` … `</parameter>`.
    Function,
    /// `<arg_key>key</arg_key>`, `<arg_value>` … `</arg_value>`.
    Arg,
    /// `<｜DSML｜parameter name="key" string="true|false">` … `</｜DSML｜parameter>`.
    Dsml,
}

/// The special token in DeepSeek V3.2's marks.
const DSML: &str = "｜DSML｜";

/// Keywords of an object whose parameters are written in tags, and of a text among them.
const OBJECT_KEYWORDS: [&str; 9] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "$defs",
    "definitions",
    "$schema",
    "title",
    "description",
];
const TEXT_KEYWORDS: [&str; 6] = ["type", "title", "description", "default", "examples", "enum"];

/// The parameters in their order, those that are not required perhaps.
fn tagged(rules: &mut Rules<'_>, tool: &Tool, style: TagStyle) -> Result<String> {
    let refused = |what: String| {
        let why = "cannot be enforced in this model's way of writing calls";
        Err(Error::Structure(format!("the tool '{}': {what} {why}", tool.name)))
    };
    let no_fields = Map::new();
    let keywords = tool.schema.as_object().unwrap_or(&no_fields);
    if let Some(keyword) = keywords.keys().find(|name| !OBJECT_KEYWORDS.contains(&name.as_str())) {
        return refused(format!("the schema's keyword `{keyword}` at #"));
    }
    let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&no_fields);
    let required: Vec<&str> = keywords
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let odd =
        |name: &str| name.trim() != name || name.is_empty() || name.contains(['<', '>', '\n', '"', '\\']);
    if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
        return refused(format!("the required parameter {name:?}, which has no schema,"));
    }
    let mut right = Vec::new();
    for (index, (key, schema)) in properties.iter().enumerate() {
        if odd(key) {
            return refused(format!("the parameter name {key:?}"));
        }
        let name = format!("value_{}_{index}", tool.index);
        let keyword = text_keyword(schema);
        if let (TagStyle::Function | TagStyle::Arg, Some(keyword)) = (style, keyword) {
            return refused(format!("the schema's keyword `{keyword}` at #/properties/{key}"));
        }
        let whole = match style {
            TagStyle::Function => {
                let value = value(rules, &name, (schema, keywords), "</parameter>");
                format!("{} {value} \"\\n\"", quoted(&format!("<parameter={key}>\n")))
            }
            TagStyle::Arg => {
                let [open, close, begin] =
                    ["<arg_key>", "</arg_key>", "<arg_value>"].map(|mark| rules.mark(mark));
                let value = value(rules, &name, (schema, keywords), "</arg_value>");
                format!("{open} {} {close} \"\\n\" {begin} {value} \"\\n\"", quoted(key))
            }
            TagStyle::Dsml => {
                // What text as it is cannot be held to is written as JSON.
                let is_text = allows_text(schema) && keyword.is_none() && schema.get("enum").is_none();
                let head = rules.mark(&format!("<｜DSML｜parameter name=\"{key}\" string=\"{is_text}\">"));
                let end = "</｜DSML｜parameter>";
                let value = match is_text {
                    true => rules.until(&name, end),
                    false => json_value(rules, &name, (schema, keywords), end),
                };
                format!("{head} {value} \"\\n\"")
            }
        };
        right.push(if required.contains(&key.as_str()) { whole } else { format!("({whole})?") });
    }
    Ok(right.join(" "))
}

fn allows_text(schema: &Value) -> bool {
    match &schema["type"] {
        Value::String(kind) => kind == "string",
        Value::Array(kinds) => kinds.iter().any(|kind| kind == "string"),
        _ => false,
    }
}

/// A keyword of a text that text between tags is not held to.
fn text_keyword(schema: &Value) -> Option<&str> {
    let keywords = schema.as_object().filter(|_| allows_text(schema))?;
    keywords.keys().map(String::as_str).find(|keyword| !TEXT_KEYWORDS.contains(keyword))
}

/// A parameter's value with the mark that ends it: text as it is, all else as JSON.
fn value(
    rules: &mut Rules<'_>,
    name: &str,
    (schema, root): (&Value, &Map<String, Value>),
    end: &str,
) -> String {
    let frame = if end == "</parameter>" { "\"\\n\"" } else { "" };
    if allows_text(schema) {
        let Some(choices) = schema["enum"].as_array() else { return rules.until(name, end) };
        let choices = choices.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>();
        return format!("{} {frame} {}", rules.rule(name, &choices.join(" | ")), rules.mark(end));
    }
    json_value(rules, name, (schema, root), end)
}

/// A parameter's value as JSON with the mark that ends it.
fn json_value(
    rules: &mut Rules<'_>,
    name: &str,
    (schema, root): (&Value, &Map<String, Value>),
    end: &str,
) -> String {
    let frame = if end == "</parameter>" { "\"\\n\"" } else { "" };
    let mut schema = schema.clone();
    if let Some(keywords) = schema.as_object_mut() {
        // Its references are to the definitions of the whole.
        for definitions in ["$defs", "definitions"] {
            if let Some(value) = root.get(definitions) {
                keywords.insert(definitions.into(), value.clone());
            }
        }
    }
    format!("{} {frame} {}", rules.json(name, schema), rules.mark(end))
}

/// A literal of the grammar.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text in a regular expression between slashes.
pub(super) fn regex(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if "\\/.*+?()[]{}|^$&~-\"".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}
