//! The grammar of a family's tool calls, for answers that must be calls: llguidance's dialect of Lark. Knows no engine.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{AnswerFormat, Body};

impl AnswerFormat {
    /// A Lark grammar of answers that call one or (`parallel`) several of these tools and say nothing else; `special` gives the
    /// id of a special token's text. `None` where the family's calls have no grammar here.
    pub fn call_grammar(
        &self,
        tools: &[Value],
        parallel: bool,
        special: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<String> {
        let block = self.block?;
        let mark = |text: &str| special(text).map_or_else(|| quoted(text), |id| format!("<[{id}]>"));
        let open = mark(block.open);
        let close = block.close.map(mark).unwrap_or_default();
        let mut rules = Rules::default();
        let many = |call: &str, between: &str| match (parallel, between) {
            (false, _) => call.to_owned(),
            (true, "") => format!("{call}+"),
            (true, between) => format!("{call} ({between} {call})*"),
        };
        let start = match block.body {
            Body::Json if block.open == "<tool_calls>" => {
                let call = rules.json("call", objects(tools, "arguments"));
                format!("{open} \"[\" {} \"]\" {close}", many(&call, "\",\""))
            }
            Body::Json => {
                let json = rules.json("object", objects(tools, "arguments"));
                let call = rules.rule("call", &format!("{open} \"\\n\" {json} \"\\n\" {close}"));
                many(&call, "\"\\n\"")
            }
            Body::Llama => rules.json("object", objects(tools, "parameters")),
            Body::Mistral if special("[ARGS]").is_some() => {
                let calls = each(&mut rules, tools, |rules, index, name, parameters| {
                    let json = rules.json(&format!("arguments_{index}"), parameters);
                    format!("{open} {} {} {json}", quoted(name), mark("[ARGS]"))
                });
                many(&calls, "")
            }
            Body::Mistral => {
                let call = rules.json("call", objects(tools, "arguments"));
                format!("{open} \"[\" {} \"]\"", many(&call, "\",\""))
            }
            Body::DeepSeek => {
                let calls = deepseek(&mut rules, tools, self.fenced, &mark);
                format!("{open} {} {close}", many(&calls, ""))
            }
            Body::FunctionTags => {
                let calls = each(&mut rules, tools, |rules, index, name, parameters| {
                    let head = quoted(&format!("\n<function={name}>\n"));
                    let values = tagged(rules, index, &parameters, &TagWords::FUNCTION);
                    format!("{open} {head} {values} \"</function>\\n\" {close}")
                });
                many(&calls, "\"\\n\"")
            }
            Body::ArgKeys => {
                let calls = each(&mut rules, tools, |rules, index, name, parameters| {
                    let head = quoted(&format!("{name}\n"));
                    let values = tagged(rules, index, &parameters, &TagWords::ARG);
                    format!("{open} {head} {values} {close}")
                });
                many(&calls, "\"\\n\"")
            }
            Body::Dsml | Body::Gemma(_) => return None,
        };
        Some(format!("start: {start}\n{}", rules.text))
    }
}

/// One call of DeepSeek's, its arguments perhaps in a fenced block.
fn deepseek(rules: &mut Rules, tools: &[Value], fenced: bool, mark: &dyn Fn(&str) -> String) -> String {
    let marks = ["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"];
    let [begin, separator, end] = marks.map(mark);
    each(rules, tools, |rules, index, name, parameters| {
        let json = rules.json(&format!("arguments_{index}"), parameters);
        let name = quoted(name);
        match fenced {
            true => {
                format!("{begin} \"function\" {separator} {name} \"\\n```json\\n\" {json} \"\\n```\" {end}")
            }
            false => format!("{begin} {name} {separator} {json} {end}"),
        }
    })
}

/// The rules beside `start`.
#[derive(Default)]
struct Rules {
    text: String,
}

impl Rules {
    fn rule(&mut self, name: &str, right: &str) -> String {
        writeln!(self.text, "{name}: {right}").expect("a String takes everything");
        name.to_owned()
    }

    fn json(&mut self, name: &str, schema: Value) -> String {
        self.rule(name, &format!("%json {schema}"))
    }
}

/// One of the tools: an alternative of what `call` makes of number, name and parameters.
fn each(
    rules: &mut Rules,
    tools: &[Value],
    call: impl Fn(&mut Rules, usize, &str, Value) -> String,
) -> String {
    let alternatives: Vec<String> = tools
        .iter()
        .enumerate()
        .map(|(index, tool)| {
            let name = tool["function"]["name"].as_str().unwrap_or_default();
            let right = call(rules, index, name, parameters(tool));
            rules.rule(&format!("call_{index}"), &right)
        })
        .collect();
    rules.rule("any_call", &alternatives.join(" | "))
}

/// The schema of a tool's arguments.
fn parameters(tool: &Value) -> Value {
    match &tool["function"]["parameters"] {
        schema @ Value::Object(fields) if !fields.is_empty() => schema.clone(),
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}

/// The schema of `{"name", "arguments"}` for any of the tools.
fn objects(tools: &[Value], arguments: &str) -> Value {
    let one = |tool: &Value| {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool["function"]["name"]}, arguments: parameters(tool)},
            "required": ["name", arguments],
            "additionalProperties": false,
        })
    };
    match tools {
        [tool] => one(tool),
        tools => json!({"anyOf": tools.iter().map(one).collect::<Vec<_>>()}),
    }
}

/// The words around a parameter.
struct TagWords {
    key: (&'static str, &'static str),
    /// After a value.
    end: &'static str,
}

impl TagWords {
    const FUNCTION: TagWords = TagWords { key: ("<parameter=", ">\n"), end: "\n</parameter>\n" };
    const ARG: TagWords = TagWords { key: ("<arg_key>", "</arg_key>\n<arg_value>"), end: "</arg_value>\n" };
}

/// The parameters in their order, those that are not required perhaps.
fn tagged(rules: &mut Rules, tool: usize, parameters: &Value, words: &TagWords) -> String {
    let no_fields = serde_json::Map::new();
    let properties = parameters["properties"].as_object().unwrap_or(&no_fields);
    let required = parameters["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut right = Vec::new();
    for (index, (key, schema)) in properties.iter().enumerate() {
        let name = format!("value_{tool}_{index}");
        let value = if schema["type"] == "string" && schema.get("enum").is_none() {
            let end = regex(words.end);
            rules.rule(&format!("{name}[lazy]"), &format!("/(.|\\n)*{end}/"));
            name
        } else if let Some(choices) = schema["enum"].as_array().filter(|_| schema["type"] == "string") {
            let choices = choices.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>();
            format!("{} {}", rules.rule(&name, &choices.join(" | ")), quoted(words.end))
        } else {
            format!("{} {}", rules.json(&name, schema.clone()), quoted(words.end))
        };
        let whole = format!("{} {value}", quoted(&format!("{}{key}{}", words.key.0, words.key.1)));
        let is_required = required.iter().any(|required| required == key);
        right.push(if is_required { whole } else { format!("({whole})?") });
    }
    right.join(" ")
}

/// A literal of the grammar.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The text as a regular expression between slashes.
fn regex(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            _ if "\\/.*+?()[]{}|^$<>".contains(character) => {
                // Angle brackets mean themselves.
                if !"<>".contains(character) {
                    out.push('\\');
                }
                out.push(character);
            }
            _ => out.push(character),
        }
    }
    out
}
