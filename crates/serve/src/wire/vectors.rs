//! `POST /v1/embeddings`, `/v1/rerank`, `/tokenize` and `/detokenize`: their requests. Knows no transport.

use ::chat::{Message, TemplateOptions};
use serde_json::Value;

use super::{ApiError, Fields, wrong_type};

/// The most texts of one request, as in OpenAI's interface.
const TEXTS_MAX: usize = 2048;

/// What vectors or ids are to be made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    Text(String),
    Ids(Vec<u32>),
}

/// A request for vectors.
#[derive(Debug)]
pub(crate) struct EmbeddingsCall {
    pub inputs: Vec<Input>,
    /// As base64 of little-endian f32, which OpenAI's clients ask for.
    pub base64: bool,
}

impl EmbeddingsCall {
    /// Reads all fields but `model`; `width` is that of the model's vectors.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields, width: usize) -> Result<Self, ApiError> {
        let inputs = read_inputs("input", fields.required("input")?)?;
        let base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message =
                    format!("Invalid 'encoding_format': '{other}' is neither 'float' nor 'base64'.");
                return Err(ApiError::invalid(Some("encoding_format"), message).with_code("invalid_value"));
            }
        };
        if let Some(wanted) = fields.integer("dimensions", 1, i64::MAX)?
            && wanted as usize != width
        {
            let message =
                format!("'dimensions' is not supported: this model's vectors have {width}; leave it out.");
            return Err(ApiError::invalid(Some("dimensions"), message).with_code("unsupported_parameter"));
        }
        fields.refuse("/v1/embeddings")?;
        fields.finish()?;
        Ok(Self { inputs, base64 })
    }
}

/// A request to order documents by their likeness to a query.
#[derive(Debug)]
pub(crate) struct RerankCall {
    pub query: String,
    pub documents: Vec<String>,
    pub top: usize,
    pub return_documents: bool,
}

impl RerankCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let query = match fields.required("query")? {
            Value::String(query) => query,
            other => return Err(wrong_type("query", "a string", &other)),
        };
        let documents = match fields.required("documents")? {
            Value::Array(documents) => documents,
            other => return Err(wrong_type("documents", "an array of strings", &other)),
        };
        check_count("documents", documents.len())?;
        let text = |document: Value| match document {
            Value::String(text) => Ok(text),
            Value::Object(fields) if fields.get("text").is_some_and(Value::is_string) => {
                Ok(fields["text"].as_str().unwrap_or_default().to_owned())
            }
            other => Err(wrong_type("documents", "an array of strings", &other)),
        };
        let documents = documents.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let top = fields.integer("top_n", 1, i64::MAX)?.map_or(documents.len(), |top| top as usize);
        let return_documents = fields.flag_or("return_documents", true)?;
        fields.refuse("/v1/rerank")?;
        fields.finish()?;
        Ok(Self { query, documents, top, return_documents })
    }
}

/// A request for ids.
#[derive(Debug)]
pub(crate) enum TokenizeCall {
    Text { text: String, add_special_tokens: bool, token_strs: bool },
    Chat { messages: Vec<Message>, template: TemplateOptions, token_strs: bool },
}

impl TokenizeCall {
    /// Reads all fields but `model`.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let token_strs = fields.flag("return_token_strs")?;
        let add_special_tokens = fields.flag_or("add_special_tokens", true)?;
        let call = match (fields.string("prompt")?, fields.take("messages")) {
            (Some(text), None) => Self::Text { text, add_special_tokens, token_strs },
            (None, Some(messages)) => {
                let messages = super::conversation::read_messages(messages)?;
                let mut template = super::read_template(&mut fields)?;
                template.tools = super::tools::read_tools(&mut fields, super::tools::Style::Chat)?;
                Self::Chat { messages, template, token_strs }
            }
            _ => return Err(ApiError::invalid(Some("prompt"), "Give either 'prompt' or 'messages'.")),
        };
        fields.refuse("/tokenize")?;
        fields.finish()?;
        Ok(call)
    }
}

/// The ids of a request to `/detokenize`.
///
/// # Errors
/// A refusal that names the field.
pub(crate) fn read_detokenize(mut fields: Fields) -> Result<Vec<u32>, ApiError> {
    let ids = match fields.required("tokens")? {
        Value::Array(ids) => read_ids("tokens", &ids)?,
        other => return Err(wrong_type("tokens", "an array of token ids", &other)),
    };
    fields.refuse("/detokenize")?;
    fields.finish()?;
    Ok(ids)
}

fn read_inputs(name: &str, value: Value) -> Result<Vec<Input>, ApiError> {
    let wanted = "a string, an array of strings, an array of token ids or an array of arrays of token ids";
    let items = match value {
        Value::String(text) => return Ok(vec![Input::Text(text)]),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            return Ok(vec![Input::Ids(read_ids(name, &items)?)]);
        }
        Value::Array(items) => items,
        other => return Err(wrong_type(name, wanted, &other)),
    };
    check_count(name, items.len())?;
    let input = |item: Value| match item {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(ids) => Ok(Input::Ids(read_ids(name, &ids)?)),
        other => Err(wrong_type(name, wanted, &other)),
    };
    items.into_iter().map(input).collect()
}

fn check_count(name: &str, count: usize) -> Result<(), ApiError> {
    if (1..=TEXTS_MAX).contains(&count) {
        return Ok(());
    }
    let message = format!("Invalid '{name}': {count} texts; between 1 and {TEXTS_MAX} are possible.");
    Err(ApiError::invalid(Some(name), message))
}

/// Ids of tokens.
///
/// # Errors
/// Where one is no id.
pub(crate) fn read_ids(name: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |item: &Value| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            ApiError::invalid(Some(name), format!("Invalid '{name}': {item} is not a token id."))
        })
    };
    items.iter().map(id).collect()
}
