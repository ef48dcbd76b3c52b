//! From the progress of an answer to the bytes of a response: one JSON object, or server-sent events. Knows neither the queue's
//! order nor routes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::Serialize;
use serde_json::Value;

use crate::progress::{Change, Progress};
use crate::wire::ApiError;

/// How an answer is written down.
pub(crate) trait Shape: Send + 'static {
    /// The whole answer.
    fn whole(&self, progress: &Progress) -> Value;
    /// What goes out before the first piece.
    fn open(&mut self, out: &mut Sse);
    /// What goes out for a change.
    fn change(&mut self, change: &Change, progress: &Progress, out: &mut Sse);
    /// What goes out after the last choice has ended.
    fn close(&mut self, progress: &Progress, out: &mut Sse);
    /// What goes out where the answer fails after it began; OpenAI's way, unless a shape has another.
    fn fail(&mut self, error: &ApiError, out: &mut Sse) {
        out.data(&error.to_json());
        out.done();
    }
}

/// Server-sent events that have been written down and not yet sent.
#[derive(Default)]
pub(crate) struct Sse {
    ready: VecDeque<Bytes>,
}

impl Sse {
    /// An event without a name.
    pub fn data(&mut self, value: &impl Serialize) {
        let mut event = b"data: ".to_vec();
        // Texts, numbers and maps with names: nothing that could fail.
        serde_json::to_writer(&mut event, value).expect("the value is plain JSON");
        event.extend_from_slice(b"\n\n");
        self.ready.push_back(Bytes::from(event));
    }

    /// An event with a name.
    pub fn event(&mut self, name: &str, value: &Value) {
        self.ready.push_back(Bytes::from(format!("event: {name}\ndata: {value}\n\n")));
    }

    /// OpenAI's mark of the end.
    pub fn done(&mut self) {
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }
}

impl IntoResponse for ApiError {
    /// In OpenAI's format; [`crate::guard::check`] sees to paths that have another.
    fn into_response(self) -> Response {
        let mut response = with_status(&self, &self.to_json());
        response.extensions_mut().insert(self);
        response
    }
}

/// A refusal in the format of a path.
pub(crate) fn refusal(path: &str, error: ApiError) -> Response {
    if path.starts_with("/v1/messages") {
        with_status(&error, &error.to_anthropic())
    } else {
        with_status(&error, &error.to_json())
    }
}

fn with_status(error: &ApiError, body: &Value) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(body);
    *response.status_mut() = status;
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A response of one JSON value.
pub(crate) fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Waits for the whole answer.
///
/// # Errors
/// The failure that ended it.
pub(crate) async fn whole(shape: impl Shape, mut progress: Progress) -> Result<Response, ApiError> {
    while !progress.is_done() {
        progress.next().await?;
    }
    Ok(json_response(&shape.whole(&progress)))
}

/// Sends the answer piece by piece. It begins with the first event, so that a request which cannot be answered still gets its
/// status.
///
/// # Errors
/// The failure that came before any piece.
pub(crate) async fn streamed(shape: impl Shape, mut progress: Progress) -> Result<Response, ApiError> {
    let first = progress.next().await?;
    let mut pieces = Pieces { shape: Box::new(shape), progress, out: Sse::default(), done: false };
    pieces.shape.open(&mut pieces.out);
    pieces.take(Ok(first));
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// The server-sent events of one answer.
struct Pieces {
    shape: Box<dyn Shape>,
    progress: Progress,
    out: Sse,
    done: bool,
}

impl Pieces {
    fn take(&mut self, changes: Result<Vec<Change>, ApiError>) {
        match changes {
            Ok(changes) => {
                for change in &changes {
                    self.shape.change(change, &self.progress, &mut self.out);
                }
                if self.progress.is_done() {
                    self.shape.close(&self.progress, &mut self.out);
                    self.done = true;
                }
            }
            Err(error) => {
                self.shape.fail(&error, &mut self.out);
                self.done = true;
            }
        }
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.out.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.progress.poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(changes) => self.take(changes),
            }
        }
    }
}

#[cfg(test)]
mod tests;
