//! The tools of a request and which of them the answer must call. Knows no endpoint's other fields.

use ::chat::format::AnswerFormat;
use serde_json::{Map, Value, json};

use super::{ApiError, Fields, wrong_type};

/// The most tools of one request, as in OpenAI's interface.
const TOOLS_MAX: usize = 128;
/// The longest name of a tool, as in OpenAI's interface.
const NAME_MAX: usize = 64;

/// Which tools an answer calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Choice {
    /// None.
    None,
    /// Those that the model likes.
    #[default]
    Auto,
    /// One of those given, at least.
    Required,
    /// This one.
    Named(String),
}

/// The tools of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// As templates take them.
    pub tools: Vec<Value>,
    pub choice: Choice,
    pub parallel: bool,
}

impl Tools {
    /// # Errors
    /// Where the model cannot be shown tools, its calls not be told from text, or the tool that must be called is not there.
    pub fn checked(self, format: &AnswerFormat) -> Result<Tools, ApiError> {
        let refuse = |name: &str, message: String| {
            Err(ApiError::invalid(Some(name), message).with_code("unsupported_parameter"))
        };
        if self.tools.is_empty() {
            return match self.choice {
                Choice::Required | Choice::Named(_) => Err(ApiError::invalid(
                    Some("tool_choice"),
                    "'tool_choice' asks for a call, but there are no 'tools'.",
                )),
                _ => Ok(self),
            };
        }
        if self.choice == Choice::None {
            return Ok(Tools { tools: Vec::new(), ..self });
        }
        if !format.takes_tools() {
            return refuse(
                "tools",
                "'tools' are not possible: this model's chat template does not show them to the model."
                    .into(),
            );
        }
        if !format.knows_calls() {
            return refuse(
                "tools",
                "'tools' are not possible: this server does not know how this model's chat template writes calls.".into(),
            );
        }
        if let Choice::Named(name) = &self.choice
            && !self.tools.iter().any(|tool| tool["function"]["name"] == name.as_str())
        {
            let message = format!("'tool_choice' names '{name}', which is not among the 'tools'.");
            return Err(ApiError::invalid(Some("tool_choice"), message));
        }
        Ok(self)
    }

    /// The tools that must be called, one at least; `None` where the model may do without.
    pub fn forced(&self) -> Option<Vec<Value>> {
        match &self.choice {
            Choice::None | Choice::Auto => None,
            Choice::Required => Some(self.tools.clone()),
            Choice::Named(name) => Some(
                self.tools.iter().filter(|tool| tool["function"]["name"] == name.as_str()).cloned().collect(),
            ),
        }
    }
}

/// How an interface writes a tool down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `{"type": "function", "function": {…}}`.
    Chat,
    /// `{"type": "function", "name", …}`.
    Responses,
    /// `{"name", "input_schema", …}`.
    Anthropic,
}

/// `tools`, in the shape that templates take.
pub(crate) fn read_tools(fields: &mut Fields, style: Style) -> Result<Vec<Value>, ApiError> {
    let tools = match fields.take("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong_type("tools", "an array of tools", &other)),
    };
    if tools.len() > TOOLS_MAX {
        let message =
            format!("Invalid 'tools': {} tools, but at most {TOOLS_MAX} are possible.", tools.len());
        return Err(ApiError::invalid(Some("tools"), message));
    }
    let mut names = std::collections::HashSet::new();
    let mut read = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let tool = read_tool(&format!("tools[{index}]"), tool, style)?;
        let name = tool["function"]["name"].as_str().unwrap_or_default().to_owned();
        if !names.insert(name.clone()) {
            return Err(ApiError::invalid(
                Some("tools"),
                format!("Invalid 'tools': two tools have the name '{name}'."),
            ));
        }
        read.push(tool);
    }
    Ok(read)
}

fn read_tool(place: &str, tool: Value, style: Style) -> Result<Value, ApiError> {
    let Value::Object(mut fields) = tool else { return Err(wrong_type(place, "an object", &tool)) };
    let kind = match fields.remove("type") {
        Some(Value::String(kind)) => Some(kind),
        None | Some(Value::Null) => None,
        Some(other) => return Err(wrong_type(&format!("{place}.type"), "a string", &other)),
    };
    let expected = if style == Style::Anthropic { "custom" } else { "function" };
    match kind {
        Some(kind) if kind != expected => {
            let name = format!("{place}.type");
            let message = format!(
                "'{name}' is '{kind}'; this server runs no tools itself and takes those of type '{expected}' only."
            );
            return Err(ApiError::invalid(Some(&name), message).with_code("unsupported_parameter"));
        }
        None if style != Style::Anthropic => {
            let name = format!("{place}.type");
            return Err(ApiError::invalid(Some(&name), format!("Missing required parameter: '{name}'.")));
        }
        _ => {}
    }
    if style == Style::Chat {
        fields = match fields.remove("function") {
            Some(Value::Object(function)) => function,
            _ => {
                return Err(ApiError::invalid(Some(place), format!("'{place}.function' must be an object.")));
            }
        };
    }
    function(place, fields, style)
}

/// The function in the shape that templates take.
fn function(place: &str, mut fields: Map<String, Value>, style: Style) -> Result<Value, ApiError> {
    let refuse = |field: &str, message: String| ApiError::invalid(Some(&format!("{place}.{field}")), message);
    let name = match fields.remove("name") {
        Some(Value::String(name)) => name,
        _ => return Err(refuse("name", format!("'{place}' lacks a string 'name'."))),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_name) {
        let message =
            format!("'{name}' is no tool's name: up to {NAME_MAX} letters, digits, '_', '-' and '.' are.");
        return Err(refuse("name", message));
    }
    let mut function = Map::from_iter([("name".to_owned(), json!(name))]);
    match fields.remove("description") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => drop(function.insert("description".into(), text.into())),
        Some(other) => return Err(wrong_type(&format!("{place}.description"), "a string", &other)),
    }
    let schema = if style == Style::Anthropic { "input_schema" } else { "parameters" };
    match fields.remove(schema) {
        None | Some(Value::Null) => {}
        Some(object @ Value::Object(_)) => drop(function.insert("parameters".into(), object)),
        Some(other) => return Err(wrong_type(&format!("{place}.{schema}"), "an object", &other)),
    }
    // Calls that are forced are held to the schema with it and without; calls that the model chooses to make are not.
    if fields.remove("strict") == Some(Value::Bool(true)) {
        function.insert("strict".into(), json!(true));
    }
    fields.remove("cache_control");
    match fields.into_iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => Err(refuse(&name, format!("'{place}.{name}' is not supported by this server."))),
        None => Ok(json!({"type": "function", "function": function})),
    }
}

/// `tool_choice` and `parallel_tool_calls` of OpenAI's interfaces; `nested` where a name stands in `function`.
pub(crate) fn read_choice(fields: &mut Fields, nested: bool) -> Result<(Choice, bool), ApiError> {
    let parallel = fields.flag_or("parallel_tool_calls", true)?;
    let unknown = |what: &Value| {
        let message =
            format!("Invalid 'tool_choice': {what} is none of 'none', 'auto', 'required' and a function.");
        ApiError::invalid(Some("tool_choice"), message).with_code("invalid_value")
    };
    let choice = match fields.take("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            _ => return Err(unknown(&Value::String(word))),
        },
        Some(object) => {
            let name = if nested { &object["function"]["name"] } else { &object["name"] };
            match (object["type"].as_str(), name.as_str()) {
                (Some("function"), Some(name)) => Choice::Named(name.to_owned()),
                _ => return Err(unknown(&object)),
            }
        }
    };
    Ok((choice, parallel))
}

/// Anthropic's `tool_choice`.
pub(crate) fn read_anthropic_choice(fields: &mut Fields) -> Result<(Choice, bool), ApiError> {
    let Some(object) = fields.object("tool_choice")? else { return Ok((Choice::Auto, true)) };
    let parallel = object.get("disable_parallel_tool_use") != Some(&Value::Bool(true));
    let choice =
        match (object.get("type").and_then(Value::as_str), object.get("name").and_then(Value::as_str)) {
            (Some("auto"), _) => Choice::Auto,
            (Some("any"), _) => Choice::Required,
            (Some("none"), _) => Choice::None,
            (Some("tool"), Some(name)) => Choice::Named(name.to_owned()),
            _ => {
                let message = "'tool_choice.type' is none of 'auto', 'any', 'none' and 'tool' with a 'name'.";
                return Err(ApiError::invalid(Some("tool_choice"), message));
            }
        };
    Ok((choice, parallel))
}
