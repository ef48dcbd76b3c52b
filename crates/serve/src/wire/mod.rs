//! The wire types: OpenAI's requests read field by field, and its answers written. Knows neither HTTP nor the
//! queue.

mod chat;
mod completion;
mod error;
mod fields;

pub(crate) use chat::{ChatCall, ChatShape};
pub(crate) use completion::{CompletionCall, CompletionShape, total};
pub(crate) use error::ApiError;
pub(crate) use fields::Fields;

use ::chat::{AnswerOptions, FinishReason, Sampling, Usage};
use serde_json::{Value, json};

/// The most stop strings of a request, as in OpenAI's interface.
const STOPS_MAX: usize = 4;
/// The most probable tokens that a request may ask for at each position.
const TOP_LOGPROBS_MAX: i64 = 20;
/// The highest temperature, as in OpenAI's interface.
const TEMPERATURE_MAX: f64 = 2.0;

/// How an answer is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// In pieces, as server-sent events.
    pub stream: bool,
    /// With a last piece that holds the usage.
    pub include_usage: bool,
}

impl Streaming {
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?;
        let Some(options) = fields.take("stream_options") else {
            return Ok(Self { stream, include_usage: false });
        };
        let Value::Object(options) = options else {
            return Err(fields::wrong_type("stream_options", "an object", &options));
        };
        if !stream {
            let message = "'stream_options' is only possible where 'stream' is true.";
            return Err(ApiError::invalid(Some("stream_options"), message));
        }
        let mut options = Fields::from(options);
        let include_usage = options.flag("include_usage")?;
        options.flag("include_obfuscation")?;
        options.finish()?;
        Ok(Self { stream, include_usage })
    }
}

/// The model's name, which may be left out, since there is only one.
fn read_model(fields: &mut Fields, here: &str) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(wanted) if wanted != here => Err(ApiError::unknown_model(&wanted, here)),
        _ => Ok(()),
    }
}

/// The settings that both endpoints share, but for the number of tokens and the log-probabilities.
fn read_options(fields: &mut Fields) -> Result<AnswerOptions, ApiError> {
    let temperature = fields.number("temperature", 0.0, TEMPERATURE_MAX)?.unwrap_or(1.0) as f32;
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0) as f32;
    let top_k = fields.integer("top_k", 0, i64::MAX)?.unwrap_or(0) as usize;
    // Without a seed every answer is to be another one.
    let seed =
        fields.integer("seed", i64::MIN, i64::MAX)?.map_or_else(crate::ids::fresh_seed, |seed| seed as u64);
    // A mass of zero still leaves the most probable token.
    let top_p = top_p.max(f32::MIN_POSITIVE);
    let sampling = Sampling { temperature, top_k, top_p, seed, ..Sampling::default() };
    Ok(AnswerOptions { sampling, stop: read_stop(fields)?, ..AnswerOptions::default() })
}

fn read_stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) => stops,
        Some(single) => vec![single],
    };
    if stops.len() > STOPS_MAX {
        let message =
            format!("Invalid 'stop': {} stop strings, but at most {STOPS_MAX} are possible.", stops.len());
        return Err(ApiError::invalid(Some("stop"), message));
    }
    let text = |stop: Value| match stop {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::invalid(Some("stop"), "Invalid 'stop': a stop string must not be empty."))
        }
        Value::String(text) => Ok(text),
        other => Err(fields::wrong_type("stop", "a string or an array of strings", &other)),
    };
    stops.into_iter().map(text).collect()
}

/// Fields that say something to OpenAI's servers and change nothing here; their types are checked.
fn read_ignored(fields: &mut Fields) -> Result<(), ApiError> {
    fields.string("user")?;
    fields.string("safety_identifier")?;
    match fields.take("metadata") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(other) => Err(fields::wrong_type("metadata", "an object", &other)),
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}

fn finish_json(finish: FinishReason) -> &'static str {
    match finish {
        // Nobody receives a cancelled answer, unless the server ends: then it is cut short.
        FinishReason::Length | FinishReason::Cancelled => "length",
        FinishReason::Stop => "stop",
    }
}
