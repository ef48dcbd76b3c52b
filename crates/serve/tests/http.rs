//! The server as its clients see it.
#![allow(clippy::unwrap_used)]

mod client;

use std::time::{Duration, Instant};

use client::{Answer, Running, events};
use serde_json::{Value, json};
use serve::{ServeOptions, Server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn server() -> Running {
    Running::start(256, ServeOptions::default())
}

/// A question with a fixed answer of some length.
fn question(extra: Value) -> Value {
    let mut body = json!({
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "陶冶?"}],
        "max_tokens": 40,
        "seed": 5,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The texts of the pieces, put together.
fn joined(events: &[Value], field: &str) -> String {
    events.iter().filter_map(|event| event.pointer(field)).filter_map(Value::as_str).collect()
}

#[test]
fn a_chat_in_pieces_is_the_whole_one() {
    let server = server();
    let (status, whole) = server.post(CHAT, &question(json!({"logprobs": true, "top_logprobs": 2})));
    assert_eq!((status, &whole["object"]), (200, &json!("chat.completion")));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(json!(tokens.len()), usage["completion_tokens"]);
    assert!(
        tokens
            .iter()
            .all(|token| token["top_logprobs"].as_array().unwrap().len() == 2 && token["bytes"].is_array())
    );

    let asked = json!({"logprobs": true, "top_logprobs": 2, "stream": true, "stream_options": {"include_usage": true}});
    let pieces = server.stream(CHAT, &question(asked));
    assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(joined(&pieces, "/choices/0/delta/content"), text);
    let streamed: Vec<Value> = pieces
        .iter()
        .filter_map(|piece| piece.pointer("/choices/0/logprobs/content"))
        .flat_map(|tokens| tokens.as_array().unwrap().clone())
        .collect();
    assert_eq!(&streamed, tokens);
    let [.., finish, last] = &pieces[..] else { panic!("{pieces:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!(last["choices"], json!([]));
    for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][field], usage[field], "{field}");
    }
    // The second question begins like the first; only its last token had to be computed.
    let cached = &last["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert_eq!(cached.as_u64().unwrap() + 1, usage["prompt_tokens"].as_u64().unwrap());
    assert!(
        pieces
            .iter()
            .all(|piece| piece["object"] == "chat.completion.chunk" && piece["id"] == pieces[0]["id"])
    );
    let plain = server.stream(CHAT, &question(json!({"stream": true})));
    assert_eq!(joined(&plain, "/choices/0/delta/content"), text);
    assert!(plain.iter().all(|piece| piece.get("usage").is_none()));
}

#[test]
fn stop_strings_end_answers_and_never_go_out() {
    let server = server();
    let (_, whole) = server.post(CHAT, &question(json!({})));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let stop: String = text.chars().skip(12).take(3).collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["never said", stop])] {
        let (_, cut) = server.post(CHAT, &question(json!({"stop": stop})));
        assert_eq!(
            (&cut["choices"][0]["message"]["content"], &cut["choices"][0]["finish_reason"]),
            (&json!(expected), &json!("stop"))
        );
        let pieces = server.stream(CHAT, &question(json!({"stop": stop, "stream": true})));
        assert_eq!(joined(&pieces, "/choices/0/delta/content"), expected);
    }
}

#[test]
fn the_shapes_that_openais_client_sends_are_understood() {
    let server = server();
    let (_, reference) = server.post(CHAT, &question(json!({})));
    let check = |extra: Value| {
        let (status, answer) = server.post(CHAT, &question(extra.clone()));
        assert_eq!(status, 200, "{extra}: {answer}");
        assert_eq!(answer["choices"], reference["choices"], "{extra}");
    };
    check(
        json!({"n": 1, "user": "u", "metadata": {"a": "b"}, "presence_penalty": 0.0, "frequency_penalty": 0}),
    );
    check(
        json!({"max_tokens": null, "max_completion_tokens": 40, "temperature": 1, "top_p": 1.0, "stop": null}),
    );
    check(
        json!({"response_format": {"type": "text"}, "tools": [], "logit_bias": {}, "stream": false, "top_k": 0}),
    );
    check(json!({"messages": [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "陶冶?", "name": "n"}]}));
    let (status, _) = server.post(
        CHAT,
        &question(json!({"model": null, "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "refusal": null, "tool_calls": []},
        {"role": "user", "content": "c"}]})),
    );
    assert_eq!(status, 200);
    let greedy = |top_k: u32| {
        server.post(CHAT, &question(json!({"temperature": 0, "top_k": top_k}))).1["choices"].clone()
    };
    assert_eq!(greedy(0), server.post(CHAT, &question(json!({"top_k": 1}))).1["choices"]);
}

#[test]
fn completions_echo_and_score() {
    let server = server();
    let prompt = "陶冶 ore";
    let ask = |extra: Value| {
        let mut body = json!({"model": "tiny", "prompt": prompt, "max_tokens": 12, "seed": 9, "logprobs": 2, "echo": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let (status, whole) = server.post(COMPLETIONS, &ask(json!({})));
    assert_eq!((status, &whole["object"]), (200, &json!("text_completion")));
    let choice = &whole["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with(prompt));
    let lists = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        .map(|name| choice["logprobs"][name].as_array().unwrap());
    assert!(lists.iter().all(|list| list.len() == lists[0].len()));
    assert!(lists[1][0].is_null() && lists[1][1..].iter().all(|value| value.as_f64().unwrap() <= 0.0));
    assert_eq!(json!(lists[0].len()), whole["usage"]["total_tokens"]);
    let pieces = server.stream(COMPLETIONS, &ask(json!({"stream": true})));
    assert_eq!(joined(&pieces, "/choices/0/text"), text);
    let (_, scored) = server.post(COMPLETIONS, &ask(json!({"max_tokens": 0})));
    assert_eq!(
        (&scored["choices"][0]["text"], &scored["usage"]["completion_tokens"]),
        (&json!(prompt), &json!(0))
    );

    let (_, several) = server.post(COMPLETIONS, &ask(json!({"prompt": ["a b", prompt], "logprobs": null})));
    let texts = several["choices"].as_array().unwrap();
    assert_eq!((texts.len(), &texts[1]["text"], &texts[1]["index"]), (2, &json!(text), &json!(1)));
    assert!(texts[0]["text"].as_str().unwrap().starts_with("a b") && texts[0]["logprobs"].is_null());
    for (ids, count) in [(json!([5, 6, 7]), 1), (json!([[5, 6, 7], [8]]), 2)] {
        let (status, answer) = server.post(COMPLETIONS, &ask(json!({"prompt": ids})));
        assert_eq!((status, answer["choices"].as_array().unwrap().len()), (200, count), "{answer}");
    }
    let (status, _) = server.post(COMPLETIONS, &ask(json!({"prompt": "", "echo": false})));
    assert_eq!(status, 200, "an empty prompt is the beginning of a document");
}

/// Sends a body that is to be refused: the status, the field and the code that must come back, and words of the message.
fn check(server: &Running, path: &str, body: &str, (status, param, code): (u16, Value, Value), text: &str) {
    let (got, answer) = server.call("POST", path, body.as_bytes());
    let error = &answer["error"];
    assert_eq!((got, &error["param"], &error["code"]), (status, &param, &code), "{body:.200}: {answer}");
    assert!(error["message"].as_str().unwrap().contains(text), "{answer}");
    assert_eq!(error["type"], "invalid_request_error");
}

#[test]
fn bodies_and_paths_that_are_wrong_are_named() {
    let server = Running::start(256, ServeOptions { body_bytes_max: 20_000, ..ServeOptions::default() });
    let check = |path: &str, body: &str, expected, text: &str| check(&server, path, body, expected, text);
    check(CHAT, "", (400, json!(null), json!(null)), "not valid JSON");
    check(CHAT, "{\"messages\": [", (400, json!(null), json!(null)), "not valid JSON");
    check(CHAT, "[1]", (400, json!(null), json!(null)), "must be a JSON object, not an array");
    check(CHAT, "{}", (400, json!("messages"), json!("missing_required_parameter")), "'messages'");
    check(COMPLETIONS, "{}", (400, json!("prompt"), json!("missing_required_parameter")), "'prompt'");
    let long = format!("{{\"user\": \"{}\"}}", "x".repeat(30_000));
    check(CHAT, &long, (413, json!(null), json!("body_too_large")), "20000 bytes");

    let completion = |prompt: Value| json!({"model": "tiny", "prompt": prompt}).to_string();
    check(COMPLETIONS, &completion(json!([999])), (400, json!("prompt"), json!(null)), "Token id 999");
    check(COMPLETIONS, &completion(json!([])), (400, json!("prompt"), json!(null)), "0 prompts");
    check(COMPLETIONS, &completion(json!([-1])), (400, json!("prompt"), json!(null)), "-1 is not a token id");
    check(
        COMPLETIONS,
        &completion(json!("ore ".repeat(900))),
        (400, json!("prompt"), json!("context_length_exceeded")),
        "256",
    );
    check("/v1/nothing", "{}", (404, json!(null), json!("unknown_url")), "POST /v1/nothing");
    let texts = json!({"input": "a"}).to_string();
    check("/v1/embeddings", &texts, (400, json!("model"), json!("model_not_supported")), "is no encoder");
    check(
        "/health",
        "{}",
        (405, json!(null), json!("method_not_allowed")),
        "POST is not possible at /health",
    );
}

#[test]
fn fields_of_a_chat_that_are_wrong_are_named() {
    let server = server();
    let refuse = |extra: Value, status: u16, param: &str, code: Value, text: &str| {
        check(&server, CHAT, &question(extra).to_string(), (status, json!(param), code), text);
    };
    refuse(
        json!({"model": "gpt"}),
        404,
        "model",
        json!("model_not_found"),
        "'gpt' does not exist; this server has 'tiny'",
    );
    refuse(json!({"messages": []}), 400, "messages", json!(null), "empty");
    refuse(json!({"messages": "hi"}), 400, "messages", json!("invalid_type"), "an array of messages");
    refuse(
        json!({"messages": [{"role": "user"}]}),
        400,
        "messages[0].content",
        json!(null),
        "must hold text",
    );
    refuse(
        json!({"messages": [{"role": "tool", "content": "x"}]}),
        400,
        "messages[0].tool_call_id",
        json!(null),
        "tool_call_id",
    );
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
    refuse(image, 400, "messages[0].content[0]", json!(null), "'image_url'");
    refuse(
        json!({"messages": [{"role": "user", "content": "x", "audio": {}}]}),
        400,
        "messages[0].audio",
        json!(null),
        "audio",
    );
    refuse(json!({"temperature": 3}), 400, "temperature", json!("invalid_value"), "3 is not between 0 and 2");
    refuse(
        json!({"temperature": "hot"}),
        400,
        "temperature",
        json!("invalid_type"),
        "a number, but got a string",
    );
    refuse(json!({"top_p": -0.1}), 400, "top_p", json!("invalid_value"), "-0.1");
    refuse(json!({"max_tokens": 0}), 400, "max_tokens", json!("invalid_value"), "0 is not between 1");
    refuse(json!({"max_tokens": 1.5}), 400, "max_tokens", json!("invalid_type"), "an integer");
}

#[test]
fn what_this_server_does_not_do_is_named() {
    let server = server();
    let refuse = |extra: Value, param: &str, code: Value, text: &str| {
        check(&server, CHAT, &question(extra).to_string(), (400, json!(param), code), text);
    };
    refuse(json!({"n": 0}), "n", json!("invalid_value"), "0 is not between 1");
    refuse(json!({"audio": {}}), "audio", json!("unsupported_parameter"), "'audio' is not supported");
    refuse(json!({"tools": [{}]}), "tools[0].type", json!(null), "tools[0].type");
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    refuse(json!({"tools": tool}), "tools", json!("unsupported_parameter"), "does not show them");
    refuse(json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", json!(null), "at most 4");
    refuse(json!({"stop": ""}), "stop", json!(null), "must not be empty");
    refuse(json!({"stop": [1]}), "stop", json!("invalid_type"), "array of strings");
    refuse(json!({"top_logprobs": 2}), "top_logprobs", json!(null), "'logprobs' is true");
    refuse(json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", json!("invalid_value"), "21");
    refuse(
        json!({"stream_options": {"include_usage": true}}),
        "stream_options",
        json!(null),
        "'stream' is true",
    );
    refuse(json!({"frobnicate": 1}), "frobnicate", json!("unknown_parameter"), "'frobnicate'");
    refuse(json!({"seed": 1e30}), "seed", json!("invalid_type"), "integer");
    refuse(
        json!({"max_tokens": 256}),
        "messages",
        json!("context_length_exceeded"),
        "context is 256 tokens, but ",
    );
    let long = json!({"messages": [{"role": "user", "content": "ore ".repeat(900)}], "stream": true});
    refuse(long, "messages", json!("context_length_exceeded"), "for the answer");
}

#[test]
fn health_and_models() {
    let server = server();
    assert_eq!(
        server.get("/health"),
        (200, json!({"status": "ok", "model": "tiny", "models": ["tiny"], "running": 0, "waiting": 0}))
    );
    let (status, models) = server.get("/v1/models");
    assert_eq!((status, &models["object"], &models["data"][0]["id"]), (200, &json!("list"), &json!("tiny")));
    assert_eq!(models["data"][0]["max_model_len"], 256);
    assert_eq!(server.get("/v1/models/tiny").1, models["data"][0]);
    assert_eq!(server.get("/v1/models/other").0, 404);
}

#[test]
fn no_body_brings_the_server_down() {
    let server = server();
    let valid =
        question(json!({"max_tokens": 2, "logprobs": true, "stop": ["a"], "stream": false})).to_string();
    let mut state = 17u64;
    let mut draw = |limit: usize| {
        state = base::seed::mix(state);
        (state % limit as u64) as usize
    };
    let pieces = [
        "\"",
        "{",
        "]",
        "null",
        "-1",
        "1e999",
        "\\ud800",
        "\u{0}",
        "[[[[",
        "true",
        "999999999999999999999",
        "{}",
    ];
    for round in 0..150 {
        let mut body = valid.clone().into_bytes();
        for _ in 0..1 + draw(4) {
            let (at, piece) = (draw(body.len()), pieces[draw(pieces.len())]);
            match draw(4) {
                0 => body.truncate(at.max(1)),
                1 => body[at] = draw(256) as u8,
                2 => drop(body.splice(at..at, piece.bytes())),
                _ => drop(body.splice(at..(at + draw(20)).min(body.len()), piece.bytes())),
            }
        }
        let path = [CHAT, COMPLETIONS][round % 2];
        let (status, answer) = server.call("POST", path, &body);
        let text = String::from_utf8_lossy(&body);
        assert!([200, 400, 404].contains(&status), "{status} for {text}");
        assert_eq!(answer["error"]["message"].is_string(), status != 200, "{answer} for {text}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.call("POST", CHAT, deep.as_bytes()).0, 400);
    assert_eq!(server.get("/health").0, 200);
}

/// A server that answers so many requests at once and lets one wait, and a question whose answer takes very
/// long.
fn slow(max_sequences: usize) -> (Running, Value) {
    let options = ServeOptions { waiting_max: 1, drain_seconds: 0, ..ServeOptions::default() };
    let server = Running::with_model(client::model(200_000, max_sequences), options);
    let mut question = question(json!({"temperature": 0, "stream": true}));
    question.as_object_mut().unwrap().remove("max_tokens");
    (server, question)
}

fn open(server: &Running, body: &Value) -> Answer {
    let mut answer = Answer::open(server.address, "POST", CHAT, body.to_string().as_bytes());
    assert_eq!(answer.status, 200);
    assert!(answer.piece().starts_with("data: "));
    answer
}

#[test]
fn a_client_that_leaves_frees_the_model_and_a_full_queue_is_said() {
    let (server, question) = slow(1);
    let first = open(&server, &question);
    // Of three more, one waits, and the others are told at once that they cannot.
    let (sender, answers) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let (address, sender) = (server.address, sender.clone());
        std::thread::spawn(move || {
            let mut answer = Answer::open(address, "POST", CHAT, client_question(3).to_string().as_bytes());
            let body: Value = serde_json::from_str(&answer.rest()).unwrap();
            sender.send((answer.status, answer.headers, body)).unwrap();
        });
    }
    for _ in 0..2 {
        let (status, headers, body) = answers.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!((status, &body["error"]["code"]), (429, &json!("queue_full")), "{body}");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert!(headers.contains("retry-after: 1"), "{headers}");
    }
    assert!(answers.try_recv().is_err(), "the first answer is still under way");
    let begin = Instant::now();
    drop(first);
    let (status, _, body) = answers.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(begin.elapsed() < Duration::from_secs(20), "the answer that nobody reads any more was ended");
    assert_eq!(server.post(CHAT, &client_question(1)).0, 200);
}

fn client_question(max_tokens: usize) -> Value {
    question(json!({"max_tokens": max_tokens}))
}

#[test]
fn a_short_answer_does_not_wait_for_a_long_one() {
    let (server, question) = slow(2);
    let mut first = open(&server, &question);
    for _ in 0..3 {
        let (status, body) = server.post(CHAT, &client_question(3));
        assert_eq!((status, &body["usage"]["completion_tokens"]), (200, &json!(3)), "{body}");
        assert!(first.piece().starts_with("data: {"), "the long answer goes on");
    }
    // What is counted is told between steps.
    let begin = Instant::now();
    while server.get("/health").1["running"] != 1 {
        assert!(begin.elapsed() < Duration::from_secs(20), "the long answer alone is left");
    }
}

#[test]
fn an_answer_under_way_is_finished_before_the_server_ends() {
    let mut server = server();
    let mut answer = open(&server, &question(json!({"stream": true, "temperature": 0, "max_tokens": 150})));
    server.end();
    let text = answer.rest();
    assert!(!events(&text).is_empty());
    server.join().unwrap();
    assert!(std::net::TcpStream::connect(server.address).is_err(), "the port is free again");
}

#[test]
fn an_answer_that_takes_too_long_is_cut_short_when_the_server_ends() {
    let (mut server, question) = slow(2);
    let _answer = open(&server, &question);
    let begin = Instant::now();
    server.end();
    server.join().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_taken_port_is_said_with_what_to_do() {
    let server = server();
    let options = ServeOptions { port: server.address.port(), ..ServeOptions::default() };
    let message = Server::bind(client::models(256), &options).err().unwrap().to_string();
    assert!(message.contains(&format!("cannot listen on 127.0.0.1:{}", server.address.port())), "{message}");
    assert!(message.contains("choose another --port"), "{message}");
}

#[test]
fn the_banner_tells_where_and_how() {
    let server =
        Server::bind(client::models(256), &ServeOptions { port: 0, ..ServeOptions::default() }).unwrap();
    let banner = server.banner();
    for text in [&format!("http://{}", server.address()), "curl ", "context 256 tokens", "MiB"] {
        assert!(banner.contains(text), "{banner}");
    }
}
