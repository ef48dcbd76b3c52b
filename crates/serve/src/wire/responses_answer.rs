//! `POST /v1/responses`: its answers, whole and as a stream of named events. Knows no transport.

use ::chat::FinishReason;
use serde_json::{Map, Value, json};

use super::chat::logprobs_list;
use super::{ApiError, ResponsesCall};
use crate::answer::{Shape, Sse};
use crate::progress::{Change, Choice, Progress};

/// What all events of one answer have in common, and which item is open.
#[derive(Clone, Debug)]
pub(crate) struct ResponsesShape {
    id: String,
    created: u64,
    model: String,
    parallel: bool,
    logprobs: bool,
    echo: Map<String, Value>,
    sequence: u64,
    /// Items that are complete.
    items: Vec<Value>,
    open: Option<Open>,
    /// The identifier of the call that is being written.
    call: String,
}

/// The item that is being written.
#[derive(Clone, Debug)]
struct Open {
    id: String,
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
}

impl Kind {
    fn part(self) -> &'static str {
        match self {
            Kind::Reasoning => "reasoning_text",
            Kind::Text => "output_text",
        }
    }
}

impl ResponsesShape {
    /// The shape of the answer to a request.
    pub fn new(model: &str, call: &ResponsesCall) -> Self {
        Self {
            id: crate::ids::answer_id("resp_"),
            created: crate::ids::unix_seconds(),
            model: model.to_owned(),
            parallel: call.tools.parallel,
            logprobs: call.conversation.options.logprobs.is_some(),
            echo: call.echo.clone(),
            sequence: 0,
            items: Vec::new(),
            open: None,
            call: String::new(),
        }
    }

    /// The response object.
    fn response(&self, status: &str, output: &[Value], progress: Option<&Progress>) -> Value {
        let echo = |name: &str, default: Value| self.echo.get(name).cloned().unwrap_or(default);
        let incomplete =
            if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        let usage = progress.map_or(Value::Null, |progress| {
            let usage = progress.usage();
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            })
        });
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": echo("instructions", Value::Null),
            "max_output_tokens": echo("max_output_tokens", Value::Null),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": self.parallel,
            "previous_response_id": null,
            "reasoning": echo("reasoning", json!({"effort": null, "summary": null})),
            "store": false,
            "temperature": echo("temperature", json!(1.0)),
            "text": echo("text", json!({"format": {"type": "text"}})),
            "tool_choice": echo("tool_choice", json!("auto")),
            "tools": echo("tools", json!([])),
            "top_p": echo("top_p", json!(1.0)),
            "truncation": "disabled",
            "usage": usage,
            "user": echo("user", Value::Null),
            "metadata": echo("metadata", json!({})),
        })
    }

    fn event(&mut self, kind: &str, fields: Value, out: &mut Sse) {
        let mut event = Map::from_iter([
            ("type".to_owned(), json!(kind)),
            ("sequence_number".to_owned(), json!(self.sequence)),
        ]);
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        self.sequence += 1;
        out.event(kind, &Value::Object(event));
    }

    /// Opens an item of this kind, after the other has been closed.
    fn open_item(&mut self, kind: Kind, out: &mut Sse) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close_item("completed", out);
        let id = crate::ids::answer_id(if kind == Kind::Text { "msg_" } else { "rs_" });
        let index = self.items.len();
        let item = match kind {
            Kind::Text => {
                json!({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
            }
            Kind::Reasoning => json!({"id": id, "type": "reasoning", "summary": [], "content": []}),
        };
        self.event("response.output_item.added", json!({"output_index": index, "item": item}), out);
        let part = part(kind, "", json!([]));
        let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
        self.event("response.content_part.added", fields, out);
        self.open = Some(Open { id, kind, text: String::new() });
    }

    fn close_item(&mut self, status: &str, out: &mut Sse) {
        let Some(Open { id, kind, text }) = self.open.take() else { return };
        let index = self.items.len();
        let name = kind.part();
        let mut done = json!({"item_id": id, "output_index": index, "content_index": 0, "text": text});
        if kind == Kind::Text {
            done["logprobs"] = json!([]);
        }
        self.event(&format!("response.{name}.done"), done, out);
        let part = part(kind, &text, json!([]));
        let fields = json!({"item_id": id, "output_index": index, "content_index": 0, "part": part});
        self.event("response.content_part.done", fields, out);
        let item = text_item(kind, &id, &text, json!([]), status);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}), out);
        self.items.push(item);
    }

    fn begin_call(&mut self, call: &::chat::ToolCall, out: &mut Sse) {
        self.close_item("completed", out);
        self.call = crate::ids::answer_id("fc_");
        let begun = call_item(&self.call, call, "", "in_progress");
        let index = self.items.len();
        self.event("response.output_item.added", json!({"output_index": index, "item": begun}), out);
    }

    fn end_call(&mut self, call: &::chat::ToolCall, status: &str, out: &mut Sse) {
        let (id, index) = (std::mem::take(&mut self.call), self.items.len());
        let fields =
            json!({"item_id": id, "output_index": index, "name": call.name, "arguments": call.arguments});
        self.event("response.function_call_arguments.done", fields, out);
        let item = call_item(&id, call, &call.arguments, status);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}), out);
        self.items.push(item);
    }
}

impl Shape for ResponsesShape {
    fn whole(&self, progress: &Progress) -> Value {
        let choice = &progress.choices[0];
        let mut output = Vec::new();
        if !choice.reasoning.is_empty() {
            let id = crate::ids::answer_id("rs_");
            output.push(text_item(Kind::Reasoning, &id, &choice.reasoning, json!([]), "completed"));
        }
        if !choice.text.is_empty() || choice.calls.is_empty() {
            let logprobs = if self.logprobs { logprobs_list(&choice.tokens) } else { Vec::new() };
            let id = crate::ids::answer_id("msg_");
            output.push(text_item(Kind::Text, &id, &choice.text, json!(logprobs), status(choice)));
        }
        for call in &choice.calls {
            output.push(call_item(&crate::ids::answer_id("fc_"), call, &call.arguments, "completed"));
        }
        self.response(status(choice), &output, Some(progress))
    }

    fn open(&mut self, out: &mut Sse) {
        let response = self.response("in_progress", &[], None);
        self.event("response.created", json!({"response": response}), out);
        self.event("response.in_progress", json!({"response": response}), out);
    }

    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse) {
        let (kind, text, tokens) = match change {
            Change::Reasoning(_, text) => (Kind::Reasoning, text, &[][..]),
            Change::Text(_, text, tokens) => (Kind::Text, text, &tokens[..]),
            Change::CallBegin(index, number) => {
                return self.begin_call(&progress.choices[*index].calls[*number], out);
            }
            Change::Arguments(_, _, text) => {
                let fields = json!({"item_id": self.call, "output_index": self.items.len(), "delta": text});
                return self.event("response.function_call_arguments.delta", fields, out);
            }
            Change::CallEnd(index, number) => {
                let choice = &progress.choices[*index];
                return self.end_call(&choice.calls[*number], status(choice), out);
            }
            Change::End(_) => return,
        };
        if text.is_empty() && tokens.is_empty() {
            return;
        }
        self.open_item(kind, out);
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let id = open.id.clone();
        let mut fields =
            json!({"item_id": id, "output_index": self.items.len(), "content_index": 0, "delta": text});
        if kind == Kind::Text {
            fields["logprobs"] = json!(if self.logprobs { logprobs_list(tokens) } else { Vec::new() });
        }
        self.event(&format!("response.{}.delta", kind.part()), fields, out);
    }

    fn close(&mut self, progress: &Progress, out: &mut Sse) {
        let status = status(&progress.choices[0]);
        if self.items.is_empty() && self.open.is_none() {
            self.open_item(Kind::Text, out);
        }
        self.close_item(status, out);
        let items = std::mem::take(&mut self.items);
        let response = self.response(status, &items, Some(progress));
        self.event(&format!("response.{status}"), json!({"response": response}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Sse) {
        let mut response = self.response("failed", &self.items, None);
        let body = error.to_json();
        response["error"] = json!({"code": "server_error", "message": body["error"]["message"]});
        self.event("response.failed", json!({"response": response}), out);
    }
}

fn status(choice: &Choice) -> &'static str {
    match choice.finish {
        Some(FinishReason::Length | FinishReason::Cancelled) => "incomplete",
        _ => "completed",
    }
}

fn part(kind: Kind, text: &str, logprobs: Value) -> Value {
    match kind {
        Kind::Text => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}),
        Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
    }
}

fn text_item(kind: Kind, id: &str, text: &str, logprobs: Value, status: &str) -> Value {
    let content = json!([part(kind, text, logprobs)]);
    match kind {
        Kind::Text => {
            json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
        }
        Kind::Reasoning => json!({"id": id, "type": "reasoning", "summary": [], "content": content}),
    }
}

fn call_item(id: &str, call: &::chat::ToolCall, arguments: &str, status: &str) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    })
}
