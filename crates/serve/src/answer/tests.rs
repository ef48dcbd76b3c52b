//! Answers with reasoning, text and calls as each interface writes them: the stream put together is the whole.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::body::to_bytes;
use chat::format::{AnswerFormat, AnswerParser, Piece};
use chat::{Codec, Delta, FinishReason, Message, Reply, Role, Usage};
use serde_json::{Value, json};
use token::{Tokenizer, TrainOptions};

use super::*;
use crate::metrics::Metrics;
use crate::outbox::{Event, Sent, outbox};
use crate::wire::{ChatCall, ChatShape, Fields, MessagesCall, MessagesShape, ResponsesCall, ResponsesShape};

const TEMPLATE: &str = "{{ tools }} <tool_call> <think>";
const ANSWER: &str = "<think>\nLook it up.\n</think>\n\nOne moment. <tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \
                      \"景德镇\"}}</tool_call><tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>";

/// An answer that is held to calls.
const CERTAIN: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"景德镇 </tool_call>\"}}\n</tool_call>\
                       \n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

fn codec() -> Codec {
    let mut tokenizer = Tokenizer::train(&["ab".repeat(50)], &TrainOptions::default(), 1).unwrap();
    tokenizer.settings.chat_template = TEMPLATE.to_owned();
    Codec::new(tokenizer).unwrap()
}

fn format() -> AnswerFormat {
    AnswerFormat::of_template(TEMPLATE)
}

/// The progress of an answer that comes in pieces of a few characters.
fn progress(answer: &str, finish: FinishReason, stop: Option<&str>) -> Progress {
    let (mut sender, events) = outbox();
    let characters: Vec<char> = answer.chars().collect();
    for piece in characters.chunks(5) {
        let delta = Delta { text: piece.iter().collect(), ids: 1, ..Delta::default() };
        assert_eq!(sender.send(Event::Delta(0, delta)), Sent::Waiting);
    }
    let usage = Usage { prompt_tokens: 7, completion_tokens: 11, cached_tokens: 4, reasoning_tokens: 0 };
    let message = Message::new(Role::Assistant, answer);
    let stop = stop.map(str::to_owned);
    let reply = Reply { message, finish, usage, tokens: Vec::new(), stop };
    assert_eq!(sender.send(Event::Chat(0, reply, 0)), Sent::Waiting);
    let tools = ["weather", "time"].map(|name| json!({"type": "function", "function": {"name": name}}));
    let parser = AnswerParser::new(&format(), &tools, false);
    let parser = if answer == CERTAIN { parser.with_certain_calls() } else { parser };
    Progress::new(events, 1, Some(parser), Arc::new(Metrics::default()))
}

fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn text_of(response: Response) -> String {
    let bytes = block_on(to_bytes(response.into_body(), 1 << 20)).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The whole answer, and the events of the stream with their names.
fn both<S: Shape + Clone>(
    shape: S,
    answer: &str,
    finish: FinishReason,
    stop: Option<&str>,
) -> (Value, Vec<(String, Value)>) {
    let said = block_on(whole(shape.clone(), progress(answer, finish, stop))).unwrap();
    let streamed = block_on(streamed(shape, progress(answer, finish, stop))).unwrap();
    let text = text_of(streamed);
    let event = |event: &str| {
        let (name, data) = match event.strip_prefix("event: ") {
            Some(rest) => rest.split_once('\n').unwrap(),
            None => ("", event),
        };
        let data = data.strip_prefix("data: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap_or_else(|_| json!(data)))
    };
    (serde_json::from_str(&text_of(said)).unwrap(), text.split_terminator("\n\n").map(event).collect())
}

fn fields(body: Value) -> Fields {
    Fields::parse(body.to_string().as_bytes()).unwrap()
}

fn chat_shape() -> ChatShape {
    let body = json!({"messages": [{"role": "user", "content": "a"}], "stream": true, "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {"name": "weather"}}, {"type": "function", "function": {"name": "time"}}]});
    ChatShape::new("m", &ChatCall::read(fields(body), &codec()).unwrap().conversation)
}

#[test]
fn tokens_of_reasoning_are_counted() {
    let mut progress = progress(ANSWER, FinishReason::Stop, None);
    block_on(async {
        while !progress.is_done() {
            progress.next().await.unwrap();
        }
    });
    // Of the pieces of five characters, those from the one that makes the mark whole to the one that closes it.
    assert_eq!(progress.usage().reasoning_tokens, 5);
}

#[test]
fn a_chat_completion_with_reasoning_and_calls() {
    let (whole, events) = both(chat_shape(), ANSWER, FinishReason::Stop, None);
    let message = &whole["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("One moment."), &json!("Look it up."))
    );
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let calls = message["tool_calls"].as_array().unwrap();
    let weather = json!({"name": "weather", "arguments": "{\"city\":\"景德镇\"}"});
    assert_eq!((calls.len(), &calls[0]["function"], &calls[0]["type"]), (2, &weather, &json!("function")));
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0]["id"] != calls[1]["id"]);
    assert_eq!(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 4);

    let joined = |field: &str| -> String {
        let deltas = events.iter().filter_map(|(_, event)| event["choices"][0]["delta"][field].as_str());
        deltas.collect()
    };
    assert_eq!(
        (joined("content"), joined("reasoning_content")),
        ("One moment.".into(), "Look it up.".into())
    );
    let streamed: Vec<&Value> = events
        .iter()
        .filter_map(|(_, event)| event["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .collect();
    for (index, call) in calls.iter().enumerate() {
        let of: Vec<&Value> = streamed.iter().copied().filter(|piece| piece["index"] == index).collect();
        assert_eq!(
            (&of[0]["id"].is_string(), &of[0]["function"]["name"]),
            (&true, &call["function"]["name"])
        );
        let arguments: String =
            of.iter().filter_map(|piece| piece["function"]["arguments"].as_str()).collect();
        assert_eq!(json!(arguments), call["function"]["arguments"]);
    }
    let [.., finish, usage, done] = &events[..] else { panic!("{events:?}") };
    assert_eq!(finish.1["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!((&usage.1["usage"], &done.1), (&whole["usage"], &json!("[DONE]")));
}

#[test]
fn certain_calls_go_out_while_they_are_written() {
    let (whole, events) = both(chat_shape(), CERTAIN, FinishReason::Stop, None);
    let calls = whole["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls[0]["function"]["arguments"], "{\"city\": \"景德镇 </tool_call>\"}");
    assert_eq!((calls.len(), &calls[1]["function"]["name"]), (2, &json!("time")));
    let pieces = events.iter().filter_map(|(_, event)| event["choices"][0]["delta"]["tool_calls"].as_array());
    let pieces: Vec<&Value> = pieces.flatten().collect();
    assert!(pieces.len() > 6, "{pieces:?}");
    for (index, call) in calls.iter().enumerate() {
        let of = pieces.iter().filter(|piece| piece["index"] == index);
        let arguments: String = of.filter_map(|piece| piece["function"]["arguments"].as_str()).collect();
        assert_eq!(json!(arguments), call["function"]["arguments"]);
    }
    // What a limit of tokens cuts off stays a call, as OpenAI's servers have it.
    let (cut, _) = CERTAIN.split_at(CERTAIN.find("景").unwrap());
    let mut parser = AnswerParser::new(&format(), &[json!({})], false).with_certain_calls();
    let pieces: Vec<Piece> = parser.push(cut).into_iter().chain(parser.finish()).collect();
    assert_eq!(pieces, [Piece::CallBegin("weather".into()), Piece::Arguments("{\"city\": \"".into())]);
}

#[test]
fn anthropics_messages_with_thinking_and_calls() {
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "stop_sequences": ["X"],
        "tools": [{"name": "weather", "input_schema": {"type": "object"}}]});
    let shape = || MessagesShape::new("m", &MessagesCall::read(fields(body.clone()), &codec()).unwrap(), 7);
    let (whole, events) = both(shape(), ANSWER, FinishReason::Stop, None);
    let content = whole["content"].as_array().unwrap();
    let kinds: Vec<&str> = content.iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!((&content[2]["name"], &content[2]["input"]), (&json!("weather"), &json!({"city": "景德镇"})));
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("tool_use"), &Value::Null));
    assert_eq!(
        whole["usage"]["input_tokens"].as_u64().unwrap()
            + whole["usage"]["cache_read_input_tokens"].as_u64().unwrap(),
        7
    );

    // Blocks open and close in order, and their deltas make the whole.
    let mut blocks: Vec<Value> = Vec::new();
    let mut open = false;
    for (name, event) in &events {
        assert_eq!(event["type"], name.as_str());
        match name.as_str() {
            "content_block_start" => {
                assert!(!open && event["index"] == blocks.len());
                open = true;
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert!(open && event["index"] == blocks.len() - 1);
                let (delta, block) = (&event["delta"], blocks.last_mut().unwrap());
                for field in ["text", "thinking"] {
                    if let Some(text) = delta[field].as_str() {
                        block[field] = json!(block[field].as_str().unwrap().to_owned() + text);
                    }
                }
                if let Some(text) = delta["partial_json"].as_str() {
                    let known = block["written"].as_str().unwrap_or_default().to_owned();
                    block["written"] = json!(known + text);
                }
            }
            "content_block_stop" => {
                open = false;
                let block = blocks.last_mut().unwrap().as_object_mut().unwrap();
                if let Some(written) = block.remove("written") {
                    block.insert("input".into(), serde_json::from_str(written.as_str().unwrap()).unwrap());
                }
            }
            _ => {}
        }
    }
    let without_ids = |blocks: &[Value]| {
        let mut blocks = blocks.to_vec();
        blocks.iter_mut().for_each(|block| drop(block.as_object_mut().unwrap().remove("id")));
        blocks
    };
    assert_eq!(without_ids(&blocks), without_ids(content));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        (names[0], names[1], names[names.len() - 2], names[names.len() - 1]),
        ("message_start", "ping", "message_delta", "message_stop")
    );
    assert_eq!(events[events.len() - 2].1["delta"]["stop_reason"], "tool_use");
}

#[test]
fn anthropics_messages_say_why_they_stopped() {
    let body =
        json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "stop_sequences": ["X"]});
    let shape = || MessagesShape::new("m", &MessagesCall::read(fields(body.clone()), &codec()).unwrap(), 7);
    for (finish, stop, expected) in [
        (FinishReason::Stop, Some("X"), (json!("stop_sequence"), json!("X"))),
        (FinishReason::Stop, None, (json!("end_turn"), Value::Null)),
        (FinishReason::Length, None, (json!("max_tokens"), Value::Null)),
    ] {
        let (whole, events) = both(shape(), "Yes.", finish, stop);
        assert_eq!((whole["stop_reason"].clone(), whole["stop_sequence"].clone()), expected);
        assert_eq!(events[events.len() - 2].1["delta"]["stop_reason"], expected.0);
    }
}

#[test]
fn responses_with_reasoning_and_calls() {
    let body = json!({"input": "a", "tools": [{"type": "function", "name": "weather"}, {"type": "function", "name": "time"}]});
    let shape = || ResponsesShape::new("m", &ResponsesCall::read(fields(body.clone()), &codec()).unwrap());
    let (whole, events) = both(shape(), ANSWER, FinishReason::Stop, None);
    let kinds = |output: &Value| -> Vec<String> {
        output.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap().to_owned()).collect()
    };
    let expected = ["reasoning", "message", "function_call", "function_call"];
    assert_eq!(
        (kinds(&whole["output"]), &whole["status"]),
        (expected.map(str::to_owned).to_vec(), &json!("completed"))
    );
    assert_eq!(whole["output"][1]["content"][0]["text"], "One moment.");
    assert_eq!(whole["output"][2]["arguments"], "{\"city\":\"景德镇\"}");
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(number)));
    }
    let last = &events.last().unwrap().1;
    assert_eq!(
        (&last["type"], kinds(&last["response"]["output"])),
        (&json!("response.completed"), expected.map(str::to_owned).to_vec())
    );
    assert_eq!(last["response"]["usage"], whole["usage"]);
    let texts: String = events
        .iter()
        .filter(|(name, _)| name == "response.output_text.delta")
        .map(|(_, event)| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(texts, "One moment.");
    // Every item that is added is done, under the same identifier.
    let ids = |name: &str| -> Vec<Value> {
        events.iter().filter(|(kind, _)| kind == name).map(|(_, event)| event["item"]["id"].clone()).collect()
    };
    assert_eq!(ids("response.output_item.added"), ids("response.output_item.done"));
    assert_eq!(ids("response.output_item.added").len(), 4);

    let (whole, events) = both(shape(), "Too long", FinishReason::Length, None);
    assert_eq!(
        (&whole["status"], &whole["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(events.last().unwrap().0, "response.incomplete");
    let (_, events) = both(shape(), "", FinishReason::Stop, None);
    assert_eq!(kinds(&events.last().unwrap().1["response"]["output"]), ["message"]);
}

#[test]
fn a_failure_on_the_way_is_said_in_each_format() {
    fn failed(shape: impl Shape) -> String {
        let (mut sender, events) = outbox();
        let delta = Delta { text: "a".into(), ..Delta::default() };
        assert_eq!(sender.send(Event::Delta(0, delta)), Sent::Waiting);
        assert_eq!(sender.send(Event::Failed(ApiError::internal("It broke."))), Sent::Waiting);
        let progress = Progress::new(events, 1, None, Arc::new(Metrics::default()));
        text_of(block_on(streamed(shape, progress)).unwrap())
    }
    let text = failed(chat_shape());
    assert!(text.contains("\"message\":\"It broke.\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5});
    let text = failed(MessagesShape::new("m", &MessagesCall::read(fields(body), &codec()).unwrap(), 1));
    assert!(
        text.contains("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\""),
        "{text}"
    );
    let call = ResponsesCall::read(fields(json!({"input": "a"})), &codec()).unwrap();
    let text = failed(ResponsesShape::new("m", &call));
    assert!(text.contains("event: response.failed"), "{text}");
}
