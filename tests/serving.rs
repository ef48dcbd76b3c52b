//! A served model, asked as the OpenAI client asks: request shapes, streams, log-probabilities, refusals.
//!
//! It must not expect any particular words of the model.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{finished_run, run, signal, start, taoye};
use crate::http::{Response, get, post};

/// A server on a free port, ended with its owner.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(extra: &[&str]) -> Server {
        let model = finished_run().join("model");
        let arguments =
            ["serve", model.to_str().unwrap(), "--port", "0", "--name", "small", "--threads", "1"];
        let mut child = start(&mut taoye(arguments.into_iter().chain(extra.iter().copied())));
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            if reader.read_line(&mut line).unwrap() == 0 {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the server ended before it said where it listens: {said}");
            }
            if let Some((_, rest)) = line.split_once("http://") {
                break rest
                    .split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())
                    .next()
                    .unwrap()
                    .to_owned();
            }
        };
        // What else it prints is read to its end, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Server { child, address }
    }

    fn get(&self, path: &str) -> Response {
        get(&self.address, path)
    }

    fn post(&self, path: &str, body: &Value) -> Response {
        post(&self.address, path, &body.to_string())
    }

    /// A request that succeeds.
    fn ask(&self, path: &str, body: &Value) -> Response {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {}", response.body);
        response
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(more: Value) -> Value {
    merged(json!({"model": "small", "messages": [{"role": "user", "content": "37 加 58 是多少？"}]}), more)
}

fn merged(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more}") };
    more.into_iter().for_each(|(key, value)| body[key] = value);
    body
}

#[test]
fn health_and_models_answer() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/health").status, 200);
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "small");
    assert_eq!(models["data"][0]["object"], "model");
    assert!(models["data"][0]["created"].is_u64(), "{models}");
    assert_eq!(server.get("/v1/models/small").json()["id"], "small");
    assert_eq!(server.get("/v1/models/other").status, 404);
}

#[test]
fn models_of_this_disk_are_loaded_and_unloaded_while_it_serves() {
    let server = Server::start(&["--runtime-models", "--lora", "german=no/such/adapter"]);
    let status = |name: &str| {
        let list = server.get("/models").json();
        let found = list["data"].as_array().unwrap().iter().find(|model| model["id"] == name).cloned();
        found.map(|model| model["status"].clone())
    };
    let failed = status("german").unwrap();
    assert!(failed["error"].as_str().unwrap().contains("adapter_config.json"), "{failed}");
    let missing = server.post("/models/load", &json!({"model": "no/such/model"}));
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (400, &json!("model_not_loadable")));
    let path = finished_run().join("model");
    server.ask("/models/load", &json!({"model": path.to_str().unwrap(), "name": "second"}));
    let begin = Instant::now();
    while status("second") != Some(json!({"value": "loaded"})) {
        assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", status("second"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let body = chat(json!({"max_tokens": 8, "temperature": 0}));
    let first = server.ask("/v1/chat/completions", &body).json();
    let second = server.ask("/v1/chat/completions", &merged(body, json!({"model": "second"}))).json();
    assert_eq!(first["choices"], second["choices"]);
    server.ask("/models/unload", &json!({"model": "second"}));
    while status("second").is_some() {
        assert!(begin.elapsed() < Duration::from_secs(240), "{:?}", status("second"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(Server::start(&[]).post("/models/unload", &json!({"model": "small"})).status, 403);
}

#[test]
fn a_chat_has_the_shape_of_a_chat_completion() {
    let server = Server::start(&[]);
    let body = chat(json!({"max_tokens": 8, "temperature": 0}));
    let reply = server.ask("/v1/chat/completions", &body).json();
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "small");
    assert!(reply["id"].is_string() && reply["created"].is_u64(), "{reply}");
    let choice = &reply["choices"][0];
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["message"]["role"], "assistant");
    assert!(choice["message"]["content"].is_string(), "{reply}");
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()), "{reply}");
    let usage = |key: &str| reply["usage"][key].as_u64().unwrap();
    assert!(usage("prompt_tokens") > 0 && usage("completion_tokens") <= 8, "{reply}");
    assert_eq!(usage("total_tokens"), usage("prompt_tokens") + usage("completion_tokens"));
    // Greedy answers repeat.
    let again = server.ask("/v1/chat/completions", &body).json();
    assert_eq!(again["choices"], reply["choices"]);
}

#[test]
fn a_streamed_chat_says_the_same_as_a_whole_one() {
    let server = Server::start(&[]);
    let body = chat(json!({"max_tokens": 24, "temperature": 0}));
    let whole = server.ask("/v1/chat/completions", &body).json();
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = server.ask("/v1/chat/completions", &merged(body, options));
    assert!(response.header("content-type").starts_with("text/event-stream"), "{:?}", response.headers);
    let events = response.events();
    let mut text = String::new();
    let mut reasons = Vec::new();
    for event in &events {
        assert_eq!(event["object"], "chat.completion.chunk", "{event}");
        assert_eq!(event["id"], events[0]["id"]);
        for choice in event["choices"].as_array().unwrap() {
            text.push_str(choice["delta"]["content"].as_str().unwrap_or(""));
            reasons.extend(choice["finish_reason"].as_str());
        }
    }
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(reasons, [whole["choices"][0]["finish_reason"].as_str().unwrap()]);
    let last = events.last().unwrap();
    // The second question is the first, so all of it but the token that is to be continued is in the prefix cache.
    let mut expected = whole["usage"].clone();
    expected["prompt_tokens_details"]["cached_tokens"] =
        json!(whole["usage"]["prompt_tokens"].as_u64().unwrap() - 1);
    assert_eq!(last["usage"], expected, "{last}");
}

#[test]
fn sampling_follows_its_seed_and_stop_strings_end_the_text() {
    let server = Server::start(&[]);
    let sampled = |seed: u64| {
        let body = chat(json!({"max_tokens": 24, "temperature": 1.5, "top_p": 0.95, "seed": seed}));
        server.ask("/v1/chat/completions", &body).json()["choices"].clone()
    };
    assert_eq!(sampled(1), sampled(1));
    assert!((2..8).any(|seed| sampled(seed) != sampled(1)), "seven seeds gave one answer");

    let complete = |more: Value| {
        let body = json!({"model": "small", "prompt": "The kiln warms", "max_tokens": 24, "temperature": 0});
        server.ask("/v1/completions", &merged(body, more)).json()["choices"][0].clone()
    };
    let whole = complete(json!({}))["text"].as_str().unwrap().to_owned();
    let stop: String = whole.chars().skip(3).take(2).collect();
    assert_eq!(stop.chars().count(), 2, "{whole:?}");
    let stopped = complete(json!({"stop": stop}));
    let end = whole.find(&stop).unwrap();
    assert_eq!(stopped["text"], whole[..end]);
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn completions_echo_with_log_probabilities() {
    let server = Server::start(&[]);
    let prompt = "The kiln warms 炉火";
    let body = json!({
        "model": "small", "prompt": prompt, "max_tokens": 3, "temperature": 0, "echo": true, "logprobs": 2,
    });
    let reply = server.ask("/v1/completions", &body).json();
    assert_eq!(reply["object"], "text_completion");
    let choice = &reply["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with(prompt), "{choice}");
    let list = |key: &str| choice["logprobs"][key].as_array().unwrap().clone();
    let (tokens, values, offsets) = (list("tokens"), list("token_logprobs"), list("text_offset"));
    let total = reply["usage"]["total_tokens"].as_u64().unwrap() as usize;
    assert_eq!(
        [tokens.len(), values.len(), offsets.len(), list("top_logprobs").len()],
        [total; 4],
        "{reply}"
    );
    assert!(values[1..].iter().all(|value| value.as_f64().unwrap() <= 1e-3), "{reply}");
    assert!(values[0].is_null(), "nothing comes before the first token: {reply}");
    // The chosen token of a greedy answer is the first of its alternatives.
    let alternatives = list("top_logprobs");
    let best = |place: usize| {
        let entries = alternatives[place].as_object().unwrap();
        entries.values().map(|value| value.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max)
    };
    let prompt_tokens = reply["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    for (place, value) in values.iter().enumerate().skip(prompt_tokens) {
        assert!((value.as_f64().unwrap() - best(place)).abs() < 1e-6, "{reply}");
    }
}

#[test]
fn what_cannot_be_answered_is_refused_with_the_reason() {
    let server = Server::start(&[]);
    let long = "铁水 ".repeat(3_000);
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (body, status, part) in [
        (chat(json!({"temperature": -1})), 400, "temperature"),
        (chat(json!({"temprature": 1})), 400, "temprature"),
        (chat(json!({"messages": []})), 400, "messages"),
        (chat(json!({"max_tokens": "many"})), 400, "max_tokens"),
        (chat(json!({"model": "other"})), 404, "other"),
        (chat(message(json!(long))), 400, "context"),
        (chat(json!({"messages": [{"role": "oracle", "content": "x"}]})), 400, "role"),
    ] {
        let response = server.post("/v1/chat/completions", &body);
        let text: String = body.to_string().chars().take(200).collect();
        assert_eq!(response.status, status, "{text}: {}", response.body);
        let error = &response.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(part), "{text}: {error}");
        assert!(error["type"].is_string(), "{error}");
    }
    assert_eq!(post(&server.address, "/v1/chat/completions", "{\"model\": ").status, 400);
    assert_eq!(server.get("/v1/nothing").status, 404);
    assert_eq!(server.get("/v1/chat/completions").status, 405);
    // It still answers.
    server.ask("/v1/chat/completions", &chat(json!({"max_tokens": 2})));
}

#[test]
fn a_signal_ends_the_server_and_a_taken_port_is_named() {
    let mut server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let model = finished_run().join("model");
    let second = run(&mut taoye(["serve", model.to_str().unwrap(), "--port", &port]));
    assert_eq!(second.status, Some(1), "{}", second.all());
    assert!(second.err.contains(&port), "{}", second.all());
    signal(&server.child, "TERM");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the server still runs after SIGTERM");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(matches!(status.code(), Some(0 | 130 | 143)), "{status}");
}

/// What `taoye chat` answers to one line, with further flags.
fn chat_once(flags: &[&str]) -> crate::harness::Finished {
    let model = finished_run().join("model");
    let fixed =
        ["chat", model.to_str().unwrap(), "--threads", "1", "--max-tokens", "60", "--temperature", "0"];
    let mut child =
        start(taoye(fixed.into_iter().chain(flags.iter().copied())).stdin(std::process::Stdio::piped()));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"37 + 58?\n").unwrap();
    crate::harness::Finished::of(child.wait_with_output().unwrap())
}

#[test]
fn a_chat_in_the_terminal_is_held_to_what_its_flags_say() {
    let folder = crate::harness::Folder::new();
    let schema = r#"{"type": "object", "properties": {"sum": {"enum": [95, 96]}}, "required": ["sum"], "additionalProperties": false}"#;
    let lark = "start: \"the sum is \" (\"95\" | \"96\")\n";
    let (schema_file, grammar_file) =
        (folder.write("schema.json", schema), folder.write("grammar.lark", lark));
    let [schema_file, grammar_file] = [&schema_file, &grammar_file].map(|path| path.to_str().unwrap());
    let is_json = |text: &str| {
        serde_json::from_str::<Value>(text).is_ok_and(|value| value["sum"] == 95 || value["sum"] == 96)
    };
    let is_said = |text: &str| ["the sum is 95", "the sum is 96"].contains(&text);
    let is_digits = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let check = |flags: [&str; 2], valid: &dyn Fn(&str) -> bool| {
        let finished = chat_once(&flags);
        assert_eq!(finished.status, Some(0), "{flags:?}: {}", finished.all());
        assert!(
            finished.out.lines().any(|line| valid(line.trim_start_matches(['>', ' ']).trim())),
            "{flags:?}: {}",
            finished.all()
        );
    };
    check(["--json-schema", schema], &is_json);
    check(["--json-schema-file", schema_file], &is_json);
    check(["--grammar", lark], &is_said);
    check(["--grammar-file", grammar_file], &is_said);
    check(["--regex", "[0-9]{3}"], &is_digits);
    let refuse = |flags: &[&str], reason: &str| {
        let finished = chat_once(flags);
        assert!(finished.status != Some(0) && finished.err.contains(reason), "{flags:?}: {}", finished.all());
    };
    refuse(&["--json-schema", r#"{"not": {}}"#], "`not`");
    refuse(&["--json-schema", "{"], "--json-schema is no JSON");
    refuse(&["--regex", "a", "--grammar", lark], "cannot be used with");
    refuse(&["--regex", "a", "--ignore-eos"], "--ignore-eos");
}
