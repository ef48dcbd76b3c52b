//! Chat messages, and the template that makes one text, or ids with a loss mask, of a conversation.
//! Knows messages and Jinja templates as transformers runs them; must not know who answers, or stop strings.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tokenizer::{Settings, Tokenizer};

/// The default template, ChatML: `<|im_start|>role`, a newline, the content, `<|im_end|>`, a newline.
pub const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// One message of a conversation. The only such type of the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Never taken for special tokens, whatever it spells.
    pub content: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool.
    Tool,
}

/// A conversation as ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatIds {
    /// The ids of the rendered conversation.
    pub ids: Vec<u32>,
    /// One byte an id: 1 for what the assistant says and the special token that ends it, else 0.
    pub loss_mask: Vec<u8>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Value,
}

const NAME: &str = "chat_template";

/// Encloses a message's number where its content will stand. A non-character, so no template has reason to touch it.
const PLACEHOLDER: char = '\u{10ffff}';

impl Message {
    /// A message of `role` saying `content`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

impl Role {
    /// The name in templates and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl Tokenizer {
    /// Compiles `settings.chat_template`.
    ///
    /// # Errors
    /// [`Error::Template`] with the line when the source is not a template.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::new(&self.settings)
    }

    /// A conversation as ids, with the loss mask for fine-tuning. Special tokens come from the template alone: content
    /// that spells one stays ordinary text. What the assistant says is cut off from what stands before it, so that the
    /// ids with `add_generation_prompt` are those that training saw before the answer. But for these two rules the ids
    /// are those of transformers' `apply_chat_template`.
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails, or changes contents beyond trimming white space.
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<ChatIds> {
        let mut encoder =
            ChatEncoder { tokenizer: self, out: ChatIds::default(), run: String::new(), loss: 0 };
        for part in template.parts(messages, add_generation_prompt)? {
            match part {
                Part::Template(text) => encoder.template(&text),
                Part::Content(Role::Assistant, text) => encoder.assistant(&text),
                Part::Content(_, text) => encoder.run.push_str(&text),
            }
        }
        encoder.flush();
        Ok(encoder.out)
    }
}

impl ChatTemplate {
    /// Compiles `settings.chat_template` in the environment that transformers gives templates (`trim_blocks`,
    /// `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now` in UTC, Python's `tojson` and string methods,
    /// `{% generation %}` marks, which change nothing here).
    ///
    /// # Errors
    /// [`Error::Template`] with the line when the source is not a template.
    pub fn new(settings: &Settings) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the default delimiters are valid"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", crate::clock::strftime_now);
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned(NAME, without_generation_tags(&settings.chat_template))
            .map_err(|error| Error::Template(format!("does not compile: {error}; correct its source")))?;
        let special =
            context! { eos_token => settings.eos_token.as_str(), pad_token => settings.pad_token.as_str() };
        Ok(ChatTemplate { environment, special })
    }

    /// The conversation as one text, as transformers' `apply_chat_template(tokenize=False)`.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the messages or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let failed = |error| Error::Template(format!("cannot render these messages: {error}"));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let values = context! {
            messages => messages.iter().map(message_value).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            ..self.special.clone()
        };
        template.render(values).map_err(failed)
    }

    /// The rendered conversation cut into what the template says and what the messages say.
    fn parts(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<Part>> {
        let marked: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Message::new(message.role, format!("{PLACEHOLDER}{index}{PLACEHOLDER}")))
            .collect();
        let skeleton = self.render(&marked, add_generation_prompt)?;
        let expected = self.render(messages, add_generation_prompt)?;
        let whole: fn(&str) -> &str = |content| content;
        for edit in [whole, str::trim] {
            let parts = fill_skeleton(&skeleton, messages, edit);
            if parts.iter().map(Part::text).collect::<String>() == expected {
                return Ok(parts);
            }
        }
        Err(Error::Template(
            "it changes what messages say (beyond trimming white space), so their text cannot be told from special \
             tokens; use a template that prints each content as it is"
                .into(),
        ))
    }
}

fn message_value(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
}

enum Part {
    Template(String),
    Content(Role, String),
}

impl Part {
    fn text(&self) -> &str {
        match self {
            Part::Template(text) | Part::Content(_, text) => text,
        }
    }
}

/// Puts the contents where their placeholders stand.
fn fill_skeleton(skeleton: &str, messages: &[Message], edit: fn(&str) -> &str) -> Vec<Part> {
    let message_at = |index: &str| messages.get(index.parse::<usize>().ok()?);
    let pieces = skeleton.split(PLACEHOLDER).enumerate();
    pieces
        .map(|(index, piece)| match message_at(piece) {
            Some(message) if index % 2 == 1 => Part::Content(message.role, edit(&message.content).to_owned()),
            _ => Part::Template(piece.to_owned()),
        })
        .collect()
}

/// Gathers ordinary text up to the next special token or the next change of the mask, then encodes it at once.
struct ChatEncoder<'a> {
    tokenizer: &'a Tokenizer,
    out: ChatIds,
    run: String,
    /// The mask of the text in `run`; 1 right after what the assistant says.
    loss: u8,
}

impl ChatEncoder<'_> {
    fn template(&mut self, mut text: &str) {
        if self.loss == 1 && self.tokenizer.find_special(text).is_none() {
            // No special token closes the answer: what the template adds is not the assistant's.
            self.flush();
            self.loss = 0;
        }
        while let Some((start, id)) = self.tokenizer.find_special(text) {
            self.run.push_str(&text[..start]);
            self.flush();
            self.push(id);
            self.loss = 0;
            text = &text[start + self.tokenizer.special_text(id).map_or(0, str::len)..];
        }
        self.run.push_str(text);
    }

    fn assistant(&mut self, text: &str) {
        self.flush();
        self.run.push_str(text);
        self.loss = 1;
    }

    fn push(&mut self, id: u32) {
        self.out.ids.push(id);
        self.out.loss_mask.push(self.loss);
    }

    fn flush(&mut self) {
        self.tokenizer.encode_into(&self.run, &mut self.out.ids);
        self.out.loss_mask.resize(self.out.ids.len(), self.loss);
        self.run.clear();
    }
}

/// Turns `{% generation %}` and `{% endgeneration %}`, transformers' marks for the loss mask, into comments.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        out.push_str(&rest[..start]);
        let name =
            inside.trim_matches(|character: char| character.is_whitespace() || "-+".contains(character));
        if matches!(name, "generation" | "endgeneration") {
            out.push_str("{#");
            out.push_str(inside);
            out.push_str("#}");
        } else {
            out.push_str(&rest[start..start + length + 2]);
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort_keys)` of Python, as transformers has it.
fn tojson(value: Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let refuse = |detail: String| minijinja::Error::new(ErrorKind::BadSerialization, detail);
    if ensure_ascii == Some(true) {
        return Err(refuse("tojson(ensure_ascii=true) is not supported".into()));
    }
    let mut json = serde_json::to_value(&value).map_err(|error| refuse(error.to_string()))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut out = String::new();
    dump(&json, indent, 0, &mut out);
    Ok(out)
}

fn dump(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    use serde_json::Value as Json;
    let (open, close, count) = match value {
        Json::Array(items) => ('[', ']', items.len()),
        Json::Object(fields) => ('{', '}', fields.len()),
        scalar => return out.push_str(&scalar.to_string()),
    };
    let break_line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    out.push(open);
    for index in 0..count {
        if index > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        break_line(out, depth + 1);
        match value {
            Json::Object(fields) => {
                let (name, field) = fields.iter().nth(index).expect("the index is below the count");
                out.push_str(&Json::from(name.as_str()).to_string());
                out.push_str(": ");
                dump(field, indent, depth + 1, out);
            }
            _ => dump(&value[index], indent, depth + 1, out),
        }
    }
    if count > 0 {
        break_line(out, depth);
    }
    out.push(close);
}
