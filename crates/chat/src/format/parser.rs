//! An answer taken apart as it grows: reasoning, text, calls. What looks like a call and is none comes back as text.
//! Fed in whatever pieces, the result is the same.

use serde_json::Value;
use token::ToolCall;

use super::bodies::Fault;
use super::live::{Found, Live};
use super::{AnswerFormat, Block, Body};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The model thinks.
    Reasoning(String),
    /// The model says.
    Text(String),
    /// The model calls a tool; the call has no identifier yet.
    Call(ToolCall),
    /// The model begins to call the tool of this name; only from [`AnswerParser::with_certain_calls`].
    CallBegin(String),
    /// More of the arguments of the call that has begun.
    Arguments(String),
    /// The call that has begun is complete.
    CallEnd,
}

/// Takes one answer apart.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    format: AnswerFormat,
    /// The tools that may be called; without any, nothing is a call.
    tools: Vec<Value>,
    state: State,
    /// Text that came and is not yet certain to be anything.
    held: String,
    /// White space after text, which goes out when text follows.
    space: String,
    /// Whether white space is dropped because markup came before it.
    skips_space: bool,
    /// Whether anything but white space came.
    began: bool,
    /// Whether what begins like a call is one, as the grammar of the answer has it.
    certain: bool,
    out: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// Whether some of it has gone out.
    Reasoning {
        began: bool,
    },
    /// In a block of calls; no closing mark ends before this byte of what is held.
    Call {
        block: Block,
        searched: usize,
    },
    /// In a block of calls that are certain.
    Live(Live),
    /// An answer that may be nothing but objects.
    Objects,
}

/// What text may turn into.
#[derive(Clone, Copy)]
enum Turn {
    Reasoning,
    Call(Block),
    /// A mark that says nothing.
    Dropped,
}

impl AnswerParser {
    /// A parser at the beginning of an answer; `in_reasoning` where the prompt has begun the reasoning.
    pub fn new(format: &AnswerFormat, tools: &[Value], in_reasoning: bool) -> AnswerParser {
        let state = if in_reasoning { State::Reasoning { began: false } } else { State::Text };
        AnswerParser {
            format: format.clone(),
            tools: tools.to_vec(),
            state,
            held: String::new(),
            space: String::new(),
            skips_space: false,
            began: in_reasoning,
            certain: false,
            out: Vec::new(),
        }
    }

    /// For answers that are held to [`AnswerFormat::call_structure`]: what begins like a call is one, so calls come in pieces
    /// while they are written, where the family writes their arguments as JSON.
    pub fn with_certain_calls(self) -> AnswerParser {
        AnswerParser { certain: true, ..self }
    }

    /// Whether what comes next is reasoning, as far as is certain by now.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning { .. })
    }

    /// Takes the next piece of the answer and returns what is certain by now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        while self.step() {}
        std::mem::take(&mut self.out)
    }

    /// Ends the answer and returns what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Text => self.emit_text(&held, true),
            State::Reasoning { began } => self.emit_reasoning(held.trim_end(), began),
            State::Call { block, .. } => match block.body.parse(&held, &self.tools) {
                Ok(calls) => self.emit_calls(calls),
                Err(_) => {
                    self.emit_text(block.open, true);
                    self.emit_text(&held, true);
                }
            },
            State::Live(live) if !live.began => {
                if !self.format.bare_json {
                    self.emit_text(live.block.open, true);
                }
                self.emit_text(&held, true);
            }
            // What a limit of tokens cut off.
            State::Live(_) => {}
            State::Objects => match Body::Llama.parse(&held, &self.tools) {
                Ok(calls) => self.emit_calls(calls),
                Err(_) => self.emit_text(&held, true),
            },
        }
        let space = std::mem::take(&mut self.space);
        if !self.skips_space && !space.is_empty() {
            self.say(&space);
        }
        std::mem::take(&mut self.out)
    }

    /// Does what the held text allows; says whether more may be done.
    fn step(&mut self) -> bool {
        match self.state {
            State::Text => self.step_text(),
            State::Reasoning { began } => self.step_reasoning(began),
            State::Call { block, searched } => self.step_call(block, searched),
            State::Live(live) => self.step_live(live),
            State::Objects => self.step_objects(),
        }
    }

    fn turns(&self) -> Vec<(&'static str, Turn)> {
        let calls = self.format.block.filter(|_| !self.tools.is_empty());
        let reasoning = self.format.reasoning.map(|(open, _)| (open, Turn::Reasoning));
        let wrapper = self.format.wrapper.into_iter().flat_map(|(open, close)| [open, close]);
        let dropped = wrapper.map(|mark| (mark, Turn::Dropped));
        reasoning
            .into_iter()
            .chain(calls.map(|block| (block.open, Turn::Call(block))))
            .chain(dropped)
            .collect()
    }

    fn step_text(&mut self) -> bool {
        if !self.began && self.format.bare_json && !self.tools.is_empty() {
            match self.held.trim_start().chars().next() {
                None => return false,
                Some('{') => {
                    self.state = self.live().unwrap_or(State::Objects);
                    return true;
                }
                Some(_) => {}
            }
        }
        let turns = self.turns();
        let found = turns.iter().filter_map(|(mark, turn)| Some((self.held.find(mark)?, *mark, *turn)));
        // The first mark; of two at one place the longer.
        let found = found.min_by_key(|(at, mark, _)| (*at, std::cmp::Reverse(mark.len())));
        let Some((at, mark, turn)) = found else {
            let kept = turns.iter().map(|(mark, _)| overlap(&self.held, mark)).max().unwrap_or(0);
            let rest = self.held.split_off(self.held.len() - kept);
            let certain = std::mem::replace(&mut self.held, rest);
            self.emit_text(&certain, false);
            return false;
        };
        let rest = self.held.split_off(at + mark.len());
        let mut before = std::mem::replace(&mut self.held, rest);
        before.truncate(at);
        self.emit_text(&before, false);
        self.began = true;
        match turn {
            Turn::Reasoning => {
                self.space.clear();
                self.state = State::Reasoning { began: false };
            }
            Turn::Call(block) => self.state = self.live().unwrap_or(State::Call { block, searched: 0 }),
            Turn::Dropped => {
                self.space.clear();
                self.skips_space = true;
            }
        }
        true
    }

    fn step_reasoning(&mut self, began: bool) -> bool {
        let (open, close) = self.format.reasoning.expect("only a format with reasoning is in it");
        if !began {
            // The mark may come again after a prompt that ends with it.
            let trimmed = self.held.trim_start();
            if trimmed.is_empty() || (open.starts_with(trimmed) && trimmed.len() < open.len()) {
                return false;
            }
            let title = self.format.reasoning_title;
            if title.starts_with(trimmed) && trimmed.len() < title.len() {
                return false;
            }
            let trimmed = trimmed.strip_prefix(open).unwrap_or(trimmed);
            let trimmed = trimmed.trim_start().strip_prefix(title).unwrap_or(trimmed).trim_start();
            if trimmed.is_empty() {
                return false;
            }
            self.held = trimmed.to_owned();
            self.state = State::Reasoning { began: true };
            return true;
        }
        if let Some(at) = self.held.find(close) {
            let rest = self.held.split_off(at + close.len());
            let mut thought = std::mem::replace(&mut self.held, rest);
            thought.truncate(at);
            self.think(thought.trim_end());
            self.state = State::Text;
            self.skips_space = true;
            return true;
        }
        let kept = overlap(&self.held, close);
        let certain = self.held[..self.held.len() - kept].trim_end().len();
        let rest = self.held.split_off(certain);
        let thought = std::mem::replace(&mut self.held, rest);
        self.think(&thought);
        false
    }

    fn step_call(&mut self, block: Block, searched: usize) -> bool {
        let Some(close) = block.close else { return false };
        let from = (0..=searched.min(self.held.len())).rev().find(|&at| self.held.is_char_boundary(at));
        let Some(at) = self.held[from.unwrap_or(0)..].find(close).map(|at| at + from.unwrap_or(0)) else {
            let searched = self.held.len().saturating_sub(close.len());
            self.state = State::Call { block, searched: searched.max(from.unwrap_or(0)) };
            return false;
        };
        match block.body.parse(&self.held[..at], &self.tools) {
            // The mark stands within a text of the call.
            Err(Fault::Incomplete) => {
                self.state = State::Call { block, searched: at + close.len() };
                return true;
            }
            Ok(calls) => {
                self.held.drain(..at + close.len());
                self.emit_calls(calls);
            }
            Err(Fault::Malformed) => {
                let rest = self.held.split_off(at + close.len());
                let said = std::mem::replace(&mut self.held, rest);
                self.emit_text(block.open, true);
                self.emit_text(&said, true);
            }
        }
        self.state = State::Text;
        true
    }

    /// In a block of calls that are certain and can be handed on in pieces.
    fn live(&self) -> Option<State> {
        let block = self.format.block.filter(|_| self.certain)?;
        Live::begin(block).map(State::Live)
    }

    fn step_live(&mut self, mut live: Live) -> bool {
        let found = live.next(&self.held);
        self.state = State::Live(live);
        match found {
            Found::Nothing => return false,
            Found::Name(name, bytes) => {
                self.held.drain(..bytes);
                self.space.clear();
                self.skips_space = true;
                self.out.push(Piece::CallBegin(name));
            }
            Found::Arguments(bytes, ended) => {
                let text: String = self.held.drain(..bytes).collect();
                self.out.push(Piece::Arguments(text));
                if ended {
                    self.out.push(Piece::CallEnd);
                }
            }
            Found::Close(bytes) => {
                self.held.drain(..bytes);
                self.state = State::Text;
            }
        }
        true
    }

    /// Waits for the end as long as the text may be calls.
    fn step_objects(&mut self) -> bool {
        const KEYS: [&str; 5] = ["name", "type", "function", "parameters", "arguments"];
        let object = self.held.trim_start().strip_prefix('{').unwrap_or_default().trim_start();
        let key = object.strip_prefix('"');
        let fits = object.is_empty()
            || key.is_some_and(|key| match key.split_once('"') {
                Some((key, _)) => KEYS.contains(&key),
                None => KEYS.iter().any(|known| known.starts_with(key)),
            });
        if !fits {
            self.began = true;
            self.state = State::Text;
        }
        !fits
    }

    /// Text goes out; white space after it waits where a call may follow, unless `whole`.
    fn emit_text(&mut self, text: &str, whole: bool) {
        let mut text = text;
        if self.skips_space {
            text = text.trim_start();
        }
        if text.is_empty() {
            return;
        }
        let calls = self.format.block.is_some() && !self.tools.is_empty();
        let holds = !whole && (calls || self.format.reasoning.is_some());
        let end = if holds { text.trim_end().len() } else { text.len() };
        if end > 0 {
            self.skips_space = false;
            self.began = true;
            let space = std::mem::take(&mut self.space);
            self.say(&(space + &text[..end]));
        }
        self.space.push_str(&text[end..]);
    }

    fn emit_reasoning(&mut self, text: &str, began: bool) {
        self.think(if began { text } else { text.trim_start() });
    }

    fn emit_calls(&mut self, calls: Vec<ToolCall>) {
        self.space.clear();
        self.skips_space = true;
        self.out.extend(calls.into_iter().map(Piece::Call));
    }

    fn say(&mut self, text: &str) {
        if let Some(Piece::Text(last)) = self.out.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.out.push(Piece::Text(text.to_owned()));
        }
    }

    fn think(&mut self, text: &str) {
        if let Some(Piece::Reasoning(last)) = self.out.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.out.push(Piece::Reasoning(text.to_owned()));
        }
    }
}

/// Bytes of the longest end of `text` that is a beginning of `mark` and not all of it.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len() - 1);
    (1..=longest).rev().find(|&bytes| text.as_bytes().ends_with(&mark.as_bytes()[..bytes])).unwrap_or(0)
}
