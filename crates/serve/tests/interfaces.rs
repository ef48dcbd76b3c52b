//! The interfaces beside OpenAI's chat: responses, Anthropic's messages, vectors, token ids, the document of all of them.
#![allow(clippy::unwrap_used)]

mod client;

use client::{Answer, Running};
use serde_json::{Value, json};
use serve::ServeOptions;

fn server() -> Running {
    Running::serve(client::models_with_tools(512), ServeOptions::default())
}

fn merged(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Sends a body that is to be refused: status, error type and words of the message, in the path's format.
fn refuse(server: &Running, path: &str, body: Value, (status, kind): (u16, &str), words: &str) {
    let (got, answer) = server.post(path, &body);
    assert_eq!((got, &answer["error"]["type"]), (status, &json!(kind)), "{body}: {answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    assert_eq!(answer.get("type").is_some(), path.starts_with("/v1/messages"), "{answer}");
}

#[test]
fn several_choices_are_answers_of_their_own() {
    let server = server();
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "n": 3, "seed": 5, "temperature": 1.2});
    let (status, whole) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{whole}");
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    let text = |choice: &Value| choice["message"]["content"].clone();
    assert!(text(&choices[0]) != text(&choices[1]) || text(&choices[1]) != text(&choices[2]), "{whole}");
    let pieces = server.stream("/v1/chat/completions", &merged(body.clone(), json!({"stream": true})));
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let of = pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index);
        let joined: String = of.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(json!(joined), text(choice));
    }
    // The first is the one that would have come alone.
    let alone = server.post("/v1/chat/completions", &merged(body, json!({"n": 1}))).1;
    assert_eq!(alone["choices"][0]["message"], choices[0]["message"]);
    let completions = json!({"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "seed": 1});
    let (_, whole) = server.post("/v1/completions", &completions);
    assert_eq!(whole["choices"].as_array().unwrap().len(), 4);
}

#[test]
fn responses_are_those_of_chat() {
    let server = server();
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "陶冶?"}]);
    let chat = json!({"messages": messages, "max_tokens": 12, "temperature": 0});
    let text = server.post("/v1/chat/completions", &chat).1["choices"][0]["message"]["content"].clone();
    let body = json!({"model": "tiny", "instructions": "Be brief.", "input": "陶冶?", "max_output_tokens": 12, "temperature": 0});
    let (status, response) = server.post("/v1/responses", &body);
    assert_eq!(
        (status, &response["object"], &response["status"]),
        (200, &json!("response"), &json!("incomplete"))
    );
    assert_eq!(response["output"][0]["content"][0]["text"], text);
    let parts = json!({"instructions": null, "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "陶冶?"}]});
    let (_, again) = server.post("/v1/responses", &merged(body.clone(), parts));
    assert_eq!(again["output"][0]["content"], response["output"][0]["content"]);
    let mut answer = Answer::open(
        server.address,
        "POST",
        "/v1/responses",
        merged(body.clone(), json!({"stream": true})).to_string().as_bytes(),
    );
    let events = answer.rest();
    assert!(
        events.starts_with("event: response.created\n") && events.contains("event: response.incomplete\n"),
        "{events}"
    );
    refuse(
        &server,
        "/v1/responses",
        merged(body.clone(), json!({"previous_response_id": "resp_1"})),
        (400, "invalid_request_error"),
        "previous_response_id",
    );
    refuse(
        &server,
        "/v1/responses",
        merged(body.clone(), json!({"store": true})),
        (400, "invalid_request_error"),
        "'store'",
    );
    refuse(
        &server,
        "/v1/responses",
        merged(body, json!({"tools": [{"type": "web_search"}]})),
        (400, "invalid_request_error"),
        "runs no tools itself",
    );
}

#[test]
fn anthropics_messages_are_those_of_chat() {
    let server = server();
    let chat = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "陶冶?"}], "max_tokens": 12, "temperature": 0});
    let whole = server.post("/v1/chat/completions", &chat).1;
    let body = json!({"model": "tiny", "system": [{"type": "text", "text": "Be brief."}], "max_tokens": 12, "temperature": 0,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "陶冶?"}]}]});
    let (status, message) = server.post("/v1/messages", &body);
    assert_eq!(
        (status, &message["type"], &message["stop_reason"]),
        (200, &json!("message"), &json!("max_tokens")),
        "{message}"
    );
    assert_eq!(message["content"][0]["text"], whole["choices"][0]["message"]["content"]);
    let mut counted = body.clone();
    ["max_tokens", "temperature"]
        .iter()
        .for_each(|name| drop(counted.as_object_mut().unwrap().remove(*name)));
    let (status, count) = server.post("/v1/messages/count_tokens", &counted);
    assert_eq!((status, &count["input_tokens"]), (200, &whole["usage"]["prompt_tokens"]));
    let mut answer = Answer::open(
        server.address,
        "POST",
        "/v1/messages",
        merged(body.clone(), json!({"stream": true})).to_string().as_bytes(),
    );
    assert!(answer.rest().ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));

    let without = |name: &str| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove(name);
        body
    };
    refuse(&server, "/v1/messages", without("max_tokens"), (400, "invalid_request_error"), "max_tokens");
    refuse(
        &server,
        "/v1/messages",
        merged(body.clone(), json!({"model": "claude"})),
        (404, "not_found_error"),
        "'claude'",
    );
    refuse(
        &server,
        "/v1/messages",
        merged(body.clone(), json!({"mcp_servers": [1]})),
        (400, "invalid_request_error"),
        "mcp_servers",
    );
    refuse(
        &server,
        "/v1/messages",
        merged(body.clone(), json!({"max_tokens": 5000})),
        (400, "invalid_request_error"),
        "context is 512 tokens",
    );
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]});
    refuse(
        &server,
        "/v1/messages",
        merged(body.clone(), image),
        (400, "invalid_request_error"),
        "messages.0.content.0",
    );
    let bad = server.call("POST", "/v1/messages", b"{");
    assert_eq!((bad.0, &bad.1["type"]), (400, &json!("error")));
}

#[test]
fn conversations_with_tools_go_in_by_every_interface() {
    let server = server();
    let tool = json!({"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let chat = json!({"max_tokens": 4, "tools": [{"type": "function", "function": tool}], "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"x\"}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "warm"}]});
    let (status, answer) = server.post("/v1/chat/completions", &chat);
    assert_eq!(status, 200, "{answer}");
    let with_tools = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let without =
        server.post("/v1/chat/completions", &merged(chat.clone(), json!({"tool_choice": "none"}))).1;
    assert!(
        without["usage"]["prompt_tokens"].as_u64().unwrap() + 20 < with_tools,
        "the tools are in the prompt: {without}"
    );

    let responses = json!({"max_output_tokens": 4, "tools": [merged(tool.clone(), json!({"type": "function"}))], "input": [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"city\": \"x\"}"},
        {"type": "function_call_output", "call_id": "c1", "output": "warm"}]});
    let (status, answer) = server.post("/v1/responses", &responses);
    assert_eq!((status, &answer["usage"]["input_tokens"]), (200, &json!(with_tools)), "{answer}");

    let messages = json!({"max_tokens": 4, "tools": [{"name": "weather", "description": "d", "input_schema": tool["parameters"]}], "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "warm"}]}]}]});
    let (status, answer) = server.post("/v1/messages", &messages);
    assert_eq!(status, 200, "{answer}");
    let usage = &answer["usage"];
    assert_eq!(
        usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap(),
        with_tools
    );
}

#[test]
fn token_ids_there_and_back() {
    let server = server();
    let (status, answer) =
        server.post("/tokenize", &json!({"prompt": "陶冶 ore", "return_token_strs": true}));
    assert_eq!((status, &answer["max_model_len"]), (200, &json!(512)));
    assert_eq!(answer["count"], answer["tokens"].as_array().unwrap().len());
    assert_eq!(answer["token_strs"].as_array().unwrap().len(), answer["tokens"].as_array().unwrap().len());
    let (_, back) = server.post("/detokenize", &json!({"tokens": answer["tokens"]}));
    assert_eq!(back, json!({"prompt": "陶冶 ore"}));
    let messages = json!([{"role": "user", "content": "陶冶?"}]);
    let (_, tokens) = server.post("/tokenize", &json!({"messages": messages}));
    let (_, chat) = server.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 1}));
    assert_eq!(tokens["count"], chat["usage"]["prompt_tokens"]);
    refuse(
        &server,
        "/tokenize",
        json!({"prompt": "a", "messages": messages}),
        (400, "invalid_request_error"),
        "either",
    );
    refuse(&server, "/detokenize", json!({"tokens": ["a"]}), (400, "invalid_request_error"), "token id");
}

#[test]
fn vectors_and_their_order() {
    let Some(models) = client::encoder() else { panic!("fixtures/family/bert is missing") };
    let server = Running::serve(models, ServeOptions::default());
    let texts = json!(["the kiln fires clay", "the kiln fires clay", "ore"]);
    let (status, answer) = server.post("/v1/embeddings", &json!({"model": "bert", "input": texts}));
    assert_eq!((status, &answer["object"]), (200, &json!("list")), "{answer}");
    let vectors: Vec<Vec<f64>> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| serde_json::from_value(entry["embedding"].clone()).unwrap())
        .collect();
    assert_eq!(vectors[0], vectors[1]);
    assert!((vectors[2].iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    let (_, packed) =
        server.post("/v1/embeddings", &json!({"model": "bert", "input": "ore", "encoding_format": "base64"}));
    assert_eq!(
        packed["data"][0]["embedding"].as_str().unwrap().len(),
        (vectors[2].len() * 4).div_ceil(3) * 4
    );
    let (status, ranked) =
        server.post("/v1/rerank", &json!({"model": "bert", "query": "ore", "documents": texts, "top_n": 2}));
    assert_eq!((status, ranked["results"].as_array().unwrap().len()), (200, 2), "{ranked}");
    assert_eq!(
        (&ranked["results"][0]["index"], &ranked["results"][0]["document"]["text"]),
        (&json!(2), &json!("ore"))
    );
    assert!((ranked["results"][0]["relevance_score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let kind = (400, "invalid_request_error");
    refuse(
        &server,
        "/v1/embeddings",
        json!({"model": "bert", "input": "a", "dimensions": 3}),
        kind,
        "dimensions",
    );
    refuse(&server, "/v1/embeddings", json!({"model": "bert", "input": []}), kind, "0 texts");
    refuse(&server, "/v1/embeddings", json!({"model": "bert", "input": [[999_999]]}), kind, "999999");
    refuse(
        &server,
        "/v1/chat/completions",
        json!({"model": "bert", "messages": [{"role": "user", "content": "a"}]}),
        kind,
        "answers nothing",
    );
    refuse(
        &server,
        "/v1/embeddings",
        json!({"model": "other", "input": "a"}),
        (404, "invalid_request_error"),
        "'other'",
    );
}

#[test]
fn every_field_of_the_document_is_what_it_says() {
    let server = server();
    let (status, document) = server.get("/openapi.json");
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let required = |path: &str| match path {
        "/v1/chat/completions" => json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        "/v1/completions" => json!({"prompt": "a", "max_tokens": 1}),
        "/v1/responses" => json!({"input": "a", "max_output_tokens": 1}),
        "/v1/messages" => json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        "/v1/messages/count_tokens" => json!({"messages": [{"role": "user", "content": "a"}]}),
        "/tokenize" => json!({"prompt": "a"}),
        _ => json!({"tokens": [5]}),
    };
    for (path, methods) in document["paths"].as_object().unwrap() {
        // What loads and unloads needs a server that may.
        let others = ["embeddings", "rerank", "load"];
        if methods.get("post").is_none() || others.iter().any(|other| path.contains(other)) {
            continue;
        }
        let body = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(server.post(path, &required(path)).0, 200, "{path}");
        for (name, schema) in body["properties"].as_object().unwrap() {
            let nothing = schema["enum"]
                .as_array()
                .and_then(|values| values.first())
                .filter(|_| schema.get("type").is_none());
            if let Some(nothing) = nothing {
                let body = merged(required(path), json!({name.as_str(): nothing}));
                assert_eq!(server.post(path, &body).0, 200, "{path}: {body}");
            }
            // No field takes this list of lists.
            let wrong = merged(required(path), json!({name.as_str(): [[{"wrong": 1}]]}));
            let (status, answer) = server.post(path, &wrong);
            assert_eq!(status, 400, "{path}: {wrong}: {answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(name.as_str()), "{path}: {name}: {message}");
        }
        let unknown = merged(required(path), json!({"frobnicate": 1}));
        assert_eq!(server.post(path, &unknown).0, 400);
    }
}
