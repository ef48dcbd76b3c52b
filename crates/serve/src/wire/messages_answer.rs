//! Anthropic's `POST /v1/messages`: its answers, whole and as a stream of named events. Knows no transport.

use ::chat::{FinishReason, Usage};
use serde_json::{Value, json};

use super::messages::input_of;
use super::{ApiError, MessagesCall};
use crate::answer::{Shape, Sse};
use crate::progress::{Change, Choice, Progress};

/// What all events of one answer have in common, and which block is open.
#[derive(Clone, Debug)]
pub(crate) struct MessagesShape {
    id: String,
    model: String,
    prompt_tokens: usize,
    stops: Vec<String>,
    /// Blocks that have been opened.
    blocks: usize,
    open: Option<&'static str>,
}

impl MessagesShape {
    /// The shape of the answer to a request whose prompt has so many tokens.
    pub fn new(model: &str, call: &MessagesCall, prompt_tokens: usize) -> Self {
        Self {
            id: crate::ids::answer_id("msg_"),
            model: model.to_owned(),
            prompt_tokens,
            stops: call.conversation.options.stop.clone(),
            blocks: 0,
            open: None,
        }
    }

    fn message(&self, content: Value, reason: Value, stop: Value, usage: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        })
    }

    /// Why the answer ended, and the stop sequence where one did.
    fn reason(&self, choice: &Choice) -> (Value, Value) {
        match choice.finish {
            Some(FinishReason::Length | FinishReason::Cancelled) => (json!("max_tokens"), Value::Null),
            _ if !choice.calls.is_empty() => (json!("tool_use"), Value::Null),
            _ => match &choice.stop {
                Some(stop) if self.stops.contains(stop) => (json!("stop_sequence"), json!(stop)),
                _ => (json!("end_turn"), Value::Null),
            },
        }
    }

    fn open_block(&mut self, kind: &'static str, block: Value, out: &mut Sse) {
        if self.open == Some(kind) {
            return;
        }
        self.close_block(out);
        let event = json!({"type": "content_block_start", "index": self.blocks, "content_block": block});
        out.event("content_block_start", &event);
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn close_block(&mut self, out: &mut Sse) {
        match self.open.take() {
            None => return,
            // Nobody signs what a model of this machine thinks, but clients wait for a signature.
            Some("thinking") => self.delta(json!({"type": "signature_delta", "signature": ""}), out),
            Some(_) => {}
        }
        out.event("content_block_stop", &json!({"type": "content_block_stop", "index": self.blocks - 1}));
    }

    fn delta(&self, delta: Value, out: &mut Sse) {
        let event = json!({"type": "content_block_delta", "index": self.blocks - 1, "delta": delta});
        out.event("content_block_delta", &event);
    }
}

impl Shape for MessagesShape {
    fn whole(&self, progress: &Progress) -> Value {
        let choice = &progress.choices[0];
        let mut content = Vec::new();
        if !choice.reasoning.is_empty() {
            content.push(json!({"type": "thinking", "thinking": choice.reasoning, "signature": ""}));
        }
        if !choice.text.is_empty() || choice.calls.is_empty() {
            content.push(json!({"type": "text", "text": choice.text}));
        }
        for call in &choice.calls {
            content
                .push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input_of(call)}));
        }
        let (reason, stop) = self.reason(choice);
        self.message(json!(content), reason, stop, usage_json(choice.usage))
    }

    fn open(&mut self, out: &mut Sse) {
        let usage = usage_json(Usage { prompt_tokens: self.prompt_tokens, ..Usage::default() });
        let message = self.message(json!([]), Value::Null, Value::Null, usage);
        out.event("message_start", &json!({"type": "message_start", "message": message}));
        out.event("ping", &json!({"type": "ping"}));
    }

    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse) {
        match change {
            Change::Reasoning(_, text) => {
                self.open_block(
                    "thinking",
                    json!({"type": "thinking", "thinking": "", "signature": ""}),
                    out,
                );
                self.delta(json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Change::Text(_, text, _) if text.is_empty() => {}
            Change::Text(_, text, _) => {
                self.open_block("text", json!({"type": "text", "text": ""}), out);
                self.delta(json!({"type": "text_delta", "text": text}), out);
            }
            Change::CallBegin(index, number) => {
                let call = &progress.choices[*index].calls[*number];
                self.close_block(out);
                let block = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
                self.open_block("tool_use", block, out);
            }
            Change::Arguments(_, _, text) => {
                self.delta(json!({"type": "input_json_delta", "partial_json": text}), out);
            }
            Change::CallEnd(..) => self.close_block(out),
            Change::End(_) => {}
        }
    }

    fn close(&mut self, progress: &Progress, out: &mut Sse) {
        if self.blocks == 0 {
            self.open_block("text", json!({"type": "text", "text": ""}), out);
        }
        self.close_block(out);
        let choice = &progress.choices[0];
        let (reason, stop) = self.reason(choice);
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let event = json!({"type": "message_delta", "delta": delta, "usage": usage_json(choice.usage)});
        out.event("message_delta", &event);
        out.event("message_stop", &json!({"type": "message_stop"}));
    }

    fn fail(&mut self, error: &ApiError, out: &mut Sse) {
        out.event("error", &error.to_anthropic());
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    })
}
