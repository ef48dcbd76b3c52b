//! Answers that must have a structure: schemas, choices, grammars, calls of tools, by every interface; and every setting of sampling.
#![allow(clippy::unwrap_used)]

mod client;

use client::{Answer, Running};
use serde_json::{Value, json};
use serve::ServeOptions;

const CHAT: &str = "/v1/chat/completions";

fn server() -> Running {
    Running::serve(client::models_with_tools(1024), ServeOptions::default())
}

fn merged(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["clay", "ore"]}},
        "required": ["ok", "kind"], "additionalProperties": false})
}

fn response_format() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema()}})
}

fn parameters() -> Value {
    json!({"type": "object", "properties": {"city": {"enum": ["x", "景德镇"]}}, "required": ["city"], "additionalProperties": false})
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters()}})
}

fn check_valid(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value["ok"].is_boolean() && ["clay", "ore"].contains(&value["kind"].as_str().unwrap()), "{text}");
}

fn check_arguments(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(["x", "景德镇"].contains(&value["city"].as_str().unwrap()), "{text}");
}

/// The events of Anthropic's streams and of those of the responses interface: the name is in the data too.
fn named_events(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let body = merged(body.clone(), json!({"stream": true}));
    let mut answer = Answer::open(server.address, "POST", path, body.to_string().as_bytes());
    assert_eq!(answer.status, 200);
    let text = answer.rest();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn schemas_hold_by_every_interface() {
    let server = server();
    for seed in 0..4 {
        let messages = json!([{"role": "user", "content": "a"}]);
        let body = json!({"messages": messages, "max_tokens": 400, "seed": seed, "response_format": response_format()});
        let (status, answer) = server.post(CHAT, &body);
        assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("stop")), "{answer}");
        check_valid(answer["choices"][0]["message"]["content"].as_str().unwrap());

        let format = json!({"format": {"type": "json_schema", "name": "n", "schema": schema()}});
        let body = json!({"input": "a", "max_output_tokens": 400, "seed": seed, "text": format});
        let (status, answer) = server.post("/v1/responses", &body);
        assert_eq!(
            (status, &answer["status"], &answer["text"]),
            (200, &json!("completed"), &format),
            "{answer}"
        );
        check_valid(answer["output"][0]["content"][0]["text"].as_str().unwrap());

        let format = json!({"type": "json_schema", "schema": schema()});
        for field in [json!({"output_config": {"format": format}}), json!({"output_format": format})] {
            let body = merged(json!({"messages": messages, "max_tokens": 400, "seed": seed}), field);
            let (status, answer) = server.post("/v1/messages", &body);
            assert_eq!((status, &answer["stop_reason"]), (200, &json!("end_turn")), "{answer}");
            check_valid(answer["content"][0]["text"].as_str().unwrap());
        }
    }
}

#[test]
fn every_kind_of_structure_holds() {
    let server = server();
    let ask = |more: Value, seed: u64| {
        let body = json!({"prompt": "a", "max_tokens": 300, "seed": seed});
        let (status, answer) = server.post("/v1/completions", &merged(body, more));
        assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("stop")), "{answer}");
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let choices = json!(["烧土", "smelt \"it\""]);
    let is_choice = |text: &str| choices.as_array().unwrap().contains(&json!(text));
    let is_regex = |text: &str| {
        let digits = text.strip_prefix("No. ").unwrap_or_default();
        (2..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_sum =
        |text: &str| text.split('+').all(|part| part.len() == 1 && part.as_bytes()[0].is_ascii_digit());
    let grammar = "start: DIGIT (\"+\" DIGIT)*\nDIGIT: /[0-9]/\n";
    for seed in 0..3 {
        assert!(is_choice(&ask(json!({"structured_outputs": {"choice": choices}}), seed)));
        assert!(is_choice(&ask(json!({"guided_choice": choices}), seed)));
        assert!(is_regex(&ask(json!({"structured_outputs": {"regex": "No\\. [0-9]{2,4}"}}), seed)));
        assert!(is_regex(&ask(json!({"guided_regex": "No\\. [0-9]{2,4}"}), seed)));
        assert!(is_sum(&ask(json!({"structured_outputs": {"grammar": grammar}}), seed)));
        assert!(is_sum(&ask(json!({"guided_grammar": grammar}), seed)));
        check_valid(&ask(json!({"structured_outputs": {"json": schema()}}), seed));
        check_valid(&ask(json!({"guided_json": schema().to_string()}), seed));
        check_valid(&ask(json!({"response_format": response_format()}), seed));
        let any = ask(
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "maxProperties": 0}}}}),
            seed,
        );
        assert_eq!(serde_json::from_str::<Value>(&any).unwrap(), json!({}));
    }
    // Any object may be long, so that it need not end here; but it begins as one.
    let body = json!({"prompt": "a", "max_tokens": 40, "response_format": {"type": "json_object"}});
    let (_, answer) = server.post("/v1/completions", &body);
    assert!(answer["choices"][0]["text"].as_str().unwrap().trim_start().starts_with('{'), "{answer}");
}

#[test]
fn choices_and_streams_are_held_too() {
    let server = server();
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 900, "n": 3, "seed": 2, "response_format": response_format()});
    for temperature in [0.0, 1.0] {
        let body = merged(body.clone(), json!({"temperature": temperature}));
        let (_, whole) = server.post(CHAT, &body);
        let pieces = server.stream(CHAT, &merged(body, json!({"stream": true})));
        for index in 0..3 {
            let text = whole["choices"][index]["message"]["content"].as_str().unwrap();
            check_valid(text);
            let of =
                pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index);
            let joined: String = of.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
            assert_eq!(joined, text);
        }
    }
}

#[test]
fn forced_calls_are_calls_of_the_tools_given() {
    let server = server();
    let named = json!({"type": "function", "function": {"name": "time"}});
    for (seed, choice) in [(1, json!("required")), (2, named)] {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "tools": [tool("weather"), tool("time")],
            "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 400, "seed": seed});
        let (status, answer) = server.post(CHAT, &body);
        assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("tool_calls")), "{answer}");
        let message = &answer["choices"][0]["message"];
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &message["content"]), (1, &Value::Null), "{answer}");
        let function = &calls[0]["function"];
        let name = function["name"].as_str().unwrap();
        assert!(if choice == "required" { ["weather", "time"].contains(&name) } else { name == "time" });
        check_arguments(function["arguments"].as_str().unwrap());

        let pieces = server.stream(CHAT, &merged(body, json!({"stream": true})));
        let deltas = pieces.iter().map(|piece| &piece["choices"][0]["delta"]["tool_calls"][0]["function"]);
        let (mut names, mut arguments) = (String::new(), String::new());
        for delta in deltas {
            names += delta["name"].as_str().unwrap_or_default();
            arguments += delta["arguments"].as_str().unwrap_or_default();
        }
        assert_eq!((&json!(names), &json!(arguments)), (&function["name"], &function["arguments"]));
    }
}

#[test]
fn forced_calls_come_by_the_other_interfaces_too() {
    let server = server();
    let only = json!({"type": "any", "disable_parallel_tool_use": true});
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 400, "seed": 3, "tool_choice": only,
        "tools": [{"name": "weather", "input_schema": parameters()}]});
    let (status, answer) = server.post("/v1/messages", &body);
    assert_eq!((status, &answer["stop_reason"]), (200, &json!("tool_use")), "{answer}");
    let blocks = answer["content"].as_array().unwrap();
    assert_eq!(
        (blocks.len(), &blocks[0]["type"], &blocks[0]["name"]),
        (1, &json!("tool_use"), &json!("weather"))
    );
    check_arguments(&blocks[0]["input"].to_string());
    let events = named_events(&server, "/v1/messages", &body);
    let input: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), blocks[0]["input"]);
    let named =
        json!({"tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": true}});
    let (_, answer) = server.post("/v1/messages", &merged(body, named));
    assert_eq!(answer["content"][0]["name"], "weather", "{answer}");

    let flat = json!({"type": "function", "name": "weather", "parameters": parameters()});
    let body = json!({"input": "a", "max_output_tokens": 400, "seed": 4, "tools": [flat], "tool_choice": "required", "parallel_tool_calls": false});
    let (status, answer) = server.post("/v1/responses", &body);
    let item = &answer["output"][0];
    assert_eq!(
        (status, &item["type"], &item["name"]),
        (200, &json!("function_call"), &json!("weather")),
        "{answer}"
    );
    check_arguments(item["arguments"].as_str().unwrap());
    let events = named_events(&server, "/v1/responses", &body);
    let deltas = events.iter().filter(|event| event["type"] == "response.function_call_arguments.delta");
    let arguments: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(json!(arguments), item["arguments"]);
}

#[test]
fn strict_tools_and_structures_beside_tools() {
    let server = server();
    let mut strict = tool("weather");
    strict["function"]["strict"] = json!(true);
    // The bias makes the tiny model open calls often enough.
    let opening =
        server.post("/tokenize", &json!({"prompt": "<", "add_special_tokens": false})).1["tokens"][0].clone();
    let body = json!({"messages": [{"role": "user", "content": "a"}], "tools": [strict], "max_tokens": 200,
        "logit_bias": {opening.to_string(): 2}});
    for seed in 0..6 {
        let (status, answer) = server.post(CHAT, &merged(body.clone(), json!({"seed": seed})));
        assert_eq!(status, 200, "{answer}");
        for call in answer["choices"][0]["message"]["tool_calls"].as_array().into_iter().flatten() {
            check_arguments(call["function"]["arguments"].as_str().unwrap());
        }
    }
    let (mut calls, mut documents) = (0, 0);
    for seed in 0..20 {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "tools": [tool("weather")], "max_tokens": 600,
            "parallel_tool_calls": false, "response_format": response_format(), "seed": seed});
        let (status, answer) = server.post(CHAT, &body);
        assert_eq!(status, 200, "{answer}");
        let message = &answer["choices"][0]["message"];
        match message["tool_calls"].as_array() {
            Some(_) => calls += 1,
            None if answer["choices"][0]["finish_reason"] == "stop" => {
                documents += 1;
                check_valid(message["content"].as_str().unwrap());
            }
            None => {}
        }
    }
    assert!(calls >= 1 && documents >= 1, "{calls} calls and {documents} documents");
}

#[test]
fn structures_that_cannot_be_had_are_refused() {
    let server = server();
    let refuse = |more: Value, param: &str, words: &str| {
        let body = merged(json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 4}), more);
        let (status, answer) = server.post(CHAT, &body);
        assert_eq!((status, &answer["error"]["type"]), (400, &json!("invalid_request_error")), "{answer}");
        assert_eq!(answer["error"]["param"], param, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    };
    let with = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}});
    refuse(
        with(json!({"type": "object", "unevaluatedProperties": false})),
        "response_format",
        "`unevaluatedProperties` at #",
    );
    refuse(
        with(json!({"type": "array", "items": {"type": "array", "uniqueItems": true}})),
        "response_format",
        "`uniqueItems` at #/items",
    );
    refuse(with(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})), "response_format", "oneOf");
    refuse(json!({"response_format": {"type": "xml"}}), "response_format.type", "json_object");
    refuse(json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema", "an object");
    refuse(json!({"response_format": {"type": "json_object", "x": 1}}), "response_format.x", "Unrecognized");
    refuse(json!({"structured_outputs": {"regex": "a", "json": {}}}), "structured_outputs", "just one");
    refuse(
        json!({"structured_outputs": {"structural_tag": "a"}}),
        "structured_outputs.structural_tag",
        "not supported",
    );
    refuse(json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex", "regex");
    refuse(json!({"structured_outputs": {"regex": "(?=a)b"}}), "structured_outputs.regex", "regex");
    refuse(json!({"guided_grammar": "begin: \"a\""}), "guided_grammar", "start");
    refuse(
        json!({"guided_grammar": "start: %json {\"type\": \"array\", \"uniqueItems\": true}"}),
        "guided_grammar",
        "uniqueItems",
    );
    refuse(json!({"guided_choice": []}), "guided_choice", "0 texts");
    refuse(
        json!({"guided_regex": "a", "response_format": {"type": "json_object"}}),
        "guided_regex",
        "one structure",
    );
    refuse(json!({"tool_choice": "required"}), "tool_choice", "no 'tools'");
    let odd = json!([{"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "minProperties": 7}}}]);
    refuse(
        json!({"tools": odd, "tool_choice": "required"}),
        "tools",
        "the tool 'odd': the schema's keyword `minProperties`",
    );
    refuse(
        json!({"tools": [tool("f")], "tool_choice": "required", "response_format": {"type": "json_object"}}),
        "tool_choice",
        "response_format",
    );
    refuse(
        json!({"response_format": {"type": "json_object"}, "ignore_eos": true}),
        "ignore_eos",
        "structure",
    );
}

#[test]
fn other_interfaces_refuse_by_their_own_names() {
    let server = server();
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 4,
        "output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}});
    let (status, answer) = server.post("/v1/messages", &body);
    assert_eq!(
        (status, &answer["type"], &answer["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert!(answer["error"]["message"].as_str().unwrap().contains("'output_config.format'"), "{answer}");
    let body = json!({"input": "a", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}});
    let (status, answer) = server.post("/v1/responses", &body);
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("text.format")), "{answer}");
}

#[test]
fn settings_outside_their_ranges_are_refused() {
    let server = server();
    let refuse = |name: &str, value: Value| {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "dry_multiplier": 1, name: value});
        let (status, answer) = server.post(CHAT, &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(name)), "{body}: {answer}");
    };
    refuse("logit_bias", json!({"a": 1}));
    refuse("logit_bias", json!({"5": 101}));
    refuse("logit_bias", json!({"999999": 1}));
    refuse("min_p", json!(2));
    refuse("typical_p", json!(-1));
    refuse("repetition_penalty", json!(0));
    refuse("presence_penalty", json!(3));
    refuse("frequency_penalty", json!("much"));
    refuse("dry_multiplier", json!(-1));
    refuse("dry_base", json!(0.5));
    refuse("dry_allowed_length", json!(0));
    refuse("dry_penalty_last_n", json!(-2));
    refuse("dry_sequence_breakers", json!("\n"));
    refuse("dry_sequence_breakers", json!(["", "\n"]));
    refuse("dry_sequence_breakers", json!(["no token is as long as this"]));
    refuse("stop_token_ids", json!([-1]));
    refuse("stop_token_ids", json!(5));
    refuse("stop_token_ids", json!([0, 1_000_000]));
}

#[test]
fn the_settings_of_sampling_change_answers() {
    let server = server();
    let ask = |more: Value| {
        let body = merged(json!({"prompt": "陶冶", "max_tokens": 48, "temperature": 0}), more);
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let tokens = |text: &str| {
        let body = json!({"prompt": text, "add_special_tokens": false});
        server.post("/tokenize", &body).1["tokens"].as_array().unwrap().clone()
    };
    let plain = ask(json!({}));
    let first = tokens(&plain)[0].clone();
    assert_ne!(ask(json!({"logit_bias": {first.to_string(): -100}})), plain);
    assert_eq!(ask(json!({"min_p": 0.5, "typical_p": 1.0, "repetition_penalty": 1})), plain);
    // A greedy answer of a random model repeats itself, which each of these keeps it from.
    for more in [
        json!({"repetition_penalty": 10}),
        json!({"presence_penalty": 2}),
        json!({"frequency_penalty": 2}),
        json!({"dry_multiplier": 100, "dry_allowed_length": 1, "dry_sequence_breakers": []}),
    ] {
        assert_ne!(ask(more.clone()), plain, "{more}");
    }
    assert_eq!(ask(json!({"stop_token_ids": [first]})), "", "the answer ends before its first token");
    // With the most probable token alone left, sampling is greedy.
    for more in [json!({"min_p": 1}), json!({"top_k": 1}), json!({"top_p": 0})] {
        assert_eq!(ask(merged(json!({"temperature": 2, "seed": 5}), more.clone())), plain, "{more}");
    }
    let hot = json!({"temperature": 2, "seed": 5});
    assert_ne!(ask(merged(hot.clone(), json!({"typical_p": 0.1}))), ask(hot));
}
