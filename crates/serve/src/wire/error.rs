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
    retry_after: Option<u64>,
}

impl ApiError {
    /// A request that can never be answered: 400.
    pub fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        let param = param.map(str::to_owned);
        Self {
            status: 400,
            kind: "invalid_request_error",
            message: message.into(),
            param,
            code: None,
            retry_after: None,
        }
    }

    /// A model that is not here: 404.
    pub fn unknown_model(wanted: &str, here: &str) -> Self {
        let message = format!("The model '{wanted}' does not exist; this server has {here}.");
        Self { status: 404, ..Self::invalid(Some("model"), message) }.with_code("model_not_found")
    }

    /// More waiting requests than the queue holds: 429, which clients try again later.
    pub fn overloaded(waiting_max: usize) -> Self {
        let message = format!("All {waiting_max} places in the queue are taken; try again in a moment.");
        Self { retry_after: Some(1), ..Self::of(429, "rate_limit_error", message, "queue_full") }
    }

    /// More requests a minute than one client may make: 429.
    pub fn too_often(per_minute: u32, wait: std::time::Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil() as u64;
        let message = format!("More than {per_minute} requests a minute; try again in {seconds} s.");
        Self {
            retry_after: Some(seconds.max(1)),
            ..Self::of(429, "rate_limit_error", message, "rate_limit_exceeded")
        }
    }

    /// No key, or one that is not known: 401. What was given is shown by its first and last characters alone.
    pub fn key(given: Option<&str>) -> Self {
        let message = match given {
            None => {
                "You didn't provide an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
                    .to_owned()
            }
            Some(_) => "Incorrect API key provided.".to_owned(),
        };
        Self::of(401, "invalid_request_error", message, "invalid_api_key")
    }

    fn of(status: u16, kind: &'static str, message: String, code: &'static str) -> Self {
        Self { status, kind, message, param: None, code: Some(code), retry_after: None }
    }

    /// The server is ending: 503.
    pub fn closing() -> Self {
        Self::of(503, "server_error", "The server is shutting down.".to_owned(), "shutting_down")
    }

    /// A client that takes nothing of its answer: what is left of it is not kept.
    pub fn slow_reader() -> Self {
        let message = "The answer was ended, since too much of it waited to be read.".to_owned();
        Self::of(503, "server_error", message, "slow_reader")
    }

    /// A field that is needed here, and why.
    pub fn missing(name: &str, why: &str) -> Self {
        Self::invalid(Some(name), format!("Missing required parameter: '{name}'; {why}."))
            .with_code("missing_required_parameter")
    }

    /// A failure that is not the request's fault: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: None, ..Self::of(500, "server_error", message.into(), "") }
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
            chat::Error::Engine(Engine::UnknownAdapter { .. }) => {
                Self::invalid(Some("model"), message).with_status(404).with_code("model_not_found")
            }
            chat::Error::Engine(Engine::UnknownId { .. } | Engine::EmptyPrompt) => {
                Self::invalid(Some(input), message)
            }
            chat::Error::Engine(Engine::OutOfPages { .. }) => {
                Self::internal(message).with_status(503).with_code("cache_full")
            }
            _ => Self::internal(message),
        }
    }

    /// What an encoder refused or failed at.
    pub fn from_engine(error: &engine::Error, input: &str) -> Self {
        use engine::Error as Engine;
        let message = sentence(&error.to_string());
        match error {
            Engine::DocumentLength { .. } | Engine::ContextLength { .. } => {
                Self::invalid(Some(input), message).with_code("context_length_exceeded")
            }
            Engine::UnknownId { .. } | Engine::EmptyPrompt => Self::invalid(Some(input), message),
            _ => Self::internal(message),
        }
    }

    /// The code for programs.
    pub fn code(&self) -> Option<&'static str> {
        self.code
    }

    /// Seconds after which the client may try again.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The field that is wrong as one of an object.
    pub fn within(self, object: &str) -> Self {
        Self { param: self.param.map(|param| format!("{object}.{param}")), ..self }
    }

    /// The field that is wrong under another name.
    pub fn with_param(self, from: &str, to: &str) -> Self {
        match self.param.as_deref() == Some(from) {
            true => Self {
                param: Some(to.to_owned()),
                message: self.message.replace(&format!("'{from}'"), &format!("'{to}'")),
                ..self
            },
            false => self,
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

    /// The body in Anthropic's format.
    pub fn to_anthropic(&self) -> Value {
        let kind = match (self.status, self.code) {
            (_, Some("queue_full")) => "overloaded_error",
            (401, _) => "authentication_error",
            (403, _) => "permission_error",
            (404, _) => "not_found_error",
            (413, _) => "request_too_large",
            (429, _) => "rate_limit_error",
            (503, _) => "overloaded_error",
            (500.., _) => "api_error",
            _ => "invalid_request_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message}})
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
