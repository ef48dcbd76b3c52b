//! Spans of answers for OpenTelemetry, by its conventions for generative AI, sent as JSON over HTTP (OTLP). Knows no wire types.
//!
//! The OTLP crates bring a client, a runtime and protocol buffers with them; a span a request needs none of these.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::ids::fresh_seed;

/// Spans that wait to be sent; more are dropped, so that a collector that is away costs no memory.
const WAITING_MAX: usize = 1024;
/// Spans that are sent together at most.
const BATCH_MAX: usize = 128;
/// How long a span waits for company.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the thread that sends spans.
#[derive(Clone)]
pub(crate) struct Exporter {
    spans: SyncSender<Value>,
}

impl Exporter {
    /// Starts the thread; `url` is the collector's, such as `http://localhost:4318`.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(url: &str) -> std::io::Result<Exporter> {
        let (spans, receiver) = sync_channel(WAITING_MAX);
        let url = url.trim_end_matches('/');
        let url = if url.ends_with("/v1/traces") { url.to_owned() } else { format!("{url}/v1/traces") };
        std::thread::Builder::new().name("otlp".into()).spawn(move || send_all(&url, &receiver))?;
        Ok(Exporter { spans })
    }

    /// Begins a span of an operation (`chat`, `text_completion`, `embeddings`, `rerank`) with a model; `parent` is the request's
    /// `traceparent` header.
    pub fn begin(&self, operation: &'static str, model: &str, parent: Option<&str>) -> Span {
        let parent = parent.and_then(parent_of);
        let (trace, parent) = match parent {
            Some((trace, span)) => (trace.to_owned(), Some(span.to_owned())),
            None => (format!("{:016x}{:016x}", fresh_seed(), fresh_seed()), None),
        };
        let attributes = vec![
            text("gen_ai.operation.name", operation),
            text("gen_ai.provider.name", "taoye"),
            text("gen_ai.request.model", model),
            text("gen_ai.response.model", model),
        ];
        let name = format!("{operation} {model}");
        Span {
            exporter: self.clone(),
            trace,
            parent,
            name,
            started: now(),
            attributes,
            error: Some("cancelled".into()),
        }
    }
}

/// A span that is sent when it is dropped; until [`Span::end`] it counts as cancelled.
pub(crate) struct Span {
    exporter: Exporter,
    trace: String,
    parent: Option<String>,
    name: String,
    started: u128,
    attributes: Vec<Value>,
    error: Option<String>,
}

impl Span {
    /// The answer is complete: tokens of prompt and answer, and why each choice ended; vectors end for no reason.
    pub fn end(&mut self, prompt_tokens: usize, completion_tokens: usize, reasons: &[&str]) {
        self.error = None;
        self.attributes.push(integer("gen_ai.usage.input_tokens", prompt_tokens));
        if reasons.is_empty() {
            return;
        }
        self.attributes.push(integer("gen_ai.usage.output_tokens", completion_tokens));
        let values: Vec<Value> = reasons.iter().map(|reason| json!({"stringValue": reason})).collect();
        self.attributes.push(
            json!({"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": values}}}),
        );
    }

    /// The answer failed.
    pub fn fail(&mut self, kind: &str) {
        self.error = Some(kind.to_owned());
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut span = json!({
            "traceId": self.trace,
            "spanId": format!("{:016x}", fresh_seed()),
            "name": self.name,
            "kind": 2,
            "startTimeUnixNano": self.started.to_string(),
            "endTimeUnixNano": now().to_string(),
            "status": {},
        });
        if let Some(parent) = &self.parent {
            span["parentSpanId"] = json!(parent);
        }
        if let Some(error) = &self.error {
            self.attributes.push(text("error.type", error));
            span["status"] = json!({"code": 2});
        }
        span["attributes"] = json!(self.attributes);
        // Where too many wait this one is dropped.
        let _ = self.exporter.spans.try_send(span);
    }
}

fn send_all(url: &str, spans: &Receiver<Value>) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
    let mut told = false;
    while let Ok(first) = spans.recv() {
        let mut batch = vec![first];
        let mut open = true;
        while batch.len() < BATCH_MAX && open {
            match spans.recv_timeout(PATIENCE) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        let sent =
            agent.post(url).header("content-type", "application/json").send(batch_json(batch).to_string());
        // Once is enough: a collector may be away for long.
        if let Err(error) = sent
            && !std::mem::replace(&mut told, true)
        {
            eprintln!("spans could not be sent to {url}: {error}; this is said once");
        }
    }
}

fn batch_json(spans: Vec<Value>) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", "taoye"),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ]},
        "scopeSpans": [{"scope": {"name": "taoye.serve"}, "spans": spans}],
    }]})
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// OTLP's JSON writes 64-bit integers as text.
fn integer(key: &str, value: usize) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

/// Trace and span of a `traceparent` header: `00-<32 digits>-<16 digits>-<flags>`.
fn parent_of(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.trim().split('-');
    let (_, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = |text: &str, digits: usize| {
        text.len() == digits
            && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            && text.bytes().any(|byte| byte != b'0')
    };
    (is_id(trace, 32) && is_id(span, 16)).then_some((trace, span))
}

/// Nanoseconds since 1970.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::parent_of;

    #[test]
    fn a_parent_is_taken_from_its_header() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let check = |header: &str, expected| assert_eq!(parent_of(header), expected, "{header}");
        check(&format!("00-{trace}-00f067aa0ba902b7-01"), Some((trace, "00f067aa0ba902b7")));
        check(&format!("00-{trace}-0000000000000000-01"), None);
        check("00-xyz-00f067aa0ba902b7-01", None);
        check("", None);
    }
}
