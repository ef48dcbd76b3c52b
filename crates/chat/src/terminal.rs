//! A conversation in the terminal, or over pipes: one line of input is one message. Knows the model only as a
//! [`ChatModel`].
//!
//! On a terminal, Ctrl-C stops the answer under way and Ctrl-D leaves; over pipes Ctrl-C ends the program. The
//! handler of Ctrl-C is this module's own, so `base::interrupt` must not have been installed, whose second Ctrl-C
//! would end the process.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use token::{Message, Role};

use crate::{AnswerOptions, ChatModel, ChatRequest, Error, FinishReason, Result};

/// Where an answer has no limit of its own, a conversation leaves at least this share of the context for it.
const ANSWER_SHARE: usize = 4;

const HELP: &str = "\
/help          shows this
/system TEXT   sets what the model is told before the conversation; without TEXT, removes it
/reset         forgets the conversation, but not the system message
/quit          leaves, as Ctrl-D does
Ctrl-C stops an answer. Begin a message with a space to send one that starts with a slash.
";

/// How a conversation begins and how it is answered.
#[derive(Clone, Debug, Default)]
pub struct TerminalOptions {
    /// What the model is told before the conversation.
    pub system: Option<String>,
    /// How to answer. Where the context leaves fewer tokens than `max_tokens`, the answer has what is left.
    pub answer: AnswerOptions,
}

/// Talks until the input ends or `/quit`. With a terminal for input there is a prompt with editing and
/// history; without one only answers are written to standard output, and the first failure ends the
/// conversation.
///
/// # Errors
/// Where the terminal cannot be read or written; over pipes also where a message cannot be answered.
pub fn run(model: &mut dyn ChatModel, options: TerminalOptions) -> Result<()> {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut output = std::io::stdout();
    let talk = Talk { model, options, messages: Vec::new(), stopped: &stopped };
    if std::io::stdin().is_terminal() && output.is_terminal() {
        // Over pipes the signal keeps its meaning: with a handler, waiting for input could not be interrupted.
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stopped))?;
        let mut editor = rustyline::DefaultEditor::new().map_err(terminal_error)?;
        writeln!(output, "{}: {HELP}", talk.model.name())?;
        talk.converse(Place::Terminal, &mut || read_edited(&mut editor), &mut output)
    } else {
        let mut input = std::io::stdin().lock();
        talk.converse(Place::Pipe, &mut || read_piped(&mut input), &mut output)
    }
}

/// What came from the input.
enum Input {
    Line(String),
    Interrupted,
    End,
}

/// Where the conversation takes place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Terminal,
    Pipe,
}

/// Whether the conversation goes on.
type Flow = ControlFlow<()>;

struct Talk<'a> {
    model: &'a mut dyn ChatModel,
    options: TerminalOptions,
    /// The conversation without the system message.
    messages: Vec<Message>,
    stopped: &'a AtomicBool,
}

impl Talk<'_> {
    fn converse(
        mut self,
        place: Place,
        read: &mut dyn FnMut() -> Result<Input>,
        output: &mut dyn Write,
    ) -> Result<()> {
        loop {
            match read()? {
                Input::End => return Ok(()),
                Input::Interrupted => writeln!(output, "(/quit or Ctrl-D leaves)")?,
                Input::Line(line) if line.trim().is_empty() => {}
                Input::Line(line) if line.starts_with('/') => {
                    if self.command(line.trim_end(), output)?.is_break() {
                        return Ok(());
                    }
                }
                Input::Line(line) => match (self.answer(line.trim(), output), place) {
                    (Err(error @ Error::Terminal(_)), _) | (Err(error), Place::Pipe) => return Err(error),
                    (Err(error), Place::Terminal) => writeln!(output, "error: {error}")?,
                    (Ok(()), _) => {}
                },
            }
        }
    }

    fn command(&mut self, line: &str, output: &mut dyn Write) -> Result<Flow> {
        let (name, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match name {
            "/quit" | "/exit" => return Ok(Flow::Break(())),
            "/help" => write!(output, "{HELP}")?,
            "/reset" => {
                self.messages.clear();
                writeln!(output, "(the conversation is forgotten)")?;
            }
            "/system" => {
                self.options.system = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
                let state = if self.options.system.is_some() { "set" } else { "removed" };
                writeln!(output, "(the system message is {state})")?;
            }
            _ => writeln!(output, "(there is no command {name}; /help lists them)")?,
        }
        Ok(Flow::Continue(()))
    }

    /// Sends one message and writes the answer as it comes. Where there is no answer, the message is
    /// forgotten.
    fn answer(&mut self, text: &str, output: &mut dyn Write) -> Result<()> {
        self.messages.push(Message::new(Role::User, text));
        let answered = self.make_room(output).and_then(|left| self.stream(left, output));
        match answered {
            Ok(message) => self.messages.push(message),
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        }
        Ok(())
    }

    fn stream(&mut self, left: usize, output: &mut dyn Write) -> Result<Message> {
        let mut options = self.options.answer.clone();
        options.max_tokens = Some(options.max_tokens.unwrap_or(left).min(left));
        let request = ChatRequest { messages: self.conversation(), options, ..ChatRequest::default() };
        self.stopped.store(false, Ordering::Relaxed);
        let mut written = Ok(());
        let reply = self.model.reply(&request, &mut |delta| {
            written = output.write_all(delta.text.as_bytes()).and_then(|()| output.flush());
            let go_on = written.is_ok() && !self.stopped.load(Ordering::Relaxed);
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        match reply.finish {
            FinishReason::Stop => writeln!(output)?,
            FinishReason::Length => {
                writeln!(output, " …\n(cut off at {} tokens)", reply.usage.completion_tokens)?
            }
            FinishReason::Cancelled => writeln!(output, " …\n(stopped)")?,
        }
        Ok(reply.message)
    }

    /// Drops the oldest turns, and says so, until the conversation leaves room for an answer; returns the
    /// tokens left.
    fn make_room(&mut self, output: &mut dyn Write) -> Result<usize> {
        let context_tokens = self.model.context_tokens();
        let share = context_tokens / ANSWER_SHARE;
        let wanted = self.options.answer.max_tokens.map_or(share, |tokens| tokens.min(share)).max(1);
        let mut dropped = 0;
        loop {
            let prompt_tokens = self.model.count_tokens(&self.conversation())?;
            let left = context_tokens.saturating_sub(prompt_tokens);
            if left >= wanted || (left > 0 && self.messages.len() == 1) {
                if dropped > 0 {
                    writeln!(
                        output,
                        "(the conversation exceeds the context of {context_tokens} tokens; \
                         its {dropped} oldest messages are forgotten)"
                    )?;
                }
                return Ok(left);
            }
            if self.messages.len() == 1 {
                return Err(Error::ContextLength { prompt_tokens, answer_tokens: 1, context_tokens });
            }
            // A question goes with its answer.
            let turn = self.messages.iter().skip(1).position(|message| message.role == Role::User);
            dropped += self.messages.drain(..turn.map_or(1, |index| index + 1)).count();
        }
    }

    fn conversation(&self) -> Vec<Message> {
        let system = self.options.system.iter().map(|text| Message::new(Role::System, text.as_str()));
        system.chain(self.messages.iter().cloned()).collect()
    }
}

fn read_edited(editor: &mut rustyline::DefaultEditor) -> Result<Input> {
    match editor.readline("> ") {
        Ok(line) => {
            if !line.trim().is_empty() {
                editor.add_history_entry(line.as_str()).map_err(terminal_error)?;
            }
            Ok(Input::Line(line))
        }
        Err(rustyline::error::ReadlineError::Interrupted) => Ok(Input::Interrupted),
        Err(rustyline::error::ReadlineError::Eof) => Ok(Input::End),
        Err(error) => Err(terminal_error(error)),
    }
}

fn read_piped(input: &mut dyn BufRead) -> Result<Input> {
    let mut line = String::new();
    Ok(if input.read_line(&mut line)? == 0 { Input::End } else { Input::Line(line) })
}

fn terminal_error(error: rustyline::error::ReadlineError) -> Error {
    match error {
        rustyline::error::ReadlineError::Io(error) => Error::Terminal(error),
        other => Error::Terminal(std::io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Delta, OnDelta, Reply, Usage};

    /// A model whose tokens are words and which answers with the number of messages and the last one.
    struct Echo {
        asked: Vec<Vec<Message>>,
    }

    impl ChatModel for Echo {
        fn reply(&mut self, request: &ChatRequest, on_delta: OnDelta<'_>) -> Result<Reply> {
            self.asked.push(request.messages.clone());
            let text = format!("{} {}", request.messages.len(), request.messages.last().unwrap().content);
            let mut finish = FinishReason::Stop;
            for piece in text.split_inclusive(' ') {
                if on_delta(Delta { text: piece.to_owned(), ..Delta::default() }).is_break() {
                    finish = FinishReason::Cancelled;
                    break;
                }
            }
            let message = Message::new(Role::Assistant, text);
            Ok(Reply { message, finish, usage: Usage::default(), tokens: Vec::new(), stop: None })
        }

        fn count_tokens(&self, messages: &[Message]) -> Result<usize> {
            Ok(messages.iter().map(|message| message.content.split_whitespace().count()).sum())
        }

        fn context_tokens(&self) -> usize {
            12
        }

        fn name(&self) -> &str {
            "echo"
        }
    }

    fn talk(place: Place, input: &str) -> (Result<()>, String, Echo) {
        let mut model = Echo { asked: Vec::new() };
        let stopped = AtomicBool::new(false);
        let options = TerminalOptions::default();
        let talk = Talk { model: &mut model, options, messages: Vec::new(), stopped: &stopped };
        let mut input = input.as_bytes();
        let mut output = Vec::new();
        let result = talk.converse(place, &mut || read_piped(&mut input), &mut output);
        (result, String::from_utf8(output).unwrap(), model)
    }

    #[test]
    fn turns_and_commands() {
        let check = |input: &str, expected: &str| {
            let (result, output, _) = talk(Place::Terminal, input);
            result.unwrap();
            assert_eq!(output, expected, "{input:?}");
        };
        check("hello\n\n你好\n", "1 hello\n3 你好\n");
        check("last line without an end", "1 last line without an end\n");
        check("a\n/reset\nb\n", "1 a\n(the conversation is forgotten)\n1 b\n");
        check(
            "/system be brief\na\n/system\nb",
            "(the system message is set)\n2 a\n(the system message is removed)\n3 b\n",
        );
        check("a\n/quit\nb", "1 a\n");
        check("/nonsense\n /nonsense", "(there is no command /nonsense; /help lists them)\n1 /nonsense\n");
        check("/help", HELP);
    }

    #[test]
    fn the_oldest_turns_are_forgotten_aloud_when_the_context_is_full() {
        let (result, output, model) = talk(Place::Pipe, "one two\nthree four\nfive six seven\n");
        result.unwrap();
        // After two turns the conversation has 4 + 3 + … words: the third message leaves under a quarter of
        // twelve.
        assert!(
            output.contains(
                "(the conversation exceeds the context of 12 tokens; its 2 oldest messages are forgotten)"
            ),
            "{output}"
        );
        assert_eq!(model.asked[2][0].content, "three four");
    }

    #[test]
    fn a_message_longer_than_the_context_is_refused_with_both_numbers() {
        let long = "w ".repeat(12);
        let (result, output, _) = talk(Place::Terminal, &format!("{long}\nshort\n"));
        result.unwrap();
        assert!(
            output.starts_with("error: this model's context is 12 tokens, but 13 were requested"),
            "{output}"
        );
        assert!(output.ends_with("\n1 short\n"), "the refused message is forgotten: {output}");
        let (result, _, model) = talk(Place::Pipe, &format!("{long}\nshort\n"));
        assert!(matches!(result, Err(Error::ContextLength { .. })) && model.asked.is_empty());
    }

    #[test]
    fn ctrl_c_stops_the_answer() {
        let mut model = Echo { asked: Vec::new() };
        let stopped = AtomicBool::new(false);
        let options = TerminalOptions::default();
        let mut talk = Talk { model: &mut model, options, messages: Vec::new(), stopped: &stopped };
        struct Interrupting<'a>(&'a AtomicBool, Vec<u8>);
        impl Write for Interrupting<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.store(true, Ordering::Relaxed);
                self.1.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut output = Interrupting(&stopped, Vec::new());
        talk.answer("a b c", &mut output).unwrap();
        assert_eq!(String::from_utf8(output.1).unwrap(), "1  …\n(stopped)\n");
    }
}
