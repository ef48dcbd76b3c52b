//! Chat messages, and conversations as ids with a loss mask.
//! Knows messages and what a template made of them; must not know Jinja, who answers, or stop strings.

use serde::{Deserialize, Serialize};

use crate::conversations::Conversation;
use crate::error::{Error, Result};
use crate::normal::Place;
use crate::template::{ChatTemplate, Rendered, Source};
use crate::tokenizer::Tokenizer;
use crate::tools::{GUARD, TemplateOptions, ToolCall};

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
    /// What the assistant thought before it said that, where it was told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools that the assistant calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// In a tool's message: the call that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The tool's or the speaker's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
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

impl Message {
    /// A message of `role` saying `content`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        let (reasoning_content, tool_call_id, name) = (None, None, None);
        Message {
            role,
            content: content.into(),
            reasoning_content,
            tool_calls: Vec::new(),
            tool_call_id,
            name,
        }
    }

    /// Is there anything beside role and content?
    pub(crate) fn is_plain(&self) -> bool {
        let others = [&self.reasoning_content, &self.tool_call_id, &self.name];
        self.tool_calls.is_empty() && others.iter().all(|other| other.is_none())
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

    /// A conversation as ids: what a model is asked with. Special tokens come from the template alone: content that
    /// spells one stays ordinary text. What the assistant says is cut off from what stands before it, so that the
    /// ids with `add_generation_prompt` are those that training saw before the answer. But for these two rules the ids
    /// are those of transformers' `apply_chat_template`.
    ///
    /// The mask covers every answer; where a template does not let its beginning be told (see
    /// [`Tokenizer::encode_conversation`]), the content alone.
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails, or changes contents that spell special tokens beyond trimming.
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<ChatIds> {
        self.encode_chat_with(template, messages, &TemplateOptions::default(), add_generation_prompt)
    }

    /// [`Tokenizer::encode_chat`] with tools and other variables for the template. What tools, calls and reasoning spell is
    /// ordinary text too.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`].
    pub fn encode_chat_with(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &TemplateOptions,
        add_generation_prompt: bool,
    ) -> Result<ChatIds> {
        let rendered = self.rendered(template, messages, options, add_generation_prompt)?;
        let counted: Vec<bool> = messages.iter().map(|message| message.role == Role::Assistant).collect();
        Ok(self.encode_parts(&rendered, &counted))
    }

    /// A conversation to learn from, as ids and loss mask. The mask is 1 on what a model would have to generate for
    /// each counted message: from where the template's prompt for it ends, which is after the assistant's header, to
    /// the first special token behind its content, that token included. A template with `{% generation %}` marks says
    /// itself what that is. Ids are as of [`Tokenizer::encode_chat`].
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails, leaves out what a counted message says, or does not begin a counted
    /// message as it begins the prompt for it.
    pub fn encode_conversation(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<ChatIds> {
        let options =
            TemplateOptions { tools: conversation.tools.clone(), variables: serde_json::Map::new() };
        let rendered = self.rendered(template, &conversation.messages, &options, false)?;
        let counted = |message: &usize| conversation.counted.get(*message) == Some(&true);
        let problems = rendered.problems.iter().filter(|(message, _)| counted(message));
        if let Some((_, reason)) = problems.min_by_key(|(message, _)| *message) {
            return Err(Error::Template(reason.clone()));
        }
        let encoded = self.encode_parts(&rendered, &conversation.counted);
        if !encoded.loss_mask.contains(&1) {
            let reason = "none of the assistant's words are left in what it prints; give another template";
            return Err(Error::Template(reason.into()));
        }
        Ok(encoded)
    }

    /// The special token with which the template ends the assistant's answers, whichever that is; `None` where it ends them
    /// with none, or fails on a question and its answer.
    pub fn answer_end(&self, template: &ChatTemplate) -> Option<u32> {
        let messages = [Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")];
        let encoded = self.encode_conversation(template, &Conversation::new(messages.to_vec())).ok()?;
        let last = encoded.loss_mask.iter().rposition(|&mask| mask == 1)?;
        self.special_text(encoded.ids[last]).map(|_| encoded.ids[last])
    }

    fn rendered(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &TemplateOptions,
        add_generation_prompt: bool,
    ) -> Result<Rendered> {
        if options.is_empty() && messages.iter().all(Message::is_plain) {
            let is_special = |text: &str| self.find_special(text).is_some();
            return template.parts(messages, add_generation_prompt, &is_special);
        }
        let find = |text: &str| self.find_special(text).map(|found| (found.start, found.end));
        template.guarded_parts(messages, options, add_generation_prompt, &find)
    }

    fn encode_parts(&self, rendered: &Rendered, counted: &[bool]) -> ChatIds {
        let mut encoder = ChatEncoder {
            tokenizer: self,
            out: ChatIds::default(),
            run: String::new(),
            place: Place::Start,
            speaker: None,
            loss: 0,
        };
        for part in &rendered.parts {
            let mut text = part.text.as_str();
            if part.speaker.is_none() && encoder.speaker.is_some() {
                if rendered.ends_follow && part.source == Source::Template {
                    let end = self.find_special(text).map_or(0, |found| found.end);
                    encoder.template(&text[..end]);
                    text = &text[end..];
                }
                encoder.turn_to(None, 0);
            } else if let Some(message) = part.speaker {
                encoder.turn_to(part.speaker, u8::from(counted.get(message) == Some(&true)));
            }
            match part.source {
                Source::Template => encoder.template(text),
                Source::Message(_) => encoder.run.push_str(text),
            }
        }
        encoder.flush();
        let mut encoded = encoder.out;
        // Templates of GGUF files leave it to the program to begin the text; those of Hugging Face's folders do it themselves.
        if self.begins_chats() && !encoded.ids.starts_with(self.opening_ids()) {
            encoded.ids.splice(0..0, self.opening_ids().iter().copied());
            encoded.loss_mask.splice(0..0, self.opening_ids().iter().map(|_| 0));
        }
        encoded
    }
}

/// Gathers ordinary text up to the next special token or the next change of speaker, then encodes it at once.
struct ChatEncoder<'a> {
    tokenizer: &'a Tokenizer,
    out: ChatIds,
    run: String,
    /// What stands before `run`.
    place: Place,
    /// The assistant's message that is being said, if any.
    speaker: Option<usize>,
    /// The mask of what `speaker` says.
    loss: u8,
}

impl ChatEncoder<'_> {
    fn turn_to(&mut self, speaker: Option<usize>, loss: u8) {
        if self.speaker != speaker {
            self.flush();
            (self.speaker, self.loss) = (speaker, loss);
        }
    }

    fn template(&mut self, mut text: &str) {
        while let Some(found) = self.tokenizer.find_special(text) {
            self.ordinary(&text[..found.start]);
            self.flush();
            self.out.ids.push(found.id);
            self.out.loss_mask.push(self.loss);
            self.place = Place::AfterToken;
            text = &text[found.end..];
        }
        self.ordinary(text);
    }

    fn ordinary(&mut self, text: &str) {
        self.run.extend(text.split(GUARD));
    }

    fn flush(&mut self) {
        if self.run.is_empty() {
            return;
        }
        self.tokenizer.encode_at(&self.run, self.place, &mut self.out.ids);
        self.out.loss_mask.resize(self.out.ids.len(), self.loss);
        self.place = Place::Continued;
        self.run.clear();
    }
}
