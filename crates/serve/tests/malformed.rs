//! Requests that are nearly right, and others that are far from it: whatever comes, the server answers with 2xx or with 4xx
//! in the format of the interface that was asked, in time, and goes on.
//!
//! `TAOYE_MALFORMED_CASES` asks for another number of them than the 1,000 here.
#![allow(clippy::unwrap_used)]

mod client;

use client::{Answer, Running};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use serve::ServeOptions;

/// Requests without a failure.
const CASES: u32 = 1000;
/// The context, small, so that an answer of any length ends soon.
const CONTEXT_TOKENS: usize = 512;

/// A path and a body that it takes.
fn valid() -> Vec<(&'static str, Value)> {
    let tool = json!({"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}});
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "陶冶?"}]}]);
    let called = json!([{"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "ore"}]);
    vec![
        (
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": messages, "max_tokens": 3, "temperature": 0.5, "top_p": 0.9,
            "seed": 1, "stop": ["a", "b"], "n": 2, "logprobs": true, "top_logprobs": 2, "stream": false, "user": "u"}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": called, "max_completion_tokens": 3, "stream": true,
            "stream_options": {"include_usage": true}, "tools": [{"type": "function", "function": tool}], "tool_choice": "auto"}),
        ),
        (
            "/v1/completions",
            json!({"model": "tiny", "prompt": [[5, 6, 7], [8]], "max_tokens": 2, "echo": true, "logprobs": 1,
            "temperature": 0, "seed": 1234, "stop": null}),
        ),
        (
            "/v1/completions",
            json!({"model": "tiny", "prompt": "ore", "max_tokens": 2, "stream": true, "n": 2}),
        ),
        (
            "/v1/responses",
            json!({"model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "instructions": "Be brief.", "max_output_tokens": 16, "temperature": 0, "stream": false, "store": false}),
        ),
        ("/v1/responses", json!({"model": "tiny", "input": "hi", "max_output_tokens": 16, "stream": true})),
        (
            "/v1/messages",
            json!({"model": "tiny", "max_tokens": 3, "system": [{"type": "text", "text": "Be brief."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stop_sequences": ["x"], "stream": false}),
        ),
        (
            "/v1/messages",
            json!({"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}], "stream": true,
            "tools": [{"name": "find", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}}),
        ),
        (
            "/v1/messages/count_tokens",
            json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
        ),
        ("/v1/embeddings", json!({"model": "bert", "input": ["a", "b c"], "encoding_format": "float"})),
        (
            "/v1/rerank",
            json!({"model": "bert", "query": "a", "documents": ["b", "c"], "top_n": 1, "return_documents": true}),
        ),
        ("/tokenize", json!({"model": "tiny", "prompt": "ore", "add_special_tokens": true})),
        ("/detokenize", json!({"model": "tiny", "tokens": [5, 6, 7]})),
    ]
}

/// What is done to a body. Numbers choose among what is there.
#[derive(Clone, Debug)]
enum Change {
    /// A value becomes another of its type.
    Alike(usize, u8, String),
    /// A value somewhere becomes another.
    Replace(usize, Value),
    /// A member or an element goes.
    Remove(usize),
    /// A member or an element comes.
    Add(usize, String, Value),
    /// A value is wrapped in an array, so many times.
    Wrap(usize, usize),
    /// A value takes the place of another.
    Copy(usize, usize),
    /// Bytes of the text are replaced: from, how many, by what.
    Splice(usize, usize, Vec<u8>),
}

/// Values that programs stumble over, and any others.
fn any_value() -> impl Strategy<Value = Value> {
    let odd = prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(1e308),
        json!(-1e-308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(4_294_967_296u64),
        json!(0.1),
        json!(""),
        json!([]),
        json!({}),
        json!([[]]),
        json!("\u{0}\u{feff}\u{202e}"),
        json!("<|im_start|>system\n<|endoftext|>"),
        json!("x".repeat(5000)),
        json!(vec!["a"; 200]),
        json!(vec![0; 500]),
    ]);
    let leaf = prop_oneof![
        odd,
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,12}".prop_map(|text| json!(text)),
        prop::collection::vec(any::<char>(), 0..8)
            .prop_map(|text| json!(text.into_iter().collect::<String>())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((name(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Names of members: those that the interfaces know, and any others.
fn name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "model",
        "messages",
        "prompt",
        "input",
        "stream",
        "stop",
        "n",
        "best_of",
        "logprobs",
        "top_logprobs",
        "max_tokens",
        "role",
        "content",
        "type",
        "text",
        "name",
        "tools",
        "tool_choice",
        "response_format",
        "function",
        "parameters",
        "logit_bias",
        "temperature",
        "seed",
        "suffix",
        "echo",
        "tokens",
        "documents",
        "query",
        "top_n",
        "dimensions",
        "encoding_format",
        "tool_calls",
        "min_p",
        "thinking",
        "id",
        "tool_call_id",
        "stream_options",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<usize>();
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6),
        prop::sample::select(vec![
            "1e999", "-", "\\ud800", "NaN", "\"", "{", "]", "[[[[", ",,", "00", "\u{0}", "null"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        6 => (place, any::<u8>(), "\\PC{0,6}").prop_map(|(place, number, text)| Change::Alike(place, number, text)),
        4 => (place, any_value()).prop_map(|(place, value)| Change::Replace(place, value)),
        2 => place.prop_map(Change::Remove),
        3 => (place, name(), any_value()).prop_map(|(place, name, value)| Change::Add(place, name, value)),
        1 => (place, prop::sample::select(vec![1, 2, 120, 3000])).prop_map(|(place, times)| Change::Wrap(place, times)),
        1 => (place, place).prop_map(|(from, to)| Change::Copy(from, to)),
        2 => (place, 0usize..20, bytes).prop_map(|(place, count, bytes)| Change::Splice(place, count, bytes)),
    ]
}

/// All values of a body, each as its pointer; the body itself comes first.
fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    out.push(at.clone());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| pointers(item, format!("{at}/{index}"), out));
        }
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            pointers(member, format!("{at}/{name}"), out);
        }),
        _ => {}
    }
}

fn applied(mut body: Value, changes: &[Change]) -> Vec<u8> {
    let mut text = None;
    for change in changes {
        let mut places = Vec::new();
        pointers(&body, String::new(), &mut places);
        let chosen = |place: &usize| places[place % places.len()].clone();
        match change {
            Change::Alike(place, number, text) => match body.pointer_mut(&chosen(place)).unwrap() {
                Value::Bool(flag) => *flag = !*flag,
                value @ Value::Number(_) => *value = json!(number % 8),
                Value::String(string) => text.clone_into(string),
                _ => {}
            },
            Change::Replace(place, value) => *body.pointer_mut(&chosen(place)).unwrap() = value.clone(),
            Change::Remove(place) => {
                let place = chosen(place);
                let Some((parent, last)) = place.rsplit_once('/') else { continue };
                match body.pointer_mut(parent).unwrap() {
                    Value::Object(members) => {
                        drop(members.remove(&last.replace("~1", "/").replace("~0", "~")))
                    }
                    Value::Array(items) => drop(items.remove(last.parse().unwrap())),
                    _ => {}
                }
            }
            Change::Add(place, name, value) => match body.pointer_mut(&chosen(place)).unwrap() {
                Value::Object(members) => drop(members.insert(name.clone(), value.clone())),
                Value::Array(items) => items.push(value.clone()),
                other => *other = value.clone(),
            },
            Change::Wrap(place, times) => {
                // A deep nest would end the recursion of this test before the server's.
                let inner = body.pointer_mut(&chosen(place)).unwrap();
                if *times < 200 {
                    *inner = (0..*times).fold(inner.take(), |inner, _| json!([inner]));
                } else {
                    text = Some(
                        [b"[".repeat(*times), body.to_string().into_bytes(), b"]".repeat(*times)].concat(),
                    );
                }
            }
            Change::Copy(from, to) => {
                let copied = body.pointer(&chosen(from)).unwrap().clone();
                // What is copied into itself over and over would grow without end.
                if copied.to_string().len() < 20_000 {
                    *body.pointer_mut(&chosen(to)).unwrap() = copied;
                }
            }
            Change::Splice(place, count, bytes) => {
                let mut spliced = text.take().unwrap_or_else(|| body.to_string().into_bytes());
                let at = place % (spliced.len() + 1);
                let end = (at + count).min(spliced.len());
                spliced.splice(at..end, bytes.iter().copied());
                text = Some(spliced);
            }
        }
    }
    text.unwrap_or_else(|| body.to_string().into_bytes())
}

/// Says what is wrong with an answer, if anything is.
fn fault(path: &str, status: u16, headers: &str, text: &str) -> Option<String> {
    let is_error_body = |body: &Value| {
        let message = body["error"]["message"].as_str().is_some_and(|message| !message.is_empty());
        let kind = body["error"]["type"].is_string();
        let of_anthropic = !path.starts_with("/v1/messages") || body["type"] == "error";
        message && kind && of_anthropic
    };
    match status {
        200..=299 if headers.contains("content-type: text/event-stream") => {
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            for event in data.filter(|event| *event != "[DONE]") {
                match serde_json::from_str::<Value>(event) {
                    Err(error) => return Some(format!("an event is no JSON: {error}")),
                    Ok(event) if event["error"].is_object() || event["type"] == "error" => {
                        return Some(format!("the stream failed: {event}"));
                    }
                    Ok(_) => {}
                }
            }
            let ended = ["[DONE]", "response.completed", "response.incomplete", "message_stop"];
            (!ended.iter().any(|end| text.contains(end))).then(|| "the stream does not end".to_owned())
        }
        200..=299 => serde_json::from_str::<Value>(text).err().map(|error| format!("no JSON: {error}")),
        400..=499 => match serde_json::from_str::<Value>(text) {
            Ok(body) if is_error_body(&body) => None,
            _ => Some("a refusal in another format".to_owned()),
        },
        _ => Some("neither success nor refusal".to_owned()),
    }
}

#[test]
fn every_request_is_answered_or_refused_in_the_interfaces_format() {
    let mut models = client::models_with_tools(CONTEXT_TOKENS);
    models.extend(client::encoder().unwrap());
    let server = Running::serve(models, ServeOptions::default());
    let valid = valid();
    for (path, body) in &valid {
        let mut answer = Answer::open(server.address, "POST", path, body.to_string().as_bytes());
        let text = answer.rest();
        assert_eq!(answer.status, 200, "{path} {body}: {text}");
    }
    let cases =
        std::env::var("TAOYE_MALFORMED_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = (0..valid.len(), prop::collection::vec(change(), 1..3));
    let (mut taken, mut refused) = (0u32, 0u32);
    let (taken, refused) = (std::cell::Cell::from_mut(&mut taken), std::cell::Cell::from_mut(&mut refused));
    let outcome = runner.run(&strategy, |(route, changes)| {
        let (path, body) = &valid[route];
        let bytes = applied(body.clone(), &changes);
        let mut answer = Answer::open(server.address, "POST", path, &bytes);
        let text = answer.rest();
        let counted = if answer.status < 300 { taken } else { refused };
        counted.set(counted.get() + 1);
        match fault(path, answer.status, &answer.headers, &text) {
            None => Ok(()),
            Some(fault) => Err(TestCaseError::fail(format!(
                "{fault}: {path} answered {} {:.500} to {:.2000}",
                answer.status,
                text,
                String::from_utf8_lossy(&bytes)
            ))),
        }
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let (taken, refused) = (taken.get(), refused.get());
    println!("{taken} requests were answered, {refused} refused");
    assert!(taken > cases / 20 && refused > cases / 4, "{taken} answered, {refused} refused");
    let (status, health) = server.get("/health");
    assert_eq!((status, &health["running"]), (200, &json!(0)), "{health}");
}
