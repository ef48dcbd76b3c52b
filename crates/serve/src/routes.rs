//! Paths and methods, and what each of them does. Knows neither how fields are read nor how answers are written down.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chat::format::AnswerParser;
use chat::{ChatPrompt, Codec, TemplateOptions};
use serde_json::{Value, json};

use crate::admin::{self, Loading};
use crate::answer::{Shape, json_response, streamed, whole};
use crate::guard::{self, Guard};
use crate::held::{constrained, held};
use crate::metrics::Metrics;
use crate::models::{ChatModel, Kind, Models, Served};
use crate::progress::Progress;
use crate::queue::Work;
use crate::spans::{Exporter, Span};
use crate::wire::{
    ApiError, ChatCall, ChatShape, CompletionCall, CompletionShape, Conversation, Fields, MessagesCall,
    MessagesShape, ResponsesCall, ResponsesShape, TokenizeCall, read_detokenize,
};

/// A body is to come within this time.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Bodies longer than this are turned into ids on a thread of their own, so that other sockets do not wait.
const LONG_BYTES: usize = 32 << 10;

/// What every request needs.
pub(crate) struct Shared {
    pub models: Arc<Models>,
    /// Where clients may load and unload models.
    pub loading: Option<Loading>,
    pub guard: Guard,
    pub metrics: Arc<Metrics>,
    /// Where spans go.
    pub exporter: Option<Exporter>,
    /// The longest request body.
    pub body_bytes_max: usize,
}

type Answered = Result<Response, ApiError>;
type Here = State<Arc<Shared>>;

/// All routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/models", get(admin::list))
        .route("/models/load", post(admin::load))
        .route("/models/unload", post(admin::unload))
        .route("/v1/load_lora_adapter", post(admin::load_adapter))
        .route("/v1/unload_lora_adapter", post(admin::unload_adapter))
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/responses", post(responses))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/embeddings", post(crate::vectors::embeddings))
        .route("/v1/rerank", post(crate::vectors::rerank))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(Arc::clone(&shared), guard::check))
        .with_state(shared)
}

async fn health(State(shared): Here) -> Response {
    let models = shared.models.all();
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    let (mut running, mut waiting) = (0, 0);
    for model in models.iter().filter(|model| model.adapted.is_none()) {
        if let Kind::Chat(chat) = &model.kind {
            let engine = chat.queue.statistics();
            (running, waiting) = (running + engine.running, waiting + engine.waiting);
        }
    }
    let mut body = json!({"status": "ok", "model": names.first(), "models": names, "running": running, "waiting": waiting});
    let standings = shared.models.standings();
    let failed = standings
        .iter()
        .filter_map(|standing| Some(json!({"model": standing.name, "reason": standing.reason.as_ref()?})));
    let failed: Vec<Value> = failed.collect();
    if !failed.is_empty() {
        body["failed"] = json!(failed);
    }
    json_response(&body)
}

async fn metrics(State(shared): Here) -> Response {
    let text = shared.metrics.text(&shared.models);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn openapi() -> Response {
    json_response(&crate::api::openapi())
}

async fn models(State(shared): Here) -> Response {
    let data: Vec<Value> = shared.models.all().iter().map(|model| model_json(model)).collect();
    let ends = |model: Option<&Value>| model.map(|model| model["id"].clone());
    // Anthropic's clients read the last three.
    json_response(&json!({
        "object": "list", "first_id": ends(data.first()), "last_id": ends(data.last()), "has_more": false, "data": data,
    }))
}

async fn model(State(shared): Here, Path(wanted): Path<String>) -> Answered {
    let model = shared.models.find(Some(&wanted))?;
    Ok(json_response(&model_json(&model)))
}

pub(crate) fn model_json(model: &Served) -> Value {
    let mut entry = json!({
        "id": model.name,
        "object": "model",
        "type": "model",
        "display_name": model.name,
        "created": model.created,
        "created_at": crate::ids::rfc3339(model.created),
        "owned_by": "taoye",
        "max_model_len": model.context_tokens,
        "kind": if matches!(model.kind, Kind::Chat(_)) { "chat" } else { "encoder" },
    });
    if let Some(adapted) = &model.adapted {
        // As vLLM lists adapters.
        entry["parent"] = json!(adapted.parent);
        entry["root"] = json!(adapted.folder);
    }
    entry
}

async fn chat_completions(State(shared): Here, headers: HeaderMap, body: Body) -> Answered {
    let (model, fields, length) = read(&shared, body).await?;
    let chat = model.chat()?;
    let call = ChatCall::read(fields, &chat.codec)?;
    let shape = ChatShape::new(&model.name, &call.conversation);
    let prompt = encode(chat, &call.conversation, length, "messages").await?;
    let conversation = held(chat, call.conversation, &call.tools, prompt.in_reasoning).await?;
    answer(&shared, (&model, chat, &headers), conversation, prompt, shape).await
}

async fn responses(State(shared): Here, headers: HeaderMap, body: Body) -> Answered {
    let (model, fields, length) = read(&shared, body).await?;
    let chat = model.chat()?;
    let call = ResponsesCall::read(fields, &chat.codec)?;
    let shape = ResponsesShape::new(&model.name, &call);
    let prompt = encode(chat, &call.conversation, length, "input").await?;
    let conversation = held(chat, call.conversation, &call.tools, prompt.in_reasoning).await?;
    answer(&shared, (&model, chat, &headers), conversation, prompt, shape)
        .await
        .map_err(|error| error.with_param("messages", "input"))
}

async fn messages(State(shared): Here, headers: HeaderMap, body: Body) -> Answered {
    let (model, fields, length) = read(&shared, body).await?;
    let chat = model.chat()?;
    let call = MessagesCall::read(fields, &chat.codec)?;
    let prompt = encode(chat, &call.conversation, length, "messages").await?;
    let shape = MessagesShape::new(&model.name, &call, prompt.ids.len());
    let conversation = held(chat, call.conversation, &call.tools, prompt.in_reasoning).await?;
    answer(&shared, (&model, chat, &headers), conversation, prompt, shape).await
}

async fn count_tokens(State(shared): Here, body: Body) -> Answered {
    let (model, fields, length) = read(&shared, body).await?;
    let chat = model.chat()?;
    let call = MessagesCall::read_count(fields, chat.codec.format())?;
    let prompt = encode(chat, &call.conversation, length, "messages").await?;
    Ok(json_response(&json!({"input_tokens": prompt.ids.len()})))
}

async fn completions(State(shared): Here, headers: HeaderMap, body: Body) -> Answered {
    let (model, fields, _) = read(&shared, body).await?;
    let chat = model.chat()?;
    let call = CompletionCall::read(fields, &chat.codec)?;
    let shape = CompletionShape::new(&model.name, &call);
    let CompletionCall { mut requests, wanted, choices, streaming } = call;
    if let Some(wanted) = wanted {
        let constraint = constrained(chat, wanted).await?;
        requests.iter_mut().for_each(|request| request.options.constraint = Some(constraint.clone()));
    }
    requests.iter_mut().for_each(|request| request.options.adapter = model.adapter());
    let total = requests.len() * choices;
    let events = chat.queue.ask(Work::Completion(requests, choices))?;
    let progress = Progress::new(events, total, None, Arc::clone(&shared.metrics));
    let progress = progress.with_span(span(&shared, "text_completion", &model.name, &headers));
    if streaming.stream { streamed(shape, progress).await } else { whole(shape, progress).await }
}

async fn tokenize(State(shared): Here, body: Body) -> Answered {
    let (model, fields, length) = read(&shared, body).await?;
    let (ids, token_strs) = match TokenizeCall::read(fields)? {
        TokenizeCall::Text { text, add_special_tokens, token_strs } => {
            let tokenizer = model.tokenizer();
            let ids = match add_special_tokens {
                true => crate::vectors::whole_ids(tokenizer, &text),
                false => tokenizer.encode(&text),
            };
            (ids, token_strs)
        }
        TokenizeCall::Chat { messages, template, token_strs } => {
            let conversation = Conversation { messages, template, ..Conversation::default() };
            (encode(model.chat()?, &conversation, length, "messages").await?.ids, token_strs)
        }
    };
    let text = |id: &u32| {
        let tokenizer = model.tokenizer();
        String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into_owned()
    };
    let token_strs = token_strs.then(|| ids.iter().map(text).collect::<Vec<_>>());
    Ok(json_response(&json!({
        "count": ids.len(), "max_model_len": model.context_tokens, "tokens": ids, "token_strs": token_strs,
    })))
}

async fn detokenize(State(shared): Here, body: Body) -> Answered {
    let (model, fields, _) = read(&shared, body).await?;
    let ids = read_detokenize(fields)?;
    Ok(json_response(&json!({"prompt": model.tokenizer().decode(&ids)})))
}

/// Has a conversation answered, whole or in pieces.
async fn answer(
    shared: &Shared,
    (model, chat, headers): (&Served, &ChatModel, &HeaderMap),
    conversation: Conversation,
    prompt: ChatPrompt,
    shape: impl Shape,
) -> Answered {
    let Conversation { template, mut options, choices, streaming, .. } = conversation;
    options.adapter = model.adapter();
    let format = chat.codec.format();
    let parser = AnswerParser::new(format, &template.tools, prompt.in_reasoning);
    // With tools, whatever holds the answer holds its calls too.
    let parser = if options.constraint.is_some() { parser.with_certain_calls() } else { parser };
    let events = chat.queue.ask(Work::Chat(prompt.ids, Box::new(options), choices))?;
    let progress = Progress::new(events, choices, Some(parser), Arc::clone(&shared.metrics));
    let progress = progress.with_short_ids(format.family() == "mistral").with_span(span(
        shared,
        "chat",
        &model.name,
        headers,
    ));
    if streaming.stream { streamed(shape, progress).await } else { whole(shape, progress).await }
}

/// A span of an operation, where spans are wanted.
pub(crate) fn span(
    shared: &Shared,
    operation: &'static str,
    model: &str,
    headers: &HeaderMap,
) -> Option<Span> {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    Some(shared.exporter.as_ref()?.begin(operation, model, parent))
}

/// The conversation as ids.
async fn encode(
    chat: &ChatModel,
    conversation: &Conversation,
    length: usize,
    input: &str,
) -> Result<ChatPrompt, ApiError> {
    let refuse = |error: chat::Error| ApiError::from_chat(&error, input);
    if length < LONG_BYTES {
        return chat.codec.encode(&conversation.messages, &conversation.template).map_err(refuse);
    }
    let (codec, messages, template): (Arc<Codec>, _, TemplateOptions) =
        (Arc::clone(&chat.codec), conversation.messages.clone(), conversation.template.clone());
    let encoded = tokio::task::spawn_blocking(move || codec.encode(&messages, &template)).await;
    encoded
        .map_err(|_| ApiError::internal("The conversation could not be turned into tokens."))?
        .map_err(refuse)
}

/// The model that a body asks for, its other fields, and its length.
pub(crate) async fn read(shared: &Shared, body: Body) -> Result<(Arc<Served>, Fields, usize), ApiError> {
    let body = read_body(body, shared.body_bytes_max).await?;
    let mut fields = Fields::parse(&body)?;
    let wanted = fields.string("model")?;
    Ok((shared.models.find(wanted.as_deref())?, fields, body.len()))
}

/// The fields of a body that is for no model.
pub(crate) async fn read_fields(shared: &Shared, body: Body) -> Result<Fields, ApiError> {
    Fields::parse(&read_body(body, shared.body_bytes_max).await?)
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let reading = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, bytes_max));
    let Ok(read) = reading.await else {
        let message = format!("The body did not come within {} s.", BODY_TIME.as_secs());
        return Err(ApiError::invalid(None, message).with_status(408).with_code("request_timeout"));
    };
    read.map_err(|error| {
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
