//! An answer as it grows: the model's pieces taken apart into reasoning, text and calls, for each choice. Knows neither HTTP nor
//! how they are written down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use chat::format::{AnswerParser, Piece};
use chat::{Delta, FinishReason, TokenText, ToolCall, Usage};

use crate::metrics::Metrics;
use crate::outbox::{Event, Events};
use crate::spans::Span;
use crate::wire::ApiError;

/// One answer of a request, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub reasoning: String,
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub tokens: Vec<TokenText>,
    /// Why it ended; `None` while it goes on.
    pub finish: Option<FinishReason>,
    pub usage: Usage,
    /// Tokens of reasoning so far, marks included.
    pub reasoning_tokens: usize,
    /// The stop string that ended it, if one did.
    pub stop: Option<String>,
    /// Whether the last call is still being written.
    calls_on: bool,
}

impl Choice {
    fn begin_call(&mut self, name: String, short_id: bool) {
        self.calls.push(ToolCall { id: crate::ids::call_id(short_id), name, arguments: String::new() });
        self.calls_on = true;
    }

    fn more_arguments(&mut self, text: &str) {
        if let Some(call) = self.calls.last_mut() {
            call.arguments += text;
        }
    }

    fn end_call(&mut self, index: usize) -> Option<Change> {
        std::mem::take(&mut self.calls_on).then(|| Change::CallEnd(index, self.calls.len() - 1))
    }
}

/// What is new about a choice, whose number comes first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Reasoning(usize, String),
    /// With the tokens whose text ended, which may be in reasoning or calls.
    Text(usize, String, Vec<TokenText>),
    /// The call with this number begins: its name is known.
    CallBegin(usize, usize),
    /// More of the arguments of the call with this number.
    Arguments(usize, usize, String),
    /// The call with this number has ended.
    CallEnd(usize, usize),
    End(usize),
}

/// All choices of a request.
pub(crate) struct Progress {
    events: Events,
    pub choices: Vec<Choice>,
    /// None for texts, which are taken as they are.
    parsers: Vec<AnswerParser>,
    /// Mistral's templates want identifiers of nine characters.
    short_ids: bool,
    metrics: Arc<Metrics>,
    last: Instant,
    began: bool,
    span: Option<Span>,
}

impl Progress {
    /// So many choices; a `parser` where they are messages.
    pub fn new(
        events: Events,
        choices: usize,
        parser: Option<AnswerParser>,
        metrics: Arc<Metrics>,
    ) -> Progress {
        Progress {
            events,
            choices: vec![Choice::default(); choices],
            parsers: parser.map(|parser| vec![parser; choices]).unwrap_or_default(),
            short_ids: false,
            metrics,
            last: Instant::now(),
            began: false,
            span: None,
        }
    }

    /// With a span that ends as the answer does.
    pub fn with_span(self, span: Option<Span>) -> Progress {
        Progress { span, ..self }
    }

    /// Gives calls identifiers of nine characters.
    pub fn with_short_ids(self, short_ids: bool) -> Progress {
        Progress { short_ids, ..self }
    }

    /// Whether every choice has ended.
    pub fn is_done(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// The counts of all choices together.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for choice in &self.choices {
            sum.prompt_tokens += choice.usage.prompt_tokens;
            sum.cached_tokens += choice.usage.cached_tokens;
            sum.completion_tokens += choice.usage.completion_tokens;
            sum.reasoning_tokens += choice.usage.reasoning_tokens;
        }
        sum
    }

    /// What happens next; empty where that says nothing.
    ///
    /// # Errors
    /// The failure that ended the answer.
    pub async fn next(&mut self) -> Result<Vec<Change>, ApiError> {
        let event = self.events.recv().await;
        self.take(event)
    }

    /// [`Progress::next`] for what polls.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<Vec<Change>, ApiError>> {
        self.events.poll_recv(context).map(|event| self.take(event))
    }

    fn take(&mut self, event: Option<Event>) -> Result<Vec<Change>, ApiError> {
        let mut changes = Vec::new();
        match event {
            None => return Err(ApiError::closing()),
            Some(Event::Failed(error)) => {
                if let Some(span) = &mut self.span {
                    span.fail(error.code().unwrap_or("failed"));
                }
                return Err(error);
            }
            Some(Event::Delta(index, delta)) => {
                self.time();
                self.choices[index].tokens.extend_from_slice(&delta.tokens);
                self.text(index, delta, &mut changes);
            }
            Some(Event::Chat(index, reply, ids)) => {
                self.choices[index].stop = reply.stop;
                if self.parsers.get(index).is_some_and(AnswerParser::is_reasoning) {
                    self.choices[index].reasoning_tokens += ids;
                }
                self.end(index, reply.finish, reply.usage, &mut changes);
            }
            Some(Event::Completion(index, reply)) => self.end(index, reply.finish, reply.usage, &mut changes),
        }
        Ok(changes)
    }

    fn time(&mut self) {
        let waited = self.last.elapsed();
        self.last = Instant::now();
        let began = std::mem::replace(&mut self.began, true);
        if began { self.metrics.between_tokens.add(waited) } else { self.metrics.first_token.add(waited) }
    }

    fn text(&mut self, index: usize, delta: Delta, changes: &mut Vec<Change>) {
        let Delta { text, tokens, ids } = delta;
        let Some(parser) = self.parsers.get_mut(index) else {
            self.choices[index].text += &text;
            changes.push(Change::Text(index, text, tokens));
            return;
        };
        let was_reasoning = parser.is_reasoning();
        let pieces = parser.push(&text);
        if was_reasoning || parser.is_reasoning() {
            self.choices[index].reasoning_tokens += ids;
        }
        self.pieces(index, pieces, changes);
        if tokens.is_empty() {
            return;
        }
        match changes.iter_mut().find(|change| matches!(change, Change::Text(..))) {
            Some(Change::Text(_, _, known)) => *known = tokens,
            _ => changes.push(Change::Text(index, String::new(), tokens)),
        }
    }

    fn pieces(&mut self, index: usize, pieces: Vec<Piece>, changes: &mut Vec<Change>) {
        let choice = &mut self.choices[index];
        for piece in pieces {
            // Of the call that has begun, or that begins.
            let (last, next) = (choice.calls.len().saturating_sub(1), choice.calls.len());
            match piece {
                Piece::Reasoning(text) => {
                    choice.reasoning += &text;
                    changes.push(Change::Reasoning(index, text));
                }
                Piece::Text(text) => {
                    choice.text += &text;
                    changes.push(Change::Text(index, text, Vec::new()));
                }
                Piece::Call(call) => {
                    choice.begin_call(call.name, self.short_ids);
                    changes.push(Change::CallBegin(index, next));
                    choice.more_arguments(&call.arguments);
                    changes.push(Change::Arguments(index, next, call.arguments));
                    changes.extend(choice.end_call(index));
                }
                Piece::CallBegin(name) => {
                    choice.begin_call(name, self.short_ids);
                    changes.push(Change::CallBegin(index, next));
                }
                Piece::Arguments(text) => {
                    choice.more_arguments(&text);
                    changes.push(Change::Arguments(index, last, text));
                }
                Piece::CallEnd => changes.extend(choice.end_call(index)),
            }
        }
    }

    fn end(&mut self, index: usize, finish: FinishReason, usage: Usage, changes: &mut Vec<Change>) {
        if let Some(parser) = self.parsers.get_mut(index) {
            let pieces = parser.finish();
            self.pieces(index, pieces, changes);
        }
        let choice = &mut self.choices[index];
        let usage = Usage { reasoning_tokens: choice.reasoning_tokens, ..usage };
        (choice.finish, choice.usage) = (Some(finish), usage);
        // A limit of tokens may have cut a call short.
        changes.extend(choice.end_call(index));
        self.metrics.prompt_tokens.fetch_add(usage.prompt_tokens as u64, Ordering::Relaxed);
        self.metrics.generated_tokens.fetch_add(usage.completion_tokens as u64, Ordering::Relaxed);
        changes.push(Change::End(index));
        if self.is_done() {
            self.end_span();
        }
    }

    fn end_span(&mut self) {
        let usage = self.usage();
        let reason = |choice: &Choice| match choice.finish {
            Some(FinishReason::Stop) if !choice.calls.is_empty() => "tool_calls",
            Some(FinishReason::Stop) => "stop",
            _ => "length",
        };
        let reasons: Vec<&str> = self.choices.iter().map(reason).collect();
        if let Some(mut span) = self.span.take() {
            span.end(usage.prompt_tokens, usage.completion_tokens, &reasons);
        }
    }
}
