//! Calls that an answer is held to are calls that the parser finds, for every family.
#![allow(clippy::unwrap_used)]

mod walks;

use chat::format::{AnswerParser, Beside, CallRules, Piece};
use chat::{Codec, Structure, Structures};
use serde_json::{Value, json};
use walks::Draws;

/// The name of a family, what its templates hold, its special tokens, and marks that end texts of its calls.
type Family = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const DEEPSEEK: [&str; 5] = [
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
];

#[rustfmt::skip]
const FAMILIES: [Family; 19] = [
    ("hermes", "{{ tools }}<tool_call>\n{\"name\"", &[], &["</tool_call>"]),
    ("hermes", "{{ tools }}<tool_call>\n{\"name\"<think>", &["<tool_call>", "</tool_call>", "<think>", "</think>"], &["</tool_call>"]),
    ("qwen_coder", "{{ tools }}<tool_call>\n<function=example>", &[], &["</parameter>", "</tool_call>"]),
    ("qwen_coder", "{{ tools }}<tool_call>\n<function=example>", &["<tool_call>", "</tool_call>"], &["</parameter>"]),
    ("glm", "{{ tools }}<tool_call>{name}<arg_key>", &[], &["</arg_value>"]),
    ("glm", "{{ tools }}<tool_call>{name}<arg_key>", &["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"], &[]),
    ("ernie", "{{ tools }}<tool_call><think><response>", &["<tool_call>"], &[]),
    ("hunyuan", "{{ tools }}<tool_calls><answer><think>", &[], &["</tool_calls>"]),
    ("mistral", "{{ tools }}[TOOL_CALLS]", &["[TOOL_CALLS]", "[ARGS]"], &["[TOOL_CALLS]"]),
    ("mistral", "{{ tools }}[TOOL_CALLS]", &["[TOOL_CALLS]"], &["[TOOL_CALLS]"]),
    ("llama3", "{{ tools }}<|start_header_id|><|python_tag|>", &["<|python_tag|>"], &[]),
    ("deepseek", "{{ tools }}<｜tool▁calls▁begin｜>", &DEEPSEEK, &["<｜tool▁call▁end｜>"]),
    ("deepseek", "{{ tools }}<｜tool▁calls▁begin｜>```json", &DEEPSEEK, &["```"]),
    ("deepseek_v32", "{{ tools }}<｜DSML｜", &["｜DSML｜"], &["</"]),
    ("deepseek_v32", "{{ tools }}<｜DSML｜", &[], &["</｜DSML｜parameter>", "</｜DSML｜function_calls>", "<｜DSML｜invoke"]),
    ("gemma4", "{{ tools }}<|tool_call>call:", &["<|tool_call>", "<tool_call|>", "<|\"|>"], &["<|\"|>", "<tool_call|>"]),
    ("gemma4", "{{ tools }}<|tool_call>call:<|channel>", &[], &["<|\"|>", "<tool_call|>"]),
    ("functiongemma", "{{ tools }}<start_function_call>", &["<start_function_call>", "<end_function_call>", "<escape>"], &["<escape>"]),
    ("functiongemma", "{{ tools }}<start_function_call>", &[], &["<escape>", "<end_function_call>"]),
];

fn tools() -> Vec<Value> {
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "strict": true, "parameters": parameters}});
    vec![
        tool(
            "weather",
            json!({
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                    "unit": {"enum": ["celsius", "华氏"]},
                    "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 2},
                },
                "required": ["city"],
                "additionalProperties": false,
            }),
        ),
        json!({"type": "function", "function": {"name": "time", "strict": true}}),
        tool(
            "plant",
            json!({
                "type": "object",
                "properties": {"node": {"$ref": "#/$defs/node"}},
                "required": ["node"],
                "additionalProperties": false,
                "$defs": {"node": {
                    "type": "object",
                    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/node"}}},
                    "required": ["value"],
                    "additionalProperties": false,
                }},
            }),
        ),
    ]
}

/// A family's codec, and what makes constraints for it.
fn family((name, template, special, _): &Family) -> (Codec, Structures) {
    let codec = Codec::new(walks::tokenizer(template, special)).unwrap();
    assert_eq!(codec.format().family(), *name, "{template}");
    let structures = Structures::new(&codec, codec.stop_ids());
    (codec, structures)
}

fn structure(codec: &Codec, rules: &CallRules<'_>) -> Structure {
    codec.format().call_structure(rules, &|text| codec.tokenizer().special(text)).unwrap().unwrap()
}

/// The pieces of a text that comes character by character; what belongs together is put together.
fn parsed(codec: &Codec, tools: &[Value], (text, in_reasoning): (&str, bool)) -> Vec<Piece> {
    let mut parser = AnswerParser::new(codec.format(), tools, in_reasoning);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut more: Vec<Piece> = Vec::new();
    for character in text.chars() {
        more.extend(parser.push(&character.to_string()));
    }
    more.extend(parser.finish());
    for piece in more {
        match (pieces.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(more)) => *last += &more,
            (Some(Piece::Reasoning(last)), Piece::Reasoning(more)) => *last += &more,
            (_, piece) => pieces.push(piece),
        }
    }
    pieces
}

/// The calls of a text that comes in pieces of so many characters, taken apart while they are written.
fn live(codec: &Codec, tools: &[Value], text: &str, characters: usize) -> Vec<(String, Value)> {
    let mut parser = AnswerParser::new(codec.format(), tools, false).with_certain_calls();
    let all: Vec<char> = text.chars().collect();
    let mut pieces = Vec::new();
    for piece in all.chunks(characters) {
        pieces.extend(parser.push(&piece.iter().collect::<String>()));
    }
    pieces.extend(parser.finish());
    let (mut calls, mut open) = (Vec::new(), None);
    for piece in pieces {
        match piece {
            Piece::CallBegin(name) => open = Some((name, String::new())),
            Piece::Arguments(text) => open.as_mut().unwrap().1 += &text,
            Piece::CallEnd => {
                let (name, arguments) = open.take().unwrap();
                calls.push((name, serde_json::from_str(&arguments).unwrap()));
            }
            Piece::Call(call) => calls.push((call.name, serde_json::from_str(&call.arguments).unwrap())),
            other => panic!("{other:?} of {text:?}"),
        }
    }
    assert_eq!(open, None, "{text:?}");
    calls
}

/// Whether a call is one of the tools' and its arguments obey the schema.
fn check_call(tools: &[Value], call: &chat::ToolCall, text: &str) {
    let tool = tools.iter().find(|tool| tool["function"]["name"] == call.name.as_str());
    let tool = tool.unwrap_or_else(|| panic!("{call:?} of {text:?}"));
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
    let none = json!({"type": "object", "additionalProperties": false});
    let schema = tool["function"].get("parameters").unwrap_or(&none);
    if let Err(error) = jsonschema::validate(schema, &arguments) {
        panic!("{error}: {arguments} of {text:?}");
    }
}

#[test]
fn forced_calls_are_found_and_valid_for_every_family() {
    let (tools, mut draws) = (tools(), Draws(8));
    for one in &FAMILIES {
        let (codec, structures) = family(one);
        let (mut ended, mut several) = (0, 0);
        for round in 0..100 {
            let parallel = round % 2 == 0;
            let rules = CallRules { tools: &tools, parallel, beside: Beside::Nothing };
            let constraint = structures
                .constraint(&structure(&codec, &rules))
                .unwrap_or_else(|error| panic!("{error}: {one:?}"));
            let stop_ids = codec.stop_ids();
            // What may stand between two calls, too.
            let marks: Vec<&str> = one.3.iter().copied().chain(["\n", ",", ";"]).collect();
            let Some(ids) = walks::walk((codec.tokenizer(), &stop_ids), constraint, &marks, &mut draws)
            else {
                continue;
            };
            let text = codec.text(&ids);
            let pieces = parsed(&codec, &tools, (&text, false));
            ended += 1;
            several += usize::from(pieces.len() > 1);
            assert!(!pieces.is_empty() && (parallel || pieces.len() == 1), "{pieces:?} of {text:?}");
            for piece in &pieces {
                let Piece::Call(call) = piece else { panic!("{piece:?} of {text:?}: {one:?}") };
                check_call(&tools, call, &text);
            }
            let whole = pieces.into_iter().map(|piece| match piece {
                Piece::Call(call) => (call.name, serde_json::from_str(&call.arguments).unwrap()),
                other => panic!("{other:?}"),
            });
            let whole: Vec<(String, Value)> = whole.collect();
            for characters in [1, 7, 1000] {
                assert_eq!(live(&codec, &tools, &text, characters), whole, "{text:?}");
            }
        }
        assert!(ended >= 25, "{ended} walks ended: {one:?}");
        assert!(several >= 2, "{several} answers called more than once: {one:?}");
    }
}

#[test]
fn calls_beside_text_obey_their_schemas_and_text_stays_free() {
    let (tools, mut draws) = (tools(), Draws(3));
    for one in &FAMILIES {
        let (codec, structures) = family(one);
        let open: Vec<&str> = match one.0 {
            "hermes" | "qwen_coder" | "glm" | "ernie" => vec!["<tool_call>"],
            "hunyuan" => vec!["<tool_calls>"],
            "llama3" => vec!["{"],
            "deepseek_v32" if one.2.is_empty() => vec!["<｜DSML｜function_calls>"],
            "gemma4" if one.2.is_empty() => vec!["<|tool_call>"],
            "functiongemma" if one.2.is_empty() => vec!["<start_function_call>"],
            _ => Vec::new(),
        };
        let marks: Vec<&str> = one.3.iter().copied().chain(open).collect();
        let rules = CallRules { tools: &tools, parallel: true, beside: Beside::Text };
        let constraint = structures
            .constraint(&structure(&codec, &rules))
            .unwrap_or_else(|error| panic!("{error}: {one:?}"));
        let (mut calls, mut texts) = (0, 0);
        for _ in 0..60 {
            let stop_ids = codec.stop_ids();
            let Some(ids) =
                walks::walk((codec.tokenizer(), &stop_ids), constraint.clone(), &marks, &mut draws)
            else {
                continue;
            };
            let text = codec.text(&ids);
            for piece in parsed(&codec, &tools, (&text, false)) {
                match piece {
                    Piece::Call(call) => {
                        calls += 1;
                        check_call(&tools, &call, &text);
                    }
                    Piece::Text(_) => texts += 1,
                    Piece::Reasoning(_) => {}
                    other => panic!("{other:?} of {text:?}"),
                }
            }
        }
        assert!(calls >= 3 && texts >= 3, "{calls} calls and {texts} texts: {one:?}");
    }
}

#[test]
fn a_structure_may_stand_beside_calls_and_after_reasoning() {
    let (tools, mut draws) = (tools(), Draws(9));
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false});
    for one in FAMILIES.iter().filter(|one| one.0 == "hermes" || one.0 == "hunyuan") {
        let (codec, structures) = family(one);
        let special = |text: &str| codec.tokenizer().special(text);
        let beside = Beside::Structure(Structure::JsonSchema(schema.clone()));
        let either = structure(&codec, &CallRules { tools: &tools, parallel: false, beside });
        let reasons = one.1.contains("<think>");
        let whole = if reasons { codec.format().after_reasoning(either, &special) } else { either };
        let constraint = structures.constraint(&whole).unwrap_or_else(|error| panic!("{error}: {whole:?}"));
        let (mut calls, mut documents) = (0, 0);
        for _ in 0..60 {
            let (stop_ids, marks) = (codec.stop_ids(), ["</think>", "</tool_call>"]);
            let ids = walks::walk((codec.tokenizer(), &stop_ids), constraint.clone(), &marks, &mut draws);
            let Some(ids) = ids else { continue };
            let text = codec.text(&ids);
            let pieces = parsed(&codec, &tools, (&text, reasons));
            match pieces.last() {
                Some(Piece::Call(call)) => {
                    calls += 1;
                    check_call(&tools, call, &text);
                }
                Some(Piece::Text(document)) => {
                    documents += 1;
                    let document: Value =
                        serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {text:?}"));
                    assert!(document["ok"].is_boolean(), "{text:?}");
                }
                other => panic!("{other:?} of {text:?}"),
            }
        }
        assert!(calls >= 3 && documents >= 3, "{calls} calls and {documents} documents: {one:?}");
    }
}

#[test]
fn what_cannot_be_enforced_in_calls_is_refused() {
    let tool = |name: &str, schema: Value| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let refused = |template: &str, schema: Value, expected: &str| {
        let codec = Codec::new(walks::tokenizer(template, &[])).unwrap();
        let tools = [tool("f", schema)];
        let rules = CallRules { tools: &tools, parallel: true, beside: Beside::Nothing };
        let message = codec.format().call_structure(&rules, &|_| None).unwrap_err().to_string();
        assert!(message.contains("the tool 'f': ") && message.contains(expected), "{message}");
    };
    let (hermes, coder) = (FAMILIES[0].1, FAMILIES[2].1);
    let of = |schema: Value| json!({"type": "object", "properties": {"a": schema}, "required": ["a"]});
    refused(hermes, of(json!({"type": "array", "uniqueItems": true})), "`uniqueItems` at #/properties/a");
    refused(hermes, json!({"type": "array"}), "type \"object\"");
    refused(coder, of(json!({"type": "string", "pattern": "^a$"})), "`pattern` at #/properties/a");
    refused(coder, json!({"type": "object", "anyOf": [{}]}), "`anyOf` at #");
    refused(coder, json!({"type": "object", "properties": {"a>b": {}}}), "parameter name");
    refused(coder, json!({"type": "object", "required": ["b"]}), "required parameter");
    let (gemma, dsml) = ("{{ tools }}<start_function_call>", "{{ tools }}<｜DSML｜");
    refused(gemma, of(json!({"type": "string", "pattern": "^a$"})), "`pattern` at #/properties/a");
    refused(gemma, of(json!({"oneOf": [{"type": "string"}]})), "`oneOf` at #/properties/a");
    refused(gemma, of(json!({"type": "array", "prefixItems": [{}]})), "`prefixItems` at #/properties/a");
    refused(gemma, of(json!({"enum": [[1]]})), "`enum` at #/properties/a");
    refused(gemma, json!({"type": "object", "properties": {"a:b": {}}}), "parameter name");
    refused(gemma, json!({"type": "object", "minProperties": 1}), "`minProperties` at #");
    refused(dsml, json!({"type": "object", "properties": {"a>b": {}}}), "parameter name");
    refused(dsml, of(json!({"type": "string", "uniqueItems": true})), "`uniqueItems` at #/properties/a");
}
