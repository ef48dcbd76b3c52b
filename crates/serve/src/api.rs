//! The interface as one table, `api.json`: every path with its fields, which are supported and which refused. The OpenAPI
//! document, the refusals and the table in `docs/serving.md` are made of it. Knows no transport.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::wire::{ApiError, wrong_type};

/// One path.
pub(crate) struct Endpoint {
    pub method: String,
    pub path: String,
    summary: String,
    pub fields: Vec<Field>,
    /// Whether answers come in Anthropic's shapes.
    anthropic: bool,
    streams: bool,
    /// What an answer is where it is no JSON.
    content: String,
}

/// One field of a request's body.
pub(crate) struct Field {
    pub name: String,
    pub status: Status,
    /// What JSON schema says of it.
    pub schema: Value,
    /// Values that ask for nothing, which a refused field may have.
    pub harmless: Vec<Value>,
    required: bool,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Supported,
    /// Read, and without effect here.
    Accepted,
    Refused,
}

/// All paths.
pub(crate) fn endpoints() -> &'static [Endpoint] {
    static TABLE: OnceLock<Vec<Endpoint>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table: Value = serde_json::from_str(include_str!("../api.json")).expect("api.json is JSON");
        let entries = table.as_array().expect("api.json is a list");
        entries.iter().map(Endpoint::read).collect()
    })
}

/// The fields of a path's body.
pub(crate) fn fields(path: &str) -> &'static [Field] {
    endpoints().iter().find(|endpoint| endpoint.path == path).map_or(&[], |endpoint| &endpoint.fields)
}

/// # Errors
/// Where a value is of none of the types that its schema names.
pub(crate) fn check_type(name: &str, schema: &Value, value: &Value) -> Result<(), ApiError> {
    let kind = match value {
        Value::Null => return Ok(()),
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::String(only) => vec![only.as_str()],
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    if types.contains(&kind) {
        return Ok(());
    }
    let words = |kind: &&str| match *kind {
        "string" => Some("a string"),
        "boolean" => Some("a boolean"),
        "object" => Some("an object"),
        "array" => Some("an array"),
        "number" | "integer" => Some("a number"),
        _ => None,
    };
    let wanted: Vec<&str> = types.iter().filter_map(words).collect();
    Err(wrong_type(name, &wanted.join(" or "), value))
}

impl Endpoint {
    fn read(entry: &Value) -> Endpoint {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let flag = |name: &str| entry[name] == true;
        let fields = entry["fields"].as_object().into_iter().flatten();
        Endpoint {
            method: text("method"),
            path: text("path"),
            summary: text("summary"),
            fields: fields.map(|(name, field)| Field::read(name, field)).collect(),
            anthropic: flag("anthropic"),
            streams: flag("streams"),
            content: text("content"),
        }
    }

    fn openapi(&self) -> Value {
        let mut answers = Map::new();
        let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let mut content = Map::new();
        match self.content.as_str() {
            "" => content.insert("application/json".into(), json!({"schema": {"type": "object"}})),
            other => content.insert(other.into(), json!({"schema": {"type": "string"}})),
        };
        if self.streams {
            content.insert("text/event-stream".into(), json!({"schema": {"type": "string"}}));
        }
        answers.insert("200".into(), json!({"description": "The answer.", "content": content}));
        let error = if self.anthropic { "AnthropicError" } else { "Error" };
        let error = json!({"description": "A refusal or a failure.", "content": {"application/json": {"schema": schema(error)}}});
        answers.insert("default".into(), error);
        let mut operation = json!({
            "operationId": format!("{}{}", self.method.to_lowercase(), self.path.replace(['/', '{', '}'], "_")),
            "summary": self.summary,
            "responses": answers,
        });
        if self.path.contains("{model}") {
            operation["parameters"] = json!([{"name": "model", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}]);
        }
        if self.method == "POST" {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": self.body()}}});
        }
        operation
    }

    /// The schema of the body: what is supported or accepted, and of what is refused the harmless values.
    fn body(&self) -> Value {
        let mut properties = Map::new();
        for field in &self.fields {
            let schema = match field.status {
                Status::Refused => {
                    json!({"enum": field.harmless.iter().cloned().chain([Value::Null]).collect::<Vec<_>>()})
                }
                _ => field.schema.clone(),
            };
            properties.insert(field.name.clone(), schema);
        }
        let required: Vec<&str> =
            self.fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }
}

impl Field {
    fn read(name: &str, entry: &Value) -> Field {
        let status = match entry["status"].as_str() {
            Some("refused") => Status::Refused,
            Some("accepted") => Status::Accepted,
            _ => Status::Supported,
        };
        let schema = match &entry["schema"] {
            Value::Null => json!({}),
            schema => schema.clone(),
        };
        let harmless = entry["harmless"].as_array().cloned().unwrap_or_default();
        Field { name: name.to_owned(), status, schema, harmless, required: entry["required"] == true }
    }
}

/// The OpenAPI document.
pub(crate) fn openapi() -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let path = paths.entry(endpoint.path.clone()).or_insert_with(|| json!({}));
        path[endpoint.method.to_lowercase()] = endpoint.openapi();
    }
    let text = || json!({"type": "string"});
    let maybe = || json!({"type": ["string", "null"]});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "taoye",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Language models of this machine behind the interfaces of OpenAI, Anthropic and vLLM.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {"message": text(), "type": text(), "param": maybe(), "code": maybe()},
                }}},
                "AnthropicError": {"type": "object", "required": ["type", "error"], "properties": {
                    "type": {"const": "error"},
                    "error": {
                        "type": "object",
                        "required": ["type", "message"],
                        "properties": {"type": text(), "message": text()},
                    },
                }},
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    })
}
