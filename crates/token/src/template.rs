//! Chat templates: the Jinja that makes one text of a conversation, run as transformers runs it, and which parts of that
//! text are whose. Knows Jinja and messages; must not know ids.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, State, Value, context};

use crate::chat::{Message, Role};
use crate::error::{Error, Result};
use crate::tokenizer::Settings;
use crate::tools::{Arguments, GUARD, TemplateOptions, guarded_json, holds};

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Value,
    /// Does it say by `{% generation %}` what the assistant generates?
    has_marks: bool,
    /// Does it know a message that only calls tools by its content being none (DeepSeek)?
    wants_none: bool,
}

/// A rendered conversation, cut into pieces.
pub(crate) struct Rendered {
    /// The pieces; together they are the text.
    pub parts: Vec<Part>,
    /// Does the first special token after an answer's parts belong to it?
    pub ends_follow: bool,
    /// Messages of the assistant whose extent could not be told, and why.
    pub problems: Vec<(usize, String)>,
}

/// A piece of a rendered conversation.
pub(crate) struct Part {
    pub text: String,
    pub source: Source,
    /// The number of the assistant's message that this belongs to; `None`: the assistant does not generate it.
    pub speaker: Option<usize>,
}

/// Who wrote a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The template: special tokens in it count as such.
    Template,
    /// The message of this number: all of it is ordinary text.
    Message(usize),
}

const NAME: &str = "chat_template";

/// What a model without a template has in its place.
const NO_TEMPLATE: &str = "{{ raise_exception('this tokenizer has no chat template, so its model was not taught to \
    converse; put the template to use into its folder as chat_template.jinja') }}";

// Non-characters, so no template has reason to touch them. The first encloses a message's number where its content will
// stand, the others enclose what `{% generation %}` encloses.
const PLACEHOLDER: char = '\u{10ffff}';
const MARK_OPEN: char = '\u{10fffe}';
const MARK_CLOSE: char = '\u{ffffe}';
/// The variable that asks for the marks.
const MARKS: &str = "__generation_marks";

impl ChatTemplate {
    /// Compiles `settings.chat_template` in the environment that transformers gives templates (`trim_blocks`,
    /// `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now` in UTC, Python's `tojson` and string methods,
    /// `{% generation %}` marks). Without a template all rendering fails and says so.
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
        environment.add_function(GENERATION, generation);
        environment.add_test("iterable", is_iterable);
        environment.add_filter("tojson", crate::python_json::tojson);
        let source = if settings.chat_template.is_empty() { NO_TEMPLATE } else { &settings.chat_template };
        let (source, has_marks) = with_generation_calls(source);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| Error::Template(format!("does not compile: {error}; correct its source")))?;
        let named = [
            ("bos_token", &settings.bos_token),
            ("eos_token", &settings.eos_token),
            ("pad_token", &settings.pad_token),
        ];
        let special = Value::from_pairs(
            named.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, text.as_str())),
        );
        let wants_none = ["['content'] is none", "[\"content\"] is none", ".content is none"];
        let wants_none = wants_none.iter().any(|test| settings.chat_template.contains(test));
        Ok(ChatTemplate { environment, special, has_marks, wants_none })
    }

    /// The conversation as one text, as transformers' `apply_chat_template(tokenize=False)`.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the messages or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, add_generation_prompt, Marks::Hide)
    }

    /// The text that the template makes of any variables, as transformers' `render_jinja_template` gives them to it:
    /// `messages` as in OpenAI's interface (content in parts, `tool_calls`, `reasoning_content` …), `tools`, `documents`,
    /// `add_generation_prompt`, and whatever else the template asks for. `tools` and `documents` are none where they are not
    /// given; the special tokens' texts are known.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the variables or fails.
    pub fn render_variables(&self, variables: &serde_json::Map<String, serde_json::Value>) -> Result<String> {
        let failed = |error| Error::Template(format!("cannot render these messages: {error}"));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let defaults =
            context! { tools => (), documents => (), add_generation_prompt => false, ..self.special.clone() };
        template
            .render(context! { ..Value::from(minijinja::value::Serde(variables)), ..defaults })
            .map_err(failed)
    }

    /// The conversation as one text, with tools and other variables for the template.
    ///
    /// # Errors
    /// [`Error::Template`] when the template refuses the messages or fails.
    pub fn render_chat(
        &self,
        messages: &[Message],
        options: &TemplateOptions,
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_changed(messages, options, add_generation_prompt, &|value| value)
    }

    /// The same with `change` made to each message, tool and variable.
    fn render_changed(
        &self,
        messages: &[Message],
        options: &TemplateOptions,
        add_generation_prompt: bool,
        change: &dyn Fn(serde_json::Value) -> serde_json::Value,
    ) -> Result<String> {
        let render = |arguments: Arguments| {
            let given = options.variables.iter();
            let mut variables: serde_json::Map<_, _> =
                given.map(|(name, value)| (name.clone(), change(value.clone()))).collect();
            let message = |message: &Message| change(message_json(message, arguments, self.wants_none));
            variables.insert("messages".into(), messages.iter().map(message).collect());
            variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
            if !options.tools.is_empty() {
                variables.insert("tools".into(), options.tools.iter().cloned().map(change).collect());
            }
            self.render_variables(&variables)
        };
        let calls = messages.iter().any(|message| !message.tool_calls.is_empty());
        match render(Arguments::Object) {
            // A template that puts the arguments' text between its own cannot do so with an object.
            Err(error) if calls => render(Arguments::Text).map_err(|_| error),
            rendered => rendered,
        }
    }

    /// The rendered conversation with tools, calls, reasoning and other variables, as [`ChatTemplate::parts`]. What would be a
    /// special token, were it the template's, has a [`GUARD`] in it; `find` gives where the first one of a text is.
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails, or a text holds a guard.
    pub(crate) fn guarded_parts(
        &self,
        messages: &[Message],
        options: &TemplateOptions,
        add_generation_prompt: bool,
        find: &dyn Fn(&str) -> Option<(usize, usize)>,
    ) -> Result<Rendered> {
        let holds_guard = std::cell::Cell::new(false);
        let change = |value| {
            holds_guard.set(holds_guard.get() || holds(&value, GUARD));
            guarded_json(&value, find)
        };
        let render = |messages: &[Message], open| self.render_changed(messages, options, open, &change);
        let text = render(messages, add_generation_prompt)?;
        if holds_guard.get() {
            return Err(Error::Template(format!(
                "a message or a tool holds U+{:X}, a non-character that this program needs itself; remove it",
                GUARD as u32
            )));
        }
        Ok(cut_by_prefixes(&text, messages, &render))
    }

    fn render_with(&self, messages: &[Message], add_generation_prompt: bool, marks: Marks) -> Result<String> {
        let failed = |error| Error::Template(format!("cannot render these messages: {error}"));
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let values = context! {
            messages => messages.iter().map(message_value).collect::<Vec<_>>(),
            add_generation_prompt => add_generation_prompt,
            tools => (),
            documents => (),
            __generation_marks => marks == Marks::Show,
            ..self.special.clone()
        };
        template.render(values).map_err(failed)
    }

    /// The rendered conversation cut into what the template says and what the messages say, and what of it the
    /// assistant generates. `is_special` says whether a text holds a special token.
    ///
    /// The template is run with a placeholder for each content; where the text with the contents differs from that by
    /// more than white space trimmed off contents, the template looks into them. Then the text is taken as a whole,
    /// provided that no content spells a special token.
    ///
    /// # Errors
    /// [`Error::Template`] when the template fails, or changes contents that spell special tokens.
    pub(crate) fn parts(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        is_special: &dyn Fn(&str) -> bool,
    ) -> Result<Rendered> {
        let marked: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Message::new(message.role, format!("{PLACEHOLDER}{index}{PLACEHOLDER}")))
            .collect();
        let expected = self.render(messages, add_generation_prompt)?;
        let skeleton = self.render_with(&marked, add_generation_prompt, Marks::Show);
        if let Some(pieces) = skeleton.ok().and_then(|skeleton| fill(&skeleton, &expected, messages)) {
            let mut rendered = Rendered { parts: pieces, ends_follow: !self.has_marks, problems: Vec::new() };
            if !self.has_marks {
                self.find_answers(&marked, &mut rendered);
            }
            return Ok(rendered);
        }
        let reserved = [PLACEHOLDER, MARK_OPEN, MARK_CLOSE];
        if messages.iter().any(|message| is_special(&message.content) || message.content.contains(reserved)) {
            return Err(Error::Template(
                "it changes what messages say (beyond trimming white space), and one of these messages spells a special \
                 token, which could then not be told from a real one; remove it from the message"
                    .into(),
            ));
        }
        if self.has_marks {
            let marked = self.render_with(messages, add_generation_prompt, Marks::Show)?;
            return Ok(cut_at_marks(&marked, messages));
        }
        Ok(cut_by_prefixes(&expected, messages, &|messages, open| self.render(messages, open)))
    }

    /// Gives each answer its speaker: its content, and what stands between that and the end of the prompt for it.
    fn find_answers(&self, marked: &[Message], rendered: &mut Rendered) {
        let answers = (0..marked.len()).filter(|&index| marked[index].role == Role::Assistant);
        for message in answers.rev() {
            let at = rendered.parts.iter().position(|part| part.source == Source::Message(message));
            let Some(at) = at else {
                rendered.problems.push((message, format!("it leaves out what message {message} says")));
                continue;
            };
            rendered.parts[at].speaker = Some(message);
            let header_bytes = match self.header_bytes(&marked[..message], &rendered.parts[..at]) {
                Ok(bytes) => bytes,
                Err(reason) => {
                    rendered.problems.push((message, reason));
                    continue;
                }
            };
            if at > 0 && header_bytes < rendered.parts[at - 1].text.len() {
                let said = rendered.parts[at - 1].text.split_off(header_bytes);
                rendered.parts.insert(at, Part { speaker: Some(message), ..Part::template(said) });
            }
        }
    }

    /// How much of the template's text before an answer is there before the model answers; `before` holds the parts
    /// before the answer's content, `asked` the messages.
    fn header_bytes(&self, asked: &[Message], before: &[Part]) -> std::result::Result<usize, String> {
        let (text, said_before) = match before {
            [.., Part { source: Source::Message(index), .. }, last] if last.source == Source::Template => {
                (last.text.as_str(), Some(*index))
            }
            [last] if last.source == Source::Template => (last.text.as_str(), None),
            _ => return Ok(0),
        };
        let message = asked.len();
        let Ok(prompt) = self.render_with(asked, true, Marks::Hide) else {
            if asked.is_empty() {
                // Many templates cannot ask for an answer to nothing.
                return Ok(text.len());
            }
            return Err(format!("it fails on the messages before message {message} alone"));
        };
        let (last, tail) = last_placeholder(&prompt);
        match text.strip_prefix(tail) {
            Some(rest) if last == said_before => {
                let opens_answers =
                    self.render_with(asked, false, Marks::Hide).is_ok_and(|text| text != prompt);
                // Without a prompt of its own the template's header comes after the prompt, but it is no answer.
                let is_said = opens_answers || rest.trim().is_empty();
                Ok(if is_said { tail.len() } else { text.len() })
            }
            _ => Err(format!(
                "before message {message} it prints {text:?}, but when it asks for that answer, {tail:?}: the model would be \
                 asked otherwise than it was taught; give a template that begins answers as it asks for them, or mark what \
                 is to be learnt with {{% generation %}}"
            )),
        }
    }
}

/// The whole text as the template's, with the answers where the renderings of the first messages end.
fn cut_by_prefixes(
    text: &str,
    messages: &[Message],
    render: &dyn Fn(&[Message], bool) -> Result<String>,
) -> Rendered {
    let mut rendered = Rendered { parts: Vec::new(), ends_follow: false, problems: Vec::new() };
    let mut position = 0;
    let answers = (0..messages.len()).filter(|&index| messages[index].role == Role::Assistant);
    for message in answers {
        let prompt = render(&messages[..message], true).unwrap_or_default();
        let answered = render(&messages[..=message], false).unwrap_or_default();
        let is_prefix = text.starts_with(&prompt) && text.starts_with(&answered);
        if !is_prefix || prompt.len() < position || answered.len() <= prompt.len() {
            let reason = format!(
                "it prints the messages up to message {message} otherwise when others follow (such as reasoning, which \
                 many templates leave out of earlier answers), so its beginning and end cannot be told; make it the \
                 last message of its conversation, or give earlier answers \"weight\": 0"
            );
            rendered.problems.push((message, reason));
            continue;
        }
        rendered.parts.push(Part::template(text[position..prompt.len()].to_owned()));
        // The line that ends after the end-of-turn token is no answer.
        let said = text[prompt.len()..answered.len()].trim_end();
        rendered.parts.push(Part { speaker: Some(message), ..Part::template(said) });
        position = prompt.len() + said.len();
    }
    rendered.parts.push(Part::template(text[position..].to_owned()));
    rendered
}

impl Part {
    fn template(text: impl Into<String>) -> Part {
        Part { text: text.into(), source: Source::Template, speaker: None }
    }
}

/// Are the marks of `{% generation %}` to be in the text?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    Hide,
    Show,
}

fn message_value(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
}

/// A message as OpenAI's interface has it; what it lacks is not there at all, since templates ask whether it is defined.
fn message_json(message: &Message, arguments: Arguments, wants_none: bool) -> serde_json::Value {
    let mut value = serde_json::json!({"role": message.role.name(), "content": message.content});
    if wants_none && message.content.is_empty() && !message.tool_calls.is_empty() {
        value["content"] = serde_json::Value::Null;
    }
    let texts = [
        ("reasoning_content", &message.reasoning_content),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            value[name] = text.as_str().into();
        }
    }
    if !message.tool_calls.is_empty() {
        value["tool_calls"] = message.tool_calls.iter().map(|call| call.for_template(arguments)).collect();
    }
    value
}

/// What templates do to contents.
const EDITS: [fn(&str) -> &str; 6] = [
    |content| content,
    str::trim,
    |content| content.trim_matches('\n'),
    |content| content.trim_start_matches('\n'),
    str::trim_start,
    str::trim_end,
];

/// Puts the contents where their placeholders stand, edited so that the whole is `expected`; `None` where it is not.
fn fill(skeleton: &str, expected: &str, messages: &[Message]) -> Option<Vec<Part>> {
    let (mut parts, mut rest) = (Vec::new(), expected);
    let mut speaker = None;
    let pieces: Vec<&str> = skeleton.split(PLACEHOLDER).collect();
    for (index, piece) in pieces.iter().enumerate() {
        if index % 2 == 1 {
            let number = piece.parse::<usize>().ok()?;
            let content = &messages.get(number)?.content;
            let next = pieces.get(index + 1)?.split([MARK_OPEN, MARK_CLOSE]).next()?;
            let is_last = index + 2 == pieces.len();
            let fits = |edited: &&str| {
                let after = rest.strip_prefix(edited);
                after.is_some_and(|after| if is_last { after == next } else { after.starts_with(next) })
            };
            let edited = EDITS.iter().map(|edit| edit(content)).find(fits)?;
            rest = &rest[edited.len()..];
            parts.push(Part { text: edited.to_owned(), source: Source::Message(number), speaker });
            continue;
        }
        for (mark, text) in at_marks(piece) {
            match mark {
                Some(MARK_OPEN) => speaker = next_answer(&pieces[index..], messages),
                Some(_) => speaker = None,
                None => {}
            }
            rest = rest.strip_prefix(text)?;
            if !text.is_empty() {
                parts.push(Part { speaker, ..Part::template(text) });
            }
        }
    }
    rest.is_empty().then_some(parts)
}

/// The first message of the assistant among the numbers at the odd places of `pieces`.
fn next_answer(pieces: &[&str], messages: &[Message]) -> Option<usize> {
    let numbers = pieces.iter().skip(1).step_by(2).filter_map(|piece| piece.parse::<usize>().ok());
    numbers.into_iter().find(|&number| messages.get(number).is_some_and(|said| said.role == Role::Assistant))
}

/// The text between marks, each with the mark before it.
fn at_marks(text: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    let starts = std::iter::once(0).chain(text.match_indices([MARK_OPEN, MARK_CLOSE]).map(|(at, _)| at));
    starts.scan(true, move |is_first, start| {
        let mark = if std::mem::take(is_first) { None } else { text[start..].chars().next() };
        let rest = &text[start + mark.map_or(0, char::len_utf8)..];
        Some((mark, rest.split([MARK_OPEN, MARK_CLOSE]).next().unwrap_or_default()))
    })
}

/// The whole text as the template's; what the marks enclose is the answers', in their order.
fn cut_at_marks(marked: &str, messages: &[Message]) -> Rendered {
    let mut answers = (0..messages.len()).filter(|&index| messages[index].role == Role::Assistant);
    let mut parts = Vec::new();
    for (mark, text) in at_marks(marked) {
        let speaker = if mark == Some(MARK_OPEN) { answers.next() } else { None };
        parts.push(Part { speaker, ..Part::template(text) });
    }
    let unmarked = answers.map(|message| (message, format!("it does not mark what message {message} says")));
    Rendered { parts, ends_follow: false, problems: unmarked.collect() }
}

/// The number of the last message whose placeholder is in `text`, and the text after it.
fn last_placeholder(text: &str) -> (Option<usize>, &str) {
    match text.rsplit_once(PLACEHOLDER) {
        Some((before, tail)) => {
            let number = before.rsplit(PLACEHOLDER).next().and_then(|number| number.parse().ok());
            (number, tail)
        }
        None => (None, text),
    }
}

const GENERATION: &str = "__generation";

/// Turns `{% generation %} … {% endgeneration %}`, transformers' marks for the loss mask, into call blocks of
/// [`generation`]; says whether there are any.
fn with_generation_calls(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        out.push_str(&rest[..start + 2]);
        let name =
            inside.trim_matches(|character: char| character.is_whitespace() || "-+".contains(character));
        match name {
            "generation" => {
                found = true;
                out.push_str(&inside.replacen(name, &format!("call {GENERATION}()"), 1));
            }
            "endgeneration" => out.push_str(&inside.replacen(name, "endcall", 1)),
            _ => out.push_str(inside),
        }
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    (out, found)
}

/// What the call block encloses, between marks where they are asked for.
fn generation(state: &mut State<'_, '_>, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let body: Value = options.get::<Value>("caller")?.call(state, &[])?;
    let shows = state.lookup(MARKS).is_some_and(|marks| marks.is_true());
    Ok(if shows { format!("{MARK_OPEN}{body}{MARK_CLOSE}") } else { body.to_string() })
}

/// Python's: `none` is not, though minijinja lets it be gone through; what is undefined is, as in Jinja.
fn is_iterable(value: Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}
