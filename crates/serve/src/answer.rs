//! From the events of an answer to the bytes of a response: one JSON object, or server-sent events. Knows
//! neither the queue's order nor routes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde_json::Value;

use crate::queue::{Event, Events};
use crate::wire::{ApiError, ChatShape, CompletionShape, total};

/// How an answer is written down.
pub(crate) enum Shape {
    Chat(ChatShape),
    /// With the number of prompts.
    Completion(CompletionShape, usize),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(&self.to_json());
        *response.status_mut() = status;
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A response of one JSON value.
pub(crate) fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Waits for the whole answer.
///
/// # Errors
/// The failure that ended it.
pub(crate) async fn whole(shape: Shape, mut events: Events) -> Result<Response, ApiError> {
    let mut replies: Vec<Option<chat::CompletionReply>> = Vec::new();
    while let Some(event) = events.recv().await {
        match (event, &shape) {
            (Event::Delta(..), _) => {}
            (Event::Failed(error), _) => return Err(error),
            (Event::Chat(0, reply), Shape::Chat(shape)) => return Ok(json_response(&shape.whole(&reply))),
            (Event::Completion(index, reply), Shape::Completion(shape, prompts)) => {
                replies.resize(*prompts, None);
                replies[index] = Some(reply);
                if replies.iter().all(Option::is_some) {
                    let replies: Vec<_> = replies.into_iter().flatten().collect();
                    return Ok(json_response(&shape.whole(&replies)));
                }
            }
            (Event::Chat(..) | Event::Completion(..), _) => {
                unreachable!("the work and the shape come from one route, which asks for one choice")
            }
        }
    }
    Err(ApiError::closing())
}

/// Sends the answer piece by piece. It begins with the first event, so that a request which cannot be
/// answered still gets its status.
///
/// # Errors
/// The failure that came before any piece.
pub(crate) async fn streamed(shape: Shape, mut events: Events) -> Result<Response, ApiError> {
    let first = match events.recv().await {
        Some(Event::Failed(error)) => return Err(error),
        Some(event) => event,
        None => return Err(ApiError::closing()),
    };
    let mut pieces = Pieces { shape, events, ready: VecDeque::new(), usage: Vec::new(), done: false };
    if let Shape::Chat(shape) = &pieces.shape {
        pieces.ready.push_back(data(&shape.first()));
    }
    pieces.take(first);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// The server-sent events of one answer.
struct Pieces {
    shape: Shape,
    events: Events,
    /// Written down and not yet sent.
    ready: VecDeque<Bytes>,
    /// Counts of the prompts that are done.
    usage: Vec<chat::Usage>,
    done: bool,
}

impl Pieces {
    fn take(&mut self, event: Event) {
        match (event, &self.shape) {
            (Event::Failed(error), _) => {
                self.ready.push_back(data(&error.to_json()));
                self.end();
            }
            (Event::Delta(_, delta), Shape::Chat(shape)) => self.ready.push_back(data(&shape.delta(&delta))),
            (Event::Delta(index, delta), Shape::Completion(shape, _)) => {
                self.ready.push_back(data(&shape.delta(index, &delta)));
            }
            (Event::Chat(0, reply), Shape::Chat(shape)) => {
                self.ready.push_back(data(&shape.last(reply.finish)));
                self.ready.extend(shape.usage(reply.usage).iter().map(data));
                self.end();
            }
            (Event::Completion(index, reply), Shape::Completion(shape, prompts)) => {
                self.ready.push_back(data(&shape.last(index, reply.finish)));
                self.usage.push(reply.usage);
                if self.usage.len() == *prompts {
                    self.ready.extend(shape.usage(total(self.usage.iter().copied())).iter().map(data));
                    self.end();
                }
            }
            (Event::Chat(..) | Event::Completion(..), _) => {
                unreachable!("the work and the shape come from one route, which asks for one choice")
            }
        }
    }

    fn end(&mut self) {
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.done = true;
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            match self.events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(event)) => self.take(event),
                Poll::Ready(None) => self.take(Event::Failed(ApiError::closing())),
            }
        }
    }
}

fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}
