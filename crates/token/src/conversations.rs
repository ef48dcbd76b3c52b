//! Files of conversations for fine-tuning: one `{"messages": [{"role", "content"}, …]}` a line, as OpenAI's
//! fine-tuning takes them. Knows the file format; must not know how a conversation becomes ids.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::chat::{ChatIds, Message, Role};
use crate::error::{Error, Result};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::tools::ToolCall;

/// A conversation to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// One for each message: does the loss count what it says? True for the assistant's, but for those of `weight` 0.
    pub counted: Vec<bool>,
    /// The tools that may be called, as of [`crate::TemplateOptions::tools`].
    pub tools: Vec<Value>,
}

/// The conversations of one file, in order; the file may be packed (`.gz`, `.zst`). Blank lines are passed over.
pub struct ChatFile {
    path: PathBuf,
    lines: base::fs::Lines,
}

/// What [`Tokenizer::encode_chat_file`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatFileTotals {
    /// Conversations.
    pub conversations: u64,
    /// Ids of all of them.
    pub tokens: u64,
    /// Ids that the loss counts.
    pub counted_tokens: u64,
}

impl Tokenizer {
    /// Encodes each conversation of a file as [`Tokenizer::encode_conversation`] does and hands it on, in order, until
    /// `visit` breaks.
    ///
    /// # Errors
    /// [`Error::Base`] when the file cannot be read, [`Error::Chat`] with file, line and reason for the first line that
    /// holds no usable conversation.
    pub fn encode_chat_file(
        &self,
        template: &ChatTemplate,
        path: &Path,
        visit: &mut dyn FnMut(&Conversation, ChatIds) -> ControlFlow<()>,
    ) -> Result<ChatFileTotals> {
        let mut file = ChatFile::open(path)?;
        let mut totals = ChatFileTotals::default();
        while let Some(conversation) = file.next() {
            let conversation = conversation?;
            let encoded = self.encode_conversation(template, &conversation);
            let encoded = encoded.map_err(|error| file.refuse(error.to_string()))?;
            totals.conversations += 1;
            totals.tokens += encoded.ids.len() as u64;
            totals.counted_tokens += encoded.loss_mask.iter().map(|&mask| u64::from(mask)).sum::<u64>();
            if visit(&conversation, encoded).is_break() {
                break;
            }
        }
        if totals.conversations == 0 {
            return Err(file.refuse("the file holds no conversation".into()));
        }
        Ok(totals)
    }
}

impl Conversation {
    /// A conversation whose every assistant message counts.
    pub fn new(messages: Vec<Message>) -> Conversation {
        let counted = messages.iter().map(|message| message.role == Role::Assistant).collect();
        Conversation { messages, counted, tools: Vec::new() }
    }

    /// Reads one line's JSON; the error is the reason alone.
    ///
    /// # Errors
    /// What is not as expected, and what was expected.
    pub fn from_json(line: &str) -> std::result::Result<Conversation, String> {
        let line: Value = serde_json::from_str(line).map_err(|error| format!("not valid JSON: {error}"))?;
        let fields = line.as_object().ok_or("expected an object {\"messages\": [...]}")?;
        if is_given(fields, "functions") {
            return Err("\"functions\" is OpenAI's old name; write them as \"tools\"".into());
        }
        let messages = fields.get("messages").and_then(Value::as_array);
        let messages = messages.ok_or("expected \"messages\", a list of objects with role and content")?;
        let tools = read_tools(fields.get("tools").unwrap_or(&Value::Null))?;
        let mut read = Conversation { messages: Vec::new(), counted: Vec::new(), tools };
        for (index, message) in messages.iter().enumerate() {
            let (message, counts) =
                read_message(message).map_err(|reason| format!("messages[{index}]: {reason}"))?;
            read.messages.push(message);
            read.counted.push(counts);
        }
        if !read.counted.contains(&true) {
            return Err("no assistant message with weight 1: there is nothing to learn from it".into());
        }
        Ok(read)
    }
}

impl ChatFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Base`] when it cannot be read.
    pub fn open(path: &Path) -> Result<ChatFile> {
        Ok(ChatFile { path: path.to_owned(), lines: base::fs::open_lines(path)? })
    }

    /// The number of the line read last, counted from one.
    pub fn line(&self) -> u64 {
        self.lines.line_count()
    }

    /// `reason` as the error of the line read last.
    pub fn refuse(&self, reason: String) -> Error {
        Error::Chat { path: self.path.clone(), line: self.line(), reason }
    }
}

impl Iterator for ChatFile {
    type Item = Result<Conversation>;

    fn next(&mut self) -> Option<Result<Conversation>> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error.into())),
            };
            let line = line.trim_start_matches('\u{feff}').trim();
            if !line.is_empty() {
                return Some(Conversation::from_json(line).map_err(|reason| self.refuse(reason)));
            }
        }
    }
}

/// A list of tools, in OpenAI's shape or as the function alone.
fn read_tools(tools: &Value) -> std::result::Result<Vec<Value>, String> {
    let tools = match tools {
        Value::Null => return Ok(Vec::new()),
        Value::Array(tools) => tools,
        _ => return Err("tools is no list".into()),
    };
    let tool = |(index, tool): (usize, &Value)| {
        let function = tool.get("function").unwrap_or(tool);
        match function["name"].as_str() {
            Some(_) => Ok(serde_json::json!({"type": "function", "function": function})),
            None => Err(format!(
                "tools[{index}]: expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}"
            )),
        }
    };
    tools.iter().enumerate().map(tool).collect()
}

/// What a message may have.
const FIELDS: [&str; 8] =
    ["role", "content", "weight", "tool_calls", "tool_call_id", "name", "reasoning_content", "refusal"];

/// A message, and whether the loss counts it.
fn read_message(message: &Value) -> std::result::Result<(Message, bool), String> {
    let fields = message.as_object().ok_or("expected an object with role and content")?;
    let unknown = |name: &&String| !FIELDS.contains(&name.as_str()) || *name == "refusal";
    if let Some(name) = fields.keys().find(|name| unknown(name) && is_given(fields, name)) {
        return Err(format!("field {name:?} is not supported: remove it, or say it in content"));
    }
    let role = fields.get("role").unwrap_or(&Value::Null);
    let role: Role = serde_json::from_value(role.clone())
        .map_err(|_| format!("role is {role}, expected system, user, assistant or tool"))?;
    let tool_calls = read_calls(role, fields.get("tool_calls").unwrap_or(&Value::Null))?;
    let content = match fields.get("content").unwrap_or(&Value::Null) {
        Value::Null if !tool_calls.is_empty() => String::new(),
        content => read_content(content)?,
    };
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("{name} is {other}, expected a text")),
    };
    let weight = read_weight(fields.get("weight").unwrap_or(&Value::Null))?;
    if weight.is_some() && role != Role::Assistant {
        return Err(format!("weight belongs to assistant messages, not to one of role {}", role.name()));
    }
    let reasoning_content = text("reasoning_content")?;
    let (tool_call_id, name) = (text("tool_call_id")?, text("name")?);
    let message = Message { role, content, reasoning_content, tool_calls, tool_call_id, name };
    Ok((message, role == Role::Assistant && weight != Some(0.0)))
}

fn read_calls(role: Role, calls: &Value) -> std::result::Result<Vec<ToolCall>, String> {
    let calls = match calls {
        Value::Null => return Ok(Vec::new()),
        Value::Array(calls) => calls,
        _ => return Err("tool_calls is no list".into()),
    };
    if role != Role::Assistant && !calls.is_empty() {
        return Err(format!("tool_calls belong to assistant messages, not to one of role {}", role.name()));
    }
    let call = |(index, call): (usize, &Value)| {
        ToolCall::try_from(call.clone()).map_err(|reason| format!("tool_calls[{index}]: {reason}"))
    };
    calls.iter().enumerate().map(call).collect()
}

fn read_weight(weight: &Value) -> std::result::Result<Option<f64>, String> {
    if weight.is_null() {
        return Ok(None);
    }
    let known = weight.as_f64().filter(|weight| [0.0, 1.0].contains(weight));
    known.map(Some).ok_or_else(|| format!("weight is {weight}, expected 0 (not to be learnt) or 1"))
}

/// Text, or a list of parts that are all text.
fn read_content(content: &Value) -> std::result::Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                (kind, _) => Err(format!("content has a part of type {kind:?}; only text is supported")),
            })
            .collect(),
        Value::Null => Err("content is missing: a message must say something, if only \"\"".into()),
        _ => Err("content is neither a text nor a list of text parts".into()),
    }
}

fn is_given(fields: &Map<String, Value>, name: &str) -> bool {
    !matches!(fields.get(name), None | Some(Value::Null))
}
