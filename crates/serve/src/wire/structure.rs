//! What an answer must look like, as each interface asks for it. Knows no endpoint's other fields.

use ::chat::Structure;
use serde_json::{Map, Value};

use super::{ApiError, Fields, wrong_type};

/// The most texts to choose from.
const CHOICES_MAX: usize = 1024;

/// A structure and the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub field: String,
    pub structure: Structure,
}

impl Wanted {
    fn new(field: impl Into<String>, structure: Structure) -> Self {
        Self { field: field.into(), structure }
    }
}

type Read = Result<Option<Wanted>, ApiError>;

/// `response_format`, vLLM's `structured_outputs`, and its older `guided_json`, `guided_regex`, `guided_choice` and
/// `guided_grammar`.
pub(crate) fn read_structure(fields: &mut Fields) -> Read {
    let mut wanted = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        wanted.extend(read_format("response_format", format, Nesting::JsonSchema)?);
    }
    if let Some(outputs) = fields.object("structured_outputs")? {
        wanted.push(read_outputs(outputs)?);
    }
    for kind in ["json", "regex", "choice", "grammar"] {
        let name = format!("guided_{kind}");
        if let Some(value) = fields.take(&name) {
            wanted.push(read_output(name, kind, value)?);
        }
    }
    match <[Wanted; 2]>::try_from(wanted) {
        Ok([first, second]) => Err(both(&first.field, &second.field)),
        Err(wanted) if wanted.len() > 2 => Err(both(&wanted[0].field, &wanted[1].field)),
        Err(mut wanted) => Ok(wanted.pop()),
    }
}

fn both(first: &str, second: &str) -> ApiError {
    let message = format!("'{first}' and '{second}' cannot both be given: an answer has one structure.");
    ApiError::invalid(Some(second), message)
}

/// `text` of the responses interface: `{"format": …}`.
pub(crate) fn read_text(fields: &mut Fields) -> Read {
    let Some(text) = fields.object("text")? else { return Ok(None) };
    let mut text = Fields::from(text);
    let format = text.object("format").map_err(|error| error.within("text"))?;
    if let Some(verbosity) = text.string("verbosity").map_err(|error| error.within("text"))?
        && verbosity != "medium"
    {
        let message =
            "'text.verbosity' is not supported by this server; leave it out or set it to \"medium\".";
        return Err(ApiError::invalid(Some("text.verbosity"), message).with_code("unsupported_parameter"));
    }
    text.finish().map_err(|error| error.within("text"))?;
    format.map_or(Ok(None), |format| read_format("text.format", format, Nesting::Flat))
}

/// `output_config` of Anthropic's interface, `{"format": …, "effort": …}`, whose effort goes to `variables`; and its older
/// `output_format`.
pub(crate) fn read_output_config(fields: &mut Fields, variables: &mut Map<String, Value>) -> Read {
    let old = match fields.object("output_format")? {
        Some(format) => read_format("output_format", format, Nesting::Flat)?,
        None => None,
    };
    let Some(config) = fields.object("output_config")? else { return Ok(old) };
    let mut config = Fields::from(config);
    if let Some(effort) = config.string("effort").map_err(|error| error.within("output_config"))? {
        let effort = if effort == "max" { "xhigh".to_owned() } else { effort };
        super::set_effort(&effort, "output_config.effort", variables)?;
    }
    let format = config.object("format").map_err(|error| error.within("output_config"))?;
    config.finish().map_err(|error| error.within("output_config"))?;
    let new = match format {
        Some(format) => read_format("output_config.format", format, Nesting::Flat)?,
        None => None,
    };
    match (old, new) {
        (Some(old), Some(new)) => Err(both(&old.field, &new.field)),
        (old, new) => Ok(new.or(old)),
    }
}

/// Where a format has its schema.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    /// In `json_schema`.
    JsonSchema,
    /// In itself.
    Flat,
}

fn read_format(place: &str, format: Map<String, Value>, nesting: Nesting) -> Read {
    let mut format = Fields::from(format);
    let kind = format.take("type");
    let wanted = match kind.as_ref().and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => Some(Wanted::new(place, Structure::JsonObject)),
        Some("json_schema") => {
            let at = format!("{place}.json_schema");
            let schema = match (nesting, format.take("json_schema")) {
                (Nesting::Flat, None) => read_schema(&mut format, place)?,
                (Nesting::Flat, Some(_)) => return Err(unknown(&at)),
                (Nesting::JsonSchema, Some(Value::Object(holder))) => read_schema(&mut holder.into(), &at)?,
                (Nesting::JsonSchema, other) => {
                    return Err(wrong_type(&at, "an object", &other.unwrap_or_default()));
                }
            };
            Some(Wanted::new(place, Structure::JsonSchema(schema)))
        }
        _ => {
            let name = format!("{place}.type");
            let message = format!("'{name}' is none of 'text', 'json_object' and 'json_schema'.");
            return Err(ApiError::invalid(Some(&name), message).with_code("invalid_value"));
        }
    };
    format.finish().map_err(|error| error.within(place))?;
    Ok(wanted)
}

fn unknown(field: &str) -> ApiError {
    let message = format!("Unrecognized request argument supplied: '{field}'.");
    ApiError::invalid(Some(field), message).with_code("unknown_parameter")
}

/// `schema` with its name and description, which say nothing of the answer; whether it is `strict` makes no difference, since all
/// are.
fn read_schema(holder: &mut Fields, place: &str) -> Result<Value, ApiError> {
    for name in ["name", "description"] {
        holder.string(name).map_err(|error| error.within(place))?;
    }
    holder.flag("strict").map_err(|error| error.within(place))?;
    let schema = match holder.take("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(true))) => schema,
        other => return Err(wrong_type(&format!("{place}.schema"), "an object", &other.unwrap_or_default())),
    };
    holder.nothing_left().map_err(|error| error.within(place))?;
    Ok(schema)
}

/// One of `json`, `json_object`, `regex`, `choice` and `grammar`.
fn read_outputs(outputs: Map<String, Value>) -> Result<Wanted, ApiError> {
    let place = "structured_outputs";
    let asks = |value: &Value| !value.is_null() && *value != Value::Bool(false);
    let given: Vec<(String, Value)> = outputs.into_iter().filter(|(_, value)| asks(value)).collect();
    let [(name, value)] = <[_; 1]>::try_from(given).map_err(|_| {
        let message =
            "'structured_outputs' holds just one of 'json', 'json_object', 'regex', 'choice' and 'grammar'.";
        ApiError::invalid(Some(place), message)
    })?;
    read_output(format!("{place}.{name}"), &name, value)
}

fn read_output(field: String, kind: &str, value: Value) -> Result<Wanted, ApiError> {
    let structure = match (kind, value) {
        ("json", Value::String(text)) => match serde_json::from_str(&text) {
            Ok(schema) => Structure::JsonSchema(schema),
            Err(error) => {
                return Err(ApiError::invalid(Some(&field), format!("'{field}' is not JSON: {error}.")));
            }
        },
        ("json", schema) => Structure::JsonSchema(schema),
        ("json_object", Value::Bool(true)) => Structure::JsonObject,
        ("regex", Value::String(pattern)) => Structure::Regex(pattern),
        ("grammar", Value::String(grammar)) => Structure::Lark(grammar),
        ("choice", Value::Array(choices)) if (1..=CHOICES_MAX).contains(&choices.len()) => {
            Structure::Choice(super::read_texts(&field, Value::Array(choices))?)
        }
        ("choice", Value::Array(choices)) => {
            let message = format!(
                "Invalid '{field}': {} texts; between 1 and {CHOICES_MAX} are possible.",
                choices.len()
            );
            return Err(ApiError::invalid(Some(&field), message).with_code("invalid_value"));
        }
        ("regex" | "grammar", other) => return Err(wrong_type(&field, "a string", &other)),
        ("choice", other) => return Err(wrong_type(&field, "an array of strings", &other)),
        ("json_object", other) => return Err(wrong_type(&field, "a boolean", &other)),
        _ => {
            let message = format!("'{field}' is not supported by this server.");
            return Err(ApiError::invalid(Some(&field), message).with_code("unsupported_parameter"));
        }
    };
    Ok(Wanted::new(field, structure))
}
