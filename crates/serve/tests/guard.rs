//! Who may ask and how much: keys, rates, web origins, connections, readers that do not read, several models.
#![allow(clippy::unwrap_used)]

mod client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use client::{Answer, Running};
use serde_json::{Value, json};
use serve::{ApiKeys, Model, ServeOptions, Server};

const CHAT: &str = "/v1/chat/completions";

fn question(max_tokens: usize) -> Value {
    json!({"messages": [{"role": "user", "content": "陶冶?"}], "max_tokens": max_tokens, "temperature": 0})
}

/// Sends a request with further header lines; status, headers and body.
fn send(server: &Running, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        server.address,
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn only_who_has_a_key_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.txt");
    let key = ApiKeys::add(&path, "alice").unwrap();
    let server = Running::start(256, ServeOptions { api_keys: Some(path), ..ServeOptions::default() });
    let body = question(1).to_string();
    let status = |path: &str, headers: &str| send(&server, "POST", path, headers, &body).0;
    assert_eq!(status(CHAT, &format!("authorization: Bearer {key}\r\n")), 200);
    assert_eq!(status("/v1/messages", &format!("x-api-key: {key}\r\n")), 200);
    assert_eq!(status(CHAT, ""), 401);
    assert_eq!(status(CHAT, "authorization: Bearer sk-taoye-0000\r\n"), 401);
    assert_eq!(status(CHAT, &format!("authorization: Basic {key}\r\n")), 401);
    let (_, head, answer) = send(&server, "POST", CHAT, "", &body);
    assert!(
        head.contains("www-authenticate: bearer") && answer.contains("\"code\":\"invalid_api_key\""),
        "{head}{answer}"
    );
    let (_, _, answer) = send(&server, "POST", "/v1/messages", "", &body);
    assert!(answer.contains("\"type\":\"authentication_error\""), "{answer}");
    assert_eq!(send(&server, "GET", "/v1/models", "", "").0, 401);
    assert_eq!(send(&server, "GET", "/health", "", "").0, 200);
}

#[test]
fn more_requests_a_minute_than_allowed_are_refused() {
    let options = ServeOptions { requests_per_minute: Some(3), ..ServeOptions::default() };
    let server = Running::start(256, options);
    for _ in 0..3 {
        assert_eq!(server.get("/v1/models").0, 200);
    }
    let (status, head, body) = send(&server, "GET", "/v1/models", "", "");
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: ") && body.contains("rate_limit_exceeded"), "{head} {body}");
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn web_pages_of_other_origins_may_not_ask_unless_allowed() {
    let options =
        ServeOptions { cors_origins: vec!["https://good.example".into()], ..ServeOptions::default() };
    let server = Running::start(256, options);
    let body = question(1).to_string();
    let origin = |origin: &str| send(&server, "POST", CHAT, &format!("origin: {origin}\r\n"), &body);
    let (status, head, _) = origin("https://good.example");
    assert!(status == 200 && head.contains("access-control-allow-origin: https://good.example"), "{head}");
    let (status, head, answer) = origin("https://bad.example");
    assert_eq!(status, 403);
    assert!(!head.contains("access-control") && answer.contains("--cors-origin"), "{head} {answer}");
    let own = format!("http://{}", server.address);
    assert_eq!(origin(&own).0, 200);
    let (status, head, _) = send(
        &server,
        "OPTIONS",
        CHAT,
        "origin: https://good.example\r\naccess-control-request-method: POST\r\n",
        "",
    );
    assert!(status == 204 && head.contains("access-control-allow-headers: authorization"), "{head}");
}

#[test]
fn counters_are_prometheus_text() {
    let server = Running::start(256, ServeOptions::default());
    server.post(CHAT, &question(4));
    server.post(CHAT, &json!({}));
    let mut answer = Answer::open(server.address, "GET", "/metrics", b"");
    assert!(answer.headers.contains("content-type: text/plain; version=0.0.4"));
    let text = answer.rest();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && !name.is_empty(), "{line}");
    }
    let value = |start: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("no {start} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    assert_eq!(value("http_requests_total{handler=\"/v1/chat/completions\",status=\"200\"}"), 1.0);
    assert_eq!(value("http_requests_total{handler=\"/v1/chat/completions\",status=\"400\"}"), 1.0);
    assert_eq!(value("vllm:generation_tokens_total"), 4.0);
    assert_eq!(value("vllm:time_to_first_token_seconds_count"), 1.0);
    assert!(value("vllm:prompt_tokens_total") > 4.0);
    // The model's thread says how many are under way after the step that ended them.
    let none_running = "vllm:num_requests_running{model_name=\"tiny\"} 0";
    let begin = Instant::now();
    while !Answer::open(server.address, "GET", "/metrics", b"").rest().contains(none_running) {
        assert!(begin.elapsed() < Duration::from_secs(10), "an answer that is over counts as running");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_model_that_fails_leaves_the_others_serving() {
    let mut models = client::models(256);
    models.push(Model::Failed { name: "broken".into(), reason: "config.json is missing".into() });
    models.extend(client::encoder().unwrap());
    let server = Running::serve(models, ServeOptions::default());
    let (_, health) = server.get("/health");
    assert_eq!(health["models"], json!(["tiny", "bert"]));
    assert_eq!(health["failed"][0], json!({"model": "broken", "reason": "config.json is missing"}));
    let ask = |more: Value| {
        let mut body = question(1);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(CHAT, &body)
    };
    assert_eq!(ask(json!({"model": "tiny"})).0, 200);
    let (status, answer) = ask(json!({"model": "broken"}));
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("model_not_loaded")), "{answer}");
    let (status, answer) = ask(json!({}));
    assert_eq!(
        (status, &answer["error"]["param"]),
        (400, &json!("model")),
        "with several models a name is needed: {answer}"
    );
    assert_eq!(server.post("/v1/embeddings", &json!({"model": "bert", "input": "ore"})).0, 200);

    let failed = vec![Model::Failed { name: "broken".into(), reason: "no".into() }];
    let message =
        Server::bind(failed, &ServeOptions { port: 0, ..ServeOptions::default() }).err().unwrap().to_string();
    assert!(message.contains("nothing to serve"), "{message}");
    let twice = client::models(64).into_iter().chain(client::models(64)).collect();
    let message =
        Server::bind(twice, &ServeOptions { port: 0, ..ServeOptions::default() }).err().unwrap().to_string();
    assert!(message.contains("two models are called \"tiny\""), "{message}");
}

#[test]
fn a_thousand_idle_connections_hinder_nobody() {
    let server = Running::start(256, ServeOptions::default());
    // What an answer costs in steps of the model, as it is alone.
    let steps = || {
        let before = metric(&server, "taoye:engine_steps_total");
        assert_eq!(server.post(CHAT, &question(16)).0, 200);
        settled(&server);
        metric(&server, "taoye:engine_steps_total") - before
    };
    // The first one fills the prefix cache.
    let (_, alone) = (steps(), steps());
    assert!(alone > 1.0, "{alone}");
    let mut idle = Vec::new();
    for number in 0..1000 {
        match TcpStream::connect(server.address) {
            Ok(stream) => idle.push(stream),
            // The client's own limit of open files.
            Err(error) => panic!("connection {number}: {error}"),
        }
    }
    assert_eq!(steps(), alone, "with idle connections");
    // Clients that hang up in the middle of their streams.
    for _ in 0..20 {
        let body = json!({"messages": [{"role": "user", "content": "b"}], "stream": true, "max_tokens": 200});
        let mut answer = Answer::open(server.address, "POST", CHAT, body.to_string().as_bytes());
        assert!(!answer.piece().is_empty());
    }
    settled(&server);
    assert_eq!(steps(), alone, "after clients that hung up");
    drop(idle);
}

/// One value of the counters.
fn metric(server: &Running, name: &str) -> f64 {
    let text = Answer::open(server.address, "GET", "/metrics", b"").rest();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Waits until no answer is under way; the model's thread says so after the step that ended it.
fn settled(server: &Running) {
    let begin = Instant::now();
    while metric(server, "vllm:num_requests_running") + metric(server, "vllm:num_requests_waiting") > 0.0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "something goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn connections_beyond_the_limit_and_idle_ones_are_closed() {
    let options = ServeOptions { connections_max: 2, idle_seconds: 1, ..ServeOptions::default() };
    let server = Running::start(256, options);
    let mut idle: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    // Both have been taken once a third is told so.
    let (status, _, body) = send(&server, "GET", "/health", "", "");
    assert_eq!(status, 503);
    assert!(body.contains("connections_full"), "{body}");
    // Half a head is no better than none.
    idle[0].write_all(b"GET /health HTTP/1.1\r\nhost:").unwrap();
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        // The server may answer 408 before it hangs up.
        let _ = stream.read_to_end(&mut rest).unwrap();
    }
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn a_client_that_never_reads_is_cut_off_and_others_keep_their_rate() {
    let options = ServeOptions { stall_seconds: 1, ..ServeOptions::default() };
    let server = Running::start(60_000, options);
    let body = json!({"messages": [{"role": "user", "content": "a"}], "stream": true, "temperature": 0, "logprobs": true, "top_logprobs": 20});
    let body = body.to_string();
    let mut silent = TcpStream::connect(server.address).unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    silent.write_all((head + &body).as_bytes()).unwrap();
    let cut_off = || {
        let mut answer = Answer::open(server.address, "GET", "/metrics", b"");
        let text = answer.rest();
        let line = text.lines().find(|line| line.starts_with("taoye:streams_cut_off_total")).unwrap();
        line.rsplit_once(' ').unwrap().1 == "1"
    };
    let begin = Instant::now();
    while !cut_off() {
        assert!(begin.elapsed() < Duration::from_secs(120), "it was never cut off");
        assert_eq!(server.post(CHAT, &question(2)).0, 200, "others are answered meanwhile");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.post(CHAT, &question(2)).0, 200);
}

#[test]
fn an_answer_that_nobody_reads_ends_before_it_fills_the_memory() {
    // The connection alone would be left open for an hour.
    let options = ServeOptions { stall_seconds: 3600, ..ServeOptions::default() };
    let server = Running::start(60_000, options);
    let ask = json!({"messages": [{"role": "user", "content": "a"}], "stream": true, "temperature": 0, "n": 4,
        "logprobs": true, "top_logprobs": 20});
    let body = ask.to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    let before = base::machine::rss_bytes();
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent.write_all((head + &body).as_bytes()).unwrap();
    let cut_off = || {
        let text = Answer::open(server.address, "GET", "/metrics", b"").rest();
        text.lines().any(|line| line == "taoye:streams_cut_off_total 1")
    };
    let begin = Instant::now();
    while !cut_off() {
        assert!(begin.elapsed() < Duration::from_secs(120), "it was never ended");
        assert_eq!(server.post(CHAT, &question(2)).0, 200, "others are answered meanwhile");
        std::thread::sleep(Duration::from_millis(50));
    }
    // All its choices have ended, although the client is still there.
    let begin = Instant::now();
    while server.get("/health").1["running"] != 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "something of it goes on");
    }
    if let (Some(before), Some(after)) = (before, base::machine::rss_bytes()) {
        // Other tests of this process run beside this one.
        assert!(after < before + (256 << 20), "{before} bytes became {after}");
    }
    // Whoever reads after all finds out.
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while !text.ends_with(b"0\r\n\r\n") {
        let read = silent.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the answer breaks off");
        text.extend_from_slice(&buffer[..read]);
    }
    assert!(String::from_utf8_lossy(&text).contains("slow_reader"));
}

#[test]
fn a_span_of_vectors_goes_to_the_collector() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let models = client::encoder().unwrap();
    let server = Running::serve(models, ServeOptions { otlp: Some(url), ..ServeOptions::default() });
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "ore"})).0, 200);
    let rank = json!({"query": "ore", "documents": ["clay"]});
    assert_eq!(server.post("/v1/rerank", &rank).0, 200);
    let too_long = json!({"input": vec![1; 10_000]});
    assert_eq!(server.post("/v1/embeddings", &too_long).0, 400);
    let (body, _) = receive(&collector);
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["embeddings bert", "rerank bert", "embeddings bert"]);
    let value = |span: &Value, key: &str| {
        let attributes = span["attributes"].as_array().unwrap();
        attributes.iter().find(|entry| entry["key"] == key).map(|entry| entry["value"].clone())
    };
    assert!(value(&spans[0], "gen_ai.usage.input_tokens").is_some(), "{body}");
    assert_eq!(value(&spans[0], "gen_ai.usage.output_tokens"), None);
    assert_eq!(value(&spans[0], "error.type"), None);
    let failed = json!({"stringValue": "context_length_exceeded"});
    assert_eq!((value(&spans[2], "error.type"), &spans[2]["status"]["code"]), (Some(failed), &json!(2)));
}

/// What was sent to a collector first, and the text of it.
fn receive(collector: &std::net::TcpListener) -> (Value, String) {
    let (mut stream, _) = collector.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    let body = loop {
        let read = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        let parsed =
            text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
        match parsed {
            Some(body) => break body,
            None => assert_ne!(read, 0, "{text}"),
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    (body, text)
}

#[test]
fn a_span_of_each_answer_goes_to_the_collector() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let server = Running::start(256, ServeOptions { otlp: Some(url), ..ServeOptions::default() });
    let headers = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    assert_eq!(send(&server, "POST", CHAT, headers, &question(3).to_string()).0, 200);
    let (body, text) = receive(&collector);
    assert!(text.starts_with("POST /v1/traces HTTP/1.1"), "{text}");
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(
        (&span["name"], &span["traceId"]),
        (&json!("chat tiny"), &json!("4bf92f3577b34da6a3ce929d0e0e4736"))
    );
    assert_eq!(span["parentSpanId"], "00f067aa0ba902b7");
    let attributes = span["attributes"].as_array().unwrap();
    let value = |key: &str| attributes.iter().find(|entry| entry["key"] == key).unwrap()["value"].clone();
    assert_eq!(value("gen_ai.operation.name"), json!({"stringValue": "chat"}));
    assert_eq!(value("gen_ai.usage.output_tokens"), json!({"intValue": "3"}));
    assert_eq!(
        value("gen_ai.response.finish_reasons"),
        json!({"arrayValue": {"values": [{"stringValue": "length"}]}})
    );
}
