//! Refusals as OpenAI's clients read them. Knows no transport beyond the status number.

use serde_json::{Value, json};

/// An answer with an error, in OpenAI's format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub status: u16,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    /// A request that can never be answered: 400.
    pub fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        let param = param.map(str::to_owned);
        Self { status: 400, kind: "invalid_request_error", message: message.into(), param, code: None }
    }

    /// A model that is not here: 404.
    pub fn unknown_model(wanted: &str, here: &str) -> Self {
        let message = format!("The model '{wanted}' does not exist; this server has '{here}'.");
        Self { status: 404, ..Self::invalid(Some("model"), message) }.with_code("model_not_found")
    }

    /// More waiting requests than the queue holds: 429, which clients try again later.
    pub fn overloaded(waiting_max: usize) -> Self {
        let message = format!("All {waiting_max} places in the queue are taken; try again in a moment.");
        Self { status: 429, kind: "rate_limit_error", message, param: None, code: Some("queue_full") }
    }

    /// The server is ending: 503.
    pub fn closing() -> Self {
        let message = "The server is shutting down.".to_owned();
        Self { status: 503, kind: "server_error", message, param: None, code: Some("shutting_down") }
    }

    /// A failure that is not the request's fault: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, kind: "server_error", message: message.into(), param: None, code: None }
    }

    /// What the model refused or failed at; `input` names the field that held the text.
    pub fn from_chat(error: &chat::Error, input: &str) -> Self {
        use engine::Error as Engine;
        let message = sentence(&error.to_string());
        match error {
            chat::Error::ContextLength { .. } => {
                Self::invalid(Some(input), message).with_code("context_length_exceeded")
            }
            chat::Error::Parameter { name, .. } => {
                Self::invalid(Some(name), message).with_code("invalid_value")
            }
            chat::Error::Conversation(_) => Self::invalid(Some(input), message),
            chat::Error::Engine(Engine::UnknownId { .. } | Engine::EmptyPrompt) => {
                Self::invalid(Some(input), message)
            }
            chat::Error::Engine(Engine::OutOfPages { .. }) => {
                Self::internal(message).with_status(503).with_code("cache_full")
            }
            _ => Self::internal(message),
        }
    }

    /// Another status than the constructor's.
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// A code for programs.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body.
    pub fn to_json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

/// The same text with a capital at the beginning and a full stop at the end, as the other messages have.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
