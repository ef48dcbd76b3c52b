//! One answer as it grows, from the engine's events to text. Knows neither templates nor who else is being
//! answered.

use std::ops::ControlFlow;
use std::sync::Arc;

use engine::Ticket;
use token::{Message, Role, SpecialTokens, StreamDecoder, Tokenizer};

use crate::stream::{TextStream, token_text};
use crate::{CompletionReply, Delta, Error, FinishReason, Reply, TokenText, Usage};

/// An answer that is under way; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(pub(crate) Ticket);

/// What happens to an answer: pieces, then one of the others, after which nothing comes.
#[derive(Debug)]
pub enum AnswerEvent {
    /// A piece of it. An empty one says that the answer goes on while its text is held back.
    Delta(Delta),
    /// A conversation is answered.
    Reply(Reply),
    /// A prompt is continued.
    Completion(CompletionReply),
    /// There is no more of it.
    Failed(Error),
}

/// Receives what happens to many answers. `Break` ends that answer alone, with [`FinishReason::Cancelled`].
pub type OnAnswer<'a> = &'a mut dyn FnMut(AnswerId, AnswerEvent) -> ControlFlow<()>;

/// Receives what happens to one answer.
type OnEvent<'a> = &'a mut dyn FnMut(AnswerEvent) -> ControlFlow<()>;

/// What an answer becomes.
#[derive(Clone)]
pub(crate) enum Kind {
    /// A message of the assistant.
    Reply,
    /// A text, after the prompt's own where that is to be echoed.
    Completion(Option<Echo>),
}

/// A prompt that is to stand before its continuation.
#[derive(Clone)]
pub(crate) struct Echo {
    pub prompt: Vec<u32>,
    /// Whether its log-probabilities come before it can go out.
    pub scored: bool,
}

/// An answer under way.
pub(crate) struct Answer {
    pub id: AnswerId,
    kind: Kind,
    stream: TextStream,
    tokenizer: Arc<Tokenizer>,
    text: String,
    tokens: Vec<TokenText>,
}

impl Answer {
    pub fn new(id: AnswerId, kind: Kind, stream: TextStream, tokenizer: Arc<Tokenizer>) -> Self {
        Self { id, kind, stream, tokenizer, text: String::new(), tokens: Vec::new() }
    }

    /// Takes what happened; `Break` where a stop string ended the answer or the receiver did.
    pub fn take(&mut self, event: engine::Event, on: OnEvent<'_>) -> ControlFlow<()> {
        match event {
            engine::Event::Prompt(known) => self.open(&known, on),
            engine::Event::Token(token) => {
                self.open(&[], on)?;
                let delta = Delta { ids: 1, ..self.stream.push(&token) };
                self.hand_on(delta, on)?;
                if self.stream.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            engine::Event::Finished(finish) => {
                let gone = self.open(&[], on).is_break();
                self.close(&finish, gone, on)
            }
            engine::Event::Failed(error) => on(AnswerEvent::Failed(error.into())),
        }
    }

    /// Hands on the echoed prompt, once.
    fn open(&mut self, known: &[engine::TokenLogProbs], on: OnEvent<'_>) -> ControlFlow<()> {
        let Kind::Completion(echo) = &mut self.kind else { return ControlFlow::Continue(()) };
        let Some(echo) = echo.take() else { return ControlFlow::Continue(()) };
        let delta = echo.delta(&self.tokenizer, known);
        self.stream.begin_at(delta.text.chars().count());
        self.hand_on(delta, on)
    }

    /// Hands on what was held back, and the whole.
    fn close(&mut self, finish: &engine::Finish, gone: bool, on: OnEvent<'_>) -> ControlFlow<()> {
        let cancelled = gone || finish.reason == engine::FinishReason::Cancelled;
        if self.stream.stopped() || !cancelled {
            let delta = self.stream.finish();
            // The answer is over, so whether its receiver wants more makes no difference.
            let _ = self.hand_on(delta, on);
        }
        if !self.stream.stopped() && !cancelled {
            self.list_stop_id(finish, on);
        }
        let reason = match finish.reason {
            _ if self.stream.stopped() => FinishReason::Stop,
            _ if cancelled => FinishReason::Cancelled,
            engine::FinishReason::StopId(_) => FinishReason::Stop,
            engine::FinishReason::Length => FinishReason::Length,
            engine::FinishReason::Cancelled => FinishReason::Cancelled,
        };
        let usage = Usage {
            prompt_tokens: finish.prompt_tokens,
            completion_tokens: finish.completion_tokens,
            cached_tokens: finish.cached_tokens,
            reasoning_tokens: 0,
        };
        let (text, tokens) = (std::mem::take(&mut self.text), std::mem::take(&mut self.tokens));
        on(match self.kind {
            Kind::Reply => {
                let message = Message::new(Role::Assistant, text);
                let stop = self.stream.stop().map(str::to_owned);
                AnswerEvent::Reply(Reply { message, finish: reason, usage, tokens, stop })
            }
            Kind::Completion(_) => {
                AnswerEvent::Completion(CompletionReply { text, finish: reason, usage, tokens })
            }
        })
    }

    /// A text's list of tokens has the id that ended it as well, as in OpenAI's interface: programs that score texts with
    /// one token of an answer take the last one off.
    fn list_stop_id(&mut self, finish: &engine::Finish, on: OnEvent<'_>) {
        if let (Kind::Completion(_), engine::FinishReason::StopId(id), Some(known)) =
            (&self.kind, finish.reason, &finish.stop_logprobs)
        {
            let token = token_text(&self.tokenizer, id, self.text.chars().count(), Some(known));
            let _ = self.hand_on(Delta { text: String::new(), tokens: vec![token], ids: 0 }, on);
        }
    }

    /// An empty delta is handed on too, so that a receiver that went away is noticed while text is held back.
    fn hand_on(&mut self, delta: Delta, on: OnEvent<'_>) -> ControlFlow<()> {
        self.text += &delta.text;
        self.tokens.extend_from_slice(&delta.tokens);
        on(AnswerEvent::Delta(delta))
    }
}

impl Echo {
    /// The prompt as the beginning of an answer, with what is known of its ids but the first.
    fn delta(&self, tokenizer: &Tokenizer, known: &[engine::TokenLogProbs]) -> Delta {
        let mut decoder = StreamDecoder::new(tokenizer, SpecialTokens::Hide);
        let (mut text, mut characters, mut tokens) = (String::new(), 0, Vec::new());
        for (position, &id) in self.prompt.iter().enumerate() {
            if self.scored {
                // Nothing precedes the first id, so there is no probability for it.
                let known = position.checked_sub(1).map(|index| &known[index]);
                tokens.push(token_text(tokenizer, id, characters, known));
            }
            let piece = decoder.push(id);
            characters += piece.chars().count();
            text += &piece;
        }
        text += &decoder.finish();
        Delta { text, tokens, ids: 0 }
    }
}
