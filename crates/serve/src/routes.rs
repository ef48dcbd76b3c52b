//! Paths and methods. Knows neither the fields of requests nor how answers are found.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::answer::{Shape, json_response, streamed, whole};
use crate::queue::{Queue, Work};
use crate::wire::{ApiError, ChatCall, ChatShape, CompletionCall, CompletionShape};

/// What every request needs.
pub(crate) struct Shared {
    /// The way to the model.
    pub queue: Queue,
    /// The model's name.
    pub model: String,
    /// The most tokens that prompt and answer may take together.
    pub context_tokens: usize,
    /// The longest request body.
    pub body_bytes_max: usize,
    /// When the server began, in seconds since 1970.
    pub started: u64,
}

/// All routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(shared)
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let engine = shared.queue.statistics();
    let (running, waiting) = (engine.running, engine.waiting);
    json_response(&json!({"status": "ok", "model": shared.model, "running": running, "waiting": waiting}))
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    json_response(&json!({"object": "list", "data": [model_json(&shared)]}))
}

async fn model(State(shared): State<Arc<Shared>>, Path(wanted): Path<String>) -> Response {
    if wanted == shared.model {
        json_response(&model_json(&shared))
    } else {
        ApiError::unknown_model(&wanted, &shared.model).into_response()
    }
}

fn model_json(shared: &Shared) -> Value {
    json!({
        "id": shared.model,
        "object": "model",
        "created": shared.started,
        "owned_by": "taoye",
        "max_model_len": shared.context_tokens,
    })
}

async fn chat_completions(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    let ChatCall { request, streaming } =
        ChatCall::parse(&read(body, shared.body_bytes_max).await?, &shared.model)?;
    let shape = Shape::Chat(ChatShape::new(&shared.model, &request.options, streaming));
    let events = shared.queue.ask(Work::Chat(request, 1))?;
    if streaming.stream { streamed(shape, events).await } else { whole(shape, events).await }
}

async fn completions(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    let body = read(body, shared.body_bytes_max).await?;
    let CompletionCall { requests, streaming } = CompletionCall::parse(&body, &shared.model)?;
    let shape = CompletionShape::new(&shared.model, &requests[0].options, streaming);
    let shape = Shape::Completion(shape, requests.len());
    let events = shared.queue.ask(Work::Completion(requests, 1))?;
    if streaming.stream { streamed(shape, events).await } else { whole(shape, events).await }
}

async fn read(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, bytes_max).await.map_err(|error| {
        let too_long = std::error::Error::source(&error)
            .is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
        if too_long {
            let message = format!("The body is longer than the {bytes_max} bytes that this server reads.");
            ApiError::invalid(None, message).with_status(413).with_code("body_too_large")
        } else {
            ApiError::invalid(None, format!("The body could not be read: {error}."))
        }
    })
}

async fn unknown_path(request: Request) -> ApiError {
    let message = format!("Unknown request URL: {} {}.", request.method(), request.uri().path());
    ApiError::invalid(None, message).with_status(404).with_code("unknown_url")
}

async fn unknown_method(method: Method, request: Request) -> ApiError {
    let message = format!("{method} is not possible at {}.", request.uri().path());
    ApiError::invalid(None, message).with_status(405).with_code("method_not_allowed")
}
