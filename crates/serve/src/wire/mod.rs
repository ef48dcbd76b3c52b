//! The wire types: OpenAI's and Anthropic's requests read field by field, and their answers written. Knows neither HTTP nor the
//! queue.

mod chat;
mod completion;
mod conversation;
mod error;
mod fields;
mod messages;
mod messages_answer;
mod responses;
mod responses_answer;
mod structure;
mod tools;
mod vectors;

pub(crate) use chat::{ChatCall, ChatShape};
pub(crate) use completion::{CompletionCall, CompletionShape};
pub(crate) use error::ApiError;
pub(crate) use fields::{Fields, wrong_type};
pub(crate) use messages::MessagesCall;
pub(crate) use messages_answer::MessagesShape;
pub(crate) use responses::ResponsesCall;
pub(crate) use responses_answer::ResponsesShape;
pub(crate) use structure::Wanted;
pub(crate) use tools::Tools;
pub(crate) use vectors::{EmbeddingsCall, Input, RerankCall, TokenizeCall, read_detokenize};

use ::chat::format::AnswerFormat;
use ::chat::{AnswerOptions, Codec, Dry, FinishReason, Message, Sampling, TemplateOptions, Usage};
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::Sse;
use crate::progress::Progress;

/// The most stop strings of a request.
const STOPS_MAX: usize = 4;
/// The most probable tokens that a request may ask for at each position.
const TOP_LOGPROBS_MAX: i64 = 20;
/// The highest temperature, as in OpenAI's interface.
const TEMPERATURE_MAX: f64 = 2.0;
/// The most answers to one request.
const CHOICES_MAX: i64 = 128;

/// A conversation to answer, whatever interface it came by.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    pub messages: Vec<Message>,
    /// The tools that may be called and what else the template is to know.
    pub template: TemplateOptions,
    pub options: AnswerOptions,
    /// What the answer must look like.
    pub wanted: Option<Wanted>,
    pub choices: usize,
    pub streaming: Streaming,
}

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
        let Some(options) = fields.object("stream_options")? else {
            return Ok(Self { stream, include_usage: false });
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

/// The settings that all endpoints share, but for the number of tokens, stop strings and log-probabilities.
fn read_sampling(fields: &mut Fields, codec: &Codec) -> Result<AnswerOptions, ApiError> {
    let temperature = fields.number("temperature", 0.0, TEMPERATURE_MAX)?.unwrap_or(1.0) as f32;
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0) as f32;
    let top_k = fields.integer("top_k", -1, i64::MAX)?.unwrap_or(0).max(0) as usize;
    // Without a seed every answer is to be another one.
    let seed =
        fields.integer("seed", i64::MIN, i64::MAX)?.map_or_else(crate::ids::fresh_seed, |seed| seed as u64);
    // A mass of zero still leaves the most probable token.
    let top_p = top_p.max(f32::MIN_POSITIVE);
    let number = |fields: &mut Fields, name, lowest, highest, default: f64| {
        Ok::<f32, ApiError>(fields.number(name, lowest, highest)?.unwrap_or(default) as f32)
    };
    let sampling = Sampling {
        temperature,
        top_k,
        top_p,
        seed,
        min_p: number(fields, "min_p", 0.0, 1.0, 0.0)?,
        typical_p: number(fields, "typical_p", 0.0, 1.0, 1.0)?.max(f32::MIN_POSITIVE),
        repetition_penalty: number(fields, "repetition_penalty", 0.01, 10.0, 1.0)?,
        presence_penalty: number(fields, "presence_penalty", -2.0, 2.0, 0.0)?,
        frequency_penalty: number(fields, "frequency_penalty", -2.0, 2.0, 0.0)?,
        logit_bias: read_bias(fields)?,
        dry: read_dry(fields, codec)?,
    };
    let ignore_end = fields.flag("ignore_eos")?;
    let stop_ids = match fields.take("stop_token_ids") {
        None => Vec::new(),
        Some(Value::Array(ids)) => vectors::read_ids("stop_token_ids", &ids)?,
        Some(other) => return Err(wrong_type("stop_token_ids", "an array of token ids", &other)),
    };
    Ok(AnswerOptions { sampling, ignore_end, stop_ids, ..AnswerOptions::default() })
}

/// A piece of a stream of OpenAI's older interfaces, or a whole answer of the same fields.
#[derive(Serialize)]
struct Frame<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: C,
    /// `null` in all pieces but the last where the usage is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

/// Ends a stream of OpenAI's older interfaces; the usage goes into a last piece where one is wanted.
fn close_stream(last: Option<Frame<'_, [(); 0]>>, progress: &Progress, out: &mut Sse) {
    if let Some(piece) = last {
        out.data(&Frame { usage: Some(usage_json(progress.usage())), ..piece });
    }
    out.done();
}

/// `{"id": bias}` with biases from -100 to 100.
fn read_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let entry = |(id, bias): (String, Value)| {
        let known = id.parse::<u32>().ok().zip(bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)));
        known.map(|(id, bias)| (id, bias as f32)).ok_or_else(|| {
            let message = format!(
                "Invalid 'logit_bias': {id:?}: {bias} is no token id with a number from -100 to 100."
            );
            ApiError::invalid(Some("logit_bias"), message).with_code("invalid_value")
        })
    };
    fields.object("logit_bias")?.unwrap_or_default().into_iter().map(entry).collect()
}

/// llama.cpp's names of what keeps sequences from being repeated, and its values where they are left out.
fn read_dry(fields: &mut Fields, codec: &Codec) -> Result<Option<Dry>, ApiError> {
    let multiplier = fields.number("dry_multiplier", 0.0, 100.0)?.unwrap_or(0.0) as f32;
    let base = fields.number("dry_base", 1.0, 10.0)?.unwrap_or(1.75) as f32;
    let allowed_length = fields.integer("dry_allowed_length", 1, 1 << 20)?.unwrap_or(2) as usize;
    let last_n = fields.integer("dry_penalty_last_n", -1, 1 << 20)?.unwrap_or(-1).max(0) as usize;
    let breakers = fields.take("dry_sequence_breakers");
    let breakers = breakers.map(|value| read_texts("dry_sequence_breakers", value)).transpose()?;
    if multiplier == 0.0 {
        return Ok(None);
    }
    let breakers = codec.breaker_ids(breakers.as_deref()).map_err(|error| ApiError::from_chat(&error, ""))?;
    Ok(Some(Dry { multiplier, base, allowed_length, last_n, breakers }))
}

/// A list of strings.
fn read_texts(name: &str, value: Value) -> Result<Vec<String>, ApiError> {
    let texts = match &value {
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    texts.ok_or_else(|| wrong_type(name, "an array of strings", &value))
}

fn read_stop(fields: &mut Fields, name: &'static str) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) => stops,
        Some(single) => vec![single],
    };
    if stops.len() > STOPS_MAX {
        let message =
            format!("Invalid '{name}': {} stop strings, but at most {STOPS_MAX} are possible.", stops.len());
        return Err(ApiError::invalid(Some(name), message));
    }
    let text = |stop: Value| match stop {
        Value::String(text) if text.is_empty() => {
            Err(ApiError::invalid(Some(name), format!("Invalid '{name}': a stop string must not be empty.")))
        }
        Value::String(text) => Ok(text),
        other => Err(fields::wrong_type(name, "a string or an array of strings", &other)),
    };
    stops.into_iter().map(text).collect()
}

/// Variables for the template: those of `chat_template_kwargs`, and the effort of reasoning.
fn read_template(fields: &mut Fields) -> Result<TemplateOptions, ApiError> {
    let mut variables = fields.object("chat_template_kwargs")?.unwrap_or_default();
    let reserved = ["messages", "tools", "add_generation_prompt"];
    if let Some(name) =
        variables.keys().find(|name| reserved.contains(&name.as_str()) || name.starts_with("__"))
    {
        let message = format!("'chat_template_kwargs' may not set '{name}', which the request itself says.");
        return Err(ApiError::invalid(Some("chat_template_kwargs"), message));
    }
    if let Some(effort) = fields.string("reasoning_effort")? {
        set_effort(&effort, "reasoning_effort", &mut variables)?;
    }
    Ok(TemplateOptions { tools: Vec::new(), variables })
}

/// What templates are told of the effort of reasoning: gpt-oss and others take the word, Qwen and GLM whether to think at all.
fn set_effort(
    effort: &str,
    name: &str,
    variables: &mut serde_json::Map<String, Value>,
) -> Result<(), ApiError> {
    let known = ["none", "minimal", "low", "medium", "high", "xhigh"];
    if !known.contains(&effort) {
        let message = format!("Invalid '{name}': '{effort}' is none of {}.", known.join(", "));
        return Err(ApiError::invalid(Some(name), message).with_code("invalid_value"));
    }
    variables.entry("enable_thinking").or_insert(json!(effort != "none"));
    if effort != "none" {
        variables.entry("reasoning_effort").or_insert(json!(effort));
    }
    Ok(())
}

/// # Errors
/// Where a conversation holds calls that the model's template would leave out.
fn check_calls(messages: &[Message], format: &AnswerFormat, name: &str) -> Result<(), ApiError> {
    let calls = messages.iter().any(|message| !message.tool_calls.is_empty());
    if calls && !format.takes_tools() {
        let message = "The conversation holds tool calls, but this model's chat template knows none.";
        return Err(ApiError::invalid(Some(name), message).with_code("unsupported_parameter"));
    }
    Ok(())
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    })
}

fn finish_json(finish: FinishReason) -> &'static str {
    match finish {
        // Nobody receives a cancelled answer, unless the server ends: then it is cut short.
        FinishReason::Length | FinishReason::Cancelled => "length",
        FinishReason::Stop => "stop",
    }
}
