//! What stands before every route: who may ask, how often, and from which web pages. Knows no route's work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::answer::refusal;
use crate::keys::ApiKeys;
use crate::limit::RateLimit;
use crate::routes::Shared;
use crate::wire::ApiError;

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

/// Who may ask.
#[derive(Default)]
pub(crate) struct Guard {
    /// Without keys everybody may.
    pub keys: Option<ApiKeys>,
    pub limit: Option<RateLimit>,
    /// Web origins whose pages may ask beside the server's own; `*` is all.
    pub origins: Vec<String>,
}

/// Checks a request and has it answered.
pub(crate) async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.uri().path().to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let route = shared.metrics.route(&path);
    let allowed = shared.guard.allow(&request);
    let mut response = match allowed {
        Err(error) => refusal(&path, error),
        Ok(()) if request.method() == Method::OPTIONS && origin.is_some() => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(()) => {
            let answered = next.run(request).await;
            // Routes and what reads bodies say errors in OpenAI's format; Anthropic's paths have another.
            match answered.extensions().get::<ApiError>() {
                Some(error) => refusal(&path, error.clone()),
                None => answered,
            }
        }
    };
    if let Some(origin) = origin {
        shared.guard.add_cors(&origin, response.headers_mut());
    }
    shared.metrics.answered(route, response.status().as_u16(), started.elapsed());
    response
}

impl Guard {
    fn allow(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        self.check_origin(headers)?;
        if request.method() == Method::OPTIONS || request.uri().path() == "/health" {
            return Ok(());
        }
        let client = match &self.keys {
            None => {
                request.extensions().get::<Peer>().map_or_else(String::new, |peer| peer.0.ip().to_string())
            }
            Some(keys) => {
                let key = key_of(headers).ok_or_else(|| ApiError::key(None))?;
                keys.name_of(key).ok_or_else(|| ApiError::key(Some(key)))?.to_owned()
            }
        };
        let Some(limit) = &self.limit else { return Ok(()) };
        limit.take(&client, Instant::now()).map_err(|wait| ApiError::too_often(limit.per_minute(), wait))
    }

    /// A page of another site must not ask a server that its reader alone can reach.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let text = origin.to_str().unwrap_or("?");
        let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let is_own = own.is_some_and(|host| text.split_once("://").is_some_and(|(_, place)| place == host));
        if is_own || self.knows(text) {
            return Ok(());
        }
        let message = format!(
            "Pages of '{text}' may not ask this server; start it with --cors-origin '{text}' if they may."
        );
        Err(ApiError::invalid(None, message).with_status(403).with_code("origin_not_allowed"))
    }

    fn knows(&self, origin: &str) -> bool {
        self.origins.iter().any(|known| known == "*" || known == origin)
    }

    fn add_cors(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        if !origin.to_str().is_ok_and(|origin| self.knows(origin)) {
            return;
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let fixed = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, x-api-key, anthropic-version, anthropic-beta",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// OpenAI's clients send `Authorization: Bearer`, Anthropic's `x-api-key`.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.split_once(' '));
    let bearer =
        bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    bearer.or_else(|| text("x-api-key"))
}
