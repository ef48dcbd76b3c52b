//! Many requests on their way through one engine: who steps, who waits, whose pages are kept. Knows neither
//! how a forward pass is computed nor text.
//!
//! Each step is one forward pass over rows of many sequences: one row for each answer that is being
//! generated, the rest for prompts. Requests join and leave between steps. Pages that requests have filled
//! stay in a tree for later requests that begin alike, until others need them; where none are left, the
//! youngest answer gives its pages back and computes them anew later. None of this changes an answer.

mod answer;
mod draft;
mod plan;

use std::ops::ControlFlow;

use answer::{Answer, Scratch};
use draft::DraftModel;

use crate::prefix::{Found, PrefixTree, Root};
use crate::{
    Adapter, Chunk, Durations, Engine, Error, Finish, FinishReason, Request, Result, Sequence, Token,
    TokenLogProbs,
};

/// A request that a scheduler has taken; never used twice, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What happens to a request: its prompt's log-probabilities where they were asked for, its tokens, and at
/// last one of [`Event::Finished`] and [`Event::Failed`].
#[derive(Debug)]
pub enum Event {
    /// The log-probabilities of the prompt's ids: one for each but the first, which nothing precedes.
    Prompt(Vec<TokenLogProbs>),
    /// The next token.
    Token(Token),
    /// The answer has ended.
    Finished(Finish),
    /// There is no more of the answer.
    Failed(Error),
}

/// Receives what happens. `Break` ends that request alone, with [`FinishReason::Cancelled`].
pub type OnEvent<'a> = &'a mut dyn FnMut(Ticket, Event) -> ControlFlow<()>;

/// What a scheduler is doing, and what it has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests that step.
    pub running: usize,
    /// Requests that wait for their turn.
    pub waiting: usize,
    /// Pages in all.
    pub pages_total: usize,
    /// Pages that requests under way hold.
    pub pages_used: usize,
    /// Pages that are kept for later requests and given up when they are needed.
    pub pages_cached: usize,
    /// Forward passes.
    pub steps: u64,
    /// Rows (tokens) that were computed.
    pub rows: u64,
    /// Tokens of the prompts that were begun.
    pub prompt_tokens: u64,
    /// Of these, tokens whose keys and values were in the prefix cache.
    pub cached_tokens: u64,
    /// Prompts that were begun.
    pub prompts: u64,
    /// Of these, prompts of which the prefix cache knew a part.
    pub cached_prompts: u64,
    /// Tokens that were generated and handed out.
    pub generated_tokens: u64,
    /// How long it took to find the ids that a constraint allows, for one id of one answer.
    pub masks: Durations,
    /// Ids that were guessed ahead and checked.
    pub guessed_tokens: u64,
    /// Of these, ids that were right.
    pub right_tokens: u64,
    /// Adapters that requests may name.
    pub adapters: usize,
    /// Times that an answer gave its pages back to older ones.
    pub preemptions: u64,
}

/// Requests under way in one engine.
pub struct Scheduler {
    engine: Engine,
    prefixes: PrefixTree,
    draft: Option<DraftModel>,
    /// What steps, the oldest ticket first. Beside `answers`, since a step takes chunks that lie side by
    /// side.
    chunks: Vec<Chunk>,
    answers: Vec<Answer>,
    waiting: Vec<(Answer, Sequence)>,
    /// Last events that no step has handed out yet.
    undelivered: Vec<(Ticket, Event)>,
    next_ticket: u64,
    counts: Statistics,
    /// Room for a look-up and for the order of prompts.
    found: Found,
    order: Vec<usize>,
    /// Room for who guesses how many ids.
    wants: Vec<(usize, usize)>,
    scratch: Scratch,
}

impl Scheduler {
    /// A scheduler without requests.
    pub fn new(engine: Engine) -> Self {
        let prefixes = PrefixTree::new(engine.pages());
        Self {
            engine,
            prefixes,
            draft: None,
            chunks: Vec::new(),
            answers: Vec::new(),
            waiting: Vec::new(),
            undelivered: Vec::new(),
            next_ticket: 0,
            counts: Statistics::default(),
            found: Found::default(),
            order: Vec::new(),
            wants: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// A scheduler whose ids are guessed ahead by a smaller model with the same vocabulary.
    ///
    /// # Errors
    /// [`Error::Vocabularies`] where the vocabularies differ in size.
    pub fn with_draft(engine: Engine, draft: Engine) -> Result<Self> {
        let (vocabulary, draft_vocabulary) = (engine.config().vocab_size, draft.config().vocab_size);
        if vocabulary != draft_vocabulary {
            return Err(Error::Vocabularies { vocabulary, draft_vocabulary });
        }
        Ok(Self { draft: Some(DraftModel::new(draft)), ..Self::new(engine) })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Takes adapters on; see [`Engine::insert_adapter`].
    ///
    /// # Errors
    /// As there.
    pub fn insert_adapter(&mut self, adapter: Adapter) -> Result<()> {
        self.engine.insert_adapter(adapter)
    }

    /// Lets adapters go. Requests under way that name them go on to their end; what they have left in the prefix cache is
    /// forgotten.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn remove_adapter(&mut self, name: &str) -> Result<()> {
        let adapter = self.engine.remove_adapter(name)?;
        self.prefixes.forget(&adapter);
        Ok(())
    }

    /// Takes a request on. It is served in the order of the rows computed before it came plus the length of
    /// its own prompt: equals in the order of their coming, a short one before a long one that came a little
    /// earlier, and a long one after at most as many rows of others as it has itself.
    ///
    /// # Errors
    /// See [`Scheduler::check`].
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        self.check(&request)?;
        let ticket = Ticket(self.next_ticket);
        let tokens = request.prompt.len() + request.max_tokens;
        let mut sequence = self.engine.sequence_with(tokens, request.adapter.as_deref())?;
        sequence.extend(&request.prompt);
        let rank = self.counts.rows + request.prompt.len() as u64;
        let answer = Answer::new(ticket, request, rank)?;
        self.next_ticket += 1;
        self.waiting.push((answer, sequence));
        Ok(ticket)
    }

    /// Whether a request can be answered at all.
    ///
    /// # Errors
    /// See [`Engine::check`]; also where the cache has fewer pages than the whole answer needs.
    pub fn check(&self, request: &Request) -> Result<()> {
        self.engine.check(request)?;
        let pages = self.engine.pages();
        let (total, page_tokens) = (pages.total(), pages.page_tokens());
        let wanted = (request.prompt.len() + request.max_tokens).div_ceil(page_tokens);
        if wanted > total {
            return Err(Error::OutOfPages { wanted, free: total, total, page_tokens });
        }
        Ok(())
    }

    /// Ends a request at once and gives its pages back; no event of it follows. `None` where it is not under
    /// way.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<Finish> {
        let answer = if let Some(index) = self.answers.iter().position(|answer| answer.ticket == ticket) {
            self.leave(index)
        } else {
            let index = self.waiting.iter().position(|(answer, _)| answer.ticket == ticket)?;
            self.waiting.remove(index).0
        };
        Some(answer.finish(FinishReason::Cancelled))
    }

    /// Ends all requests without an event and forgets the cached pages, so that a scheduler in which a step
    /// panicked is as good as new.
    pub fn abandon(&mut self) {
        self.chunks.clear();
        self.answers.clear();
        self.waiting.clear();
        self.undelivered.clear();
        self.prefixes.clear();
        self.draft.iter_mut().for_each(DraftModel::forget_all);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && self.waiting.is_empty() && self.undelivered.is_empty()
    }

    /// What is under way, and what was counted.
    pub fn statistics(&self) -> Statistics {
        let pages = self.engine.pages();
        let pages_cached = self.prefixes.evictable();
        Statistics {
            running: self.answers.len(),
            waiting: self.waiting.len(),
            pages_total: pages.total(),
            pages_used: pages.total() - pages.free() - pages_cached,
            pages_cached,
            masks: self.scratch.masks,
            adapters: self.engine.adapters().len(),
            ..self.counts
        }
    }

    /// One forward pass over all that is under way, and what came of it. Does nothing where all is idle.
    pub fn step(&mut self, on: OnEvent<'_>) {
        self.deliver(on);
        self.admit();
        self.plan();
        self.take_pages();
        if !self.answers.is_empty() {
            self.advance(on);
        }
        self.remove_ended(on);
        self.deliver(on);
    }

    fn advance(&mut self, on: OnEvent<'_>) {
        let Self { engine, prefixes, chunks, answers, counts, scratch, .. } = self;
        let keeps = engine.options().prefix_cache;
        let logits = engine
            .step(chunks)
            .expect("ids and lengths were checked when requests came, and each chunk has its pages");
        counts.steps += 1;
        for (index, (answer, chunk)) in answers.iter_mut().zip(chunks).enumerate() {
            let (filled, generated) = (answer.prefilling && chunk.rows > 0, answer.generated());
            counts.rows += chunk.rows as u64;
            counts.guessed_tokens += answer.guessing.open as u64;
            counts.right_tokens += answer.receive(chunk, logits.of(index), scratch, on) as u64;
            counts.generated_tokens += (answer.generated() - generated) as u64;
            if keeps && filled && !matches!(answer.ended, Some(Err(_))) {
                remember(prefixes, &chunk.sequence);
            }
        }
    }

    /// Lets go of the answers that have ended.
    fn remove_ended(&mut self, on: OnEvent<'_>) {
        let mut index = 0;
        while index < self.answers.len() {
            if self.answers[index].ended.is_none() {
                index += 1;
                continue;
            }
            let mut answer = self.leave(index);
            if let Some(event) = answer.last_event() {
                // The answer is over, so whether its receiver wants more makes no difference.
                let _ = on(answer.ticket, event);
            }
        }
    }

    fn deliver(&mut self, on: OnEvent<'_>) {
        for (ticket, event) in self.undelivered.drain(..) {
            // As above.
            let _ = on(ticket, event);
        }
    }

    /// Takes an answer out of those that step; its pages stay for later requests.
    fn leave(&mut self, index: usize) -> Answer {
        let chunk = self.chunks.remove(index);
        let answer = self.answers.remove(index);
        self.draft.iter_mut().for_each(|draft| draft.forget(answer.ticket));
        if self.engine.options().prefix_cache && !matches!(answer.ended, Some(Err(_))) {
            remember(&mut self.prefixes, &chunk.sequence);
        }
        answer
    }

    /// Keeps an event for the next step.
    pub(crate) fn postpone(&mut self, ticket: Ticket, event: Event) {
        self.undelivered.push((ticket, event));
    }
}

/// What decides, beside its ids, what a sequence's keys and values are.
fn root_of(sequence: &Sequence) -> Root {
    Root { rotary: sequence.rotary.clone(), adapter: sequence.adapter.clone() }
}

/// Keeps a sequence's pages for others that begin alike.
fn remember(prefixes: &mut PrefixTree, sequence: &Sequence) {
    if sequence.adapter.as_ref().is_some_and(|adapter| adapter.is_retired()) {
        return;
    }
    let computed = &sequence.ids()[..sequence.computed()];
    prefixes.insert(&root_of(sequence), computed, sequence.pages.pages());
}
