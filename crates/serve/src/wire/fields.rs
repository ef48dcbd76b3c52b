//! Reading the fields of a request body one by one, so that each refusal names its field. Knows no endpoint.

use serde_json::{Map, Value};

use super::ApiError;
use crate::api::{self, Status};

/// The fields of a request that have not been read yet.
pub(crate) struct Fields {
    fields: Map<String, Value>,
}

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self { fields }
    }
}

impl Fields {
    /// # Errors
    /// Where the body is not one JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields }),
            Ok(other) => {
                Err(ApiError::invalid(None, format!("The body must be a JSON object, not {}.", kind(&other))))
            }
            Err(error) => Err(ApiError::invalid(None, format!("The body is not valid JSON: {error}."))),
        }
    }

    /// The value of a field; `null` counts as absent, as in OpenAI's interface.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    /// Gives a field back.
    pub fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    /// The value of a field that stays unread.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// # Errors
    /// Where the field is missing.
    pub fn required(&mut self, name: &'static str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| {
            ApiError::invalid(Some(name), format!("Missing required parameter: '{name}'."))
                .with_code("missing_required_parameter")
        })
    }

    /// # Errors
    /// Where the field is not a string.
    pub fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// A text that must be there and say something.
    ///
    /// # Errors
    /// Where it does not.
    pub fn required_text(&mut self, name: &'static str) -> Result<String, ApiError> {
        match self.required(name)? {
            Value::String(text) if text.is_empty() => {
                let message = format!("Invalid '{name}': it must not be empty.");
                Err(ApiError::invalid(Some(name), message).with_code("invalid_value"))
            }
            Value::String(text) => Ok(text),
            other => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// # Errors
    /// Where the field is not a boolean.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
    }

    /// A whole number within bounds, both included.
    ///
    /// # Errors
    /// Where the field is something else.
    pub fn integer(
        &mut self,
        name: &'static str,
        lowest: i64,
        highest: i64,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX));
        // A client may write a whole number as 1.0; beyond 2^53 a float no longer says which number it is.
        let exact = |number: &f64| number.fract() == 0.0 && number.abs() < (1u64 << 53) as f64;
        let number = whole.or_else(|| value.as_f64().filter(exact).map(|number| number as i64));
        let number = number.ok_or_else(|| wrong_type(name, "an integer", &value))?;
        check_bounds(name, number, lowest, highest)?;
        Ok(Some(number))
    }

    /// A number within bounds, both included.
    ///
    /// # Errors
    /// Where the field is something else.
    pub fn number(&mut self, name: &'static str, lowest: f64, highest: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", &value))?;
        check_bounds(name, number, lowest, highest)?;
        Ok(Some(number))
    }

    /// A boolean that is true where it is left out.
    ///
    /// # Errors
    /// Where the field is something else.
    pub fn flag_or(&mut self, name: &'static str, default: bool) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
    }

    /// # Errors
    /// Where the field is no object.
    pub fn object(&mut self, name: &'static str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => Err(wrong_type(name, "an object", &other)),
        }
    }

    /// The fields of this path that are accepted without effect or only where they ask for nothing, as the table of the
    /// interface has them.
    ///
    /// # Errors
    /// Where one asks for something.
    pub fn refuse(&mut self, path: &str) -> Result<(), ApiError> {
        for field in api::fields(path) {
            match field.status {
                Status::Supported => {}
                Status::Accepted => {
                    if let Some(value) = self.take(&field.name) {
                        api::check_type(&field.name, &field.schema, &value)?;
                    }
                }
                Status::Refused => self.refuse_one(field)?,
            }
        }
        Ok(())
    }

    fn refuse_one(&mut self, field: &api::Field) -> Result<(), ApiError> {
        let Some(value) = self.take(&field.name) else { return Ok(()) };
        let same = |harmless: &Value| {
            let same_number = value.as_f64().is_some_and(|number| harmless.as_f64() == Some(number));
            value == *harmless || same_number
        };
        if field.harmless.iter().any(same) {
            return Ok(());
        }
        let name = &field.name;
        let allowed: Vec<String> = field.harmless.iter().map(Value::to_string).collect();
        let message = match allowed.is_empty() {
            true => format!("'{name}' is not supported by this server; leave it out."),
            false => format!(
                "'{name}' is not supported by this server; leave it out or set it to {}.",
                allowed.join(" or ")
            ),
        };
        Err(ApiError::invalid(Some(name), message).with_code("unsupported_parameter"))
    }

    /// # Errors
    /// Where a field has not been read, since nobody knows it.
    pub fn finish(self) -> Result<(), ApiError> {
        self.nothing_left()
    }

    /// [`Fields::finish`] for an object that is read further elsewhere.
    ///
    /// # Errors
    /// Where a field has not been read.
    pub fn nothing_left(&self) -> Result<(), ApiError> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("Unrecognized request argument supplied: '{name}'.");
                Err(ApiError::invalid(Some(name), message).with_code("unknown_parameter"))
            }
        }
    }
}

fn check_bounds<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    lowest: T,
    highest: T,
) -> Result<(), ApiError> {
    if value >= lowest && value <= highest {
        return Ok(());
    }
    let message = format!("Invalid '{name}': {value} is not between {lowest} and {highest}.");
    Err(ApiError::invalid(Some(name), message).with_code("invalid_value"))
}

/// The refusal of a value of the wrong kind.
pub(crate) fn wrong_type(name: &str, wanted: &str, value: &Value) -> ApiError {
    let message = format!("Invalid type for '{name}': expected {wanted}, but got {} instead.", kind(value));
    ApiError::invalid(Some(name), message).with_code("invalid_type")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
