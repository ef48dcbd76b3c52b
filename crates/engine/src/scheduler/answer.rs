//! One request under way: from rows of logits to tokens, and how it ends. Knows neither pages nor company.

use std::time::Instant;

use crate::sampler::{Room, Row, Sampler, highest};
use crate::scheduler::draft::Guessing;
use crate::scheduler::{Event, OnEvent, Ticket};
use crate::{
    Chunk, Durations, Error, Finish, FinishReason, LogProb, Mask, Request, Result, Rows, Token, TokenLogProbs,
};

/// Room that answers use one after another, so that they do not allocate.
#[derive(Default)]
pub(super) struct Scratch {
    room: Room,
    mask: Mask,
    /// How long masks took.
    pub masks: Durations,
    /// One row of log-probabilities, (vocabulary).
    log_probs: Vec<f32>,
}

/// One row of a step.
#[derive(Clone, Copy)]
struct OfRow<'a> {
    all: Rows<'a>,
    logits: &'a [f32],
}

/// A request and what has been found for it.
pub(super) struct Answer {
    pub ticket: Ticket,
    /// Its prompt lies in the sequence.
    pub request: Request,
    pub prompt_tokens: usize,
    /// Who is served first: the lowest. See [`super::Scheduler::submit`].
    pub rank: u64,
    /// Whether the prompt, or what was given back when the answer was preempted, is still to be computed.
    pub prefilling: bool,
    /// Of the prompt's ids, those that the cache held when the answer began; `None` before.
    pub cached_tokens: Option<usize>,
    /// How it ended.
    pub ended: Option<Result<FinishReason>>,
    /// Of the stop id that ended it, where they were asked for.
    stop_logprobs: Option<TokenLogProbs>,
    pub guessing: Guessing,
    sampler: Sampler,
    generated: usize,
    /// Of the prompt's ids but the first, as far as they are known; `None` once handed out.
    prompt_logprobs: Option<Vec<TokenLogProbs>>,
}

impl Answer {
    pub fn new(ticket: Ticket, mut request: Request, rank: u64) -> Result<Self> {
        let sampler = Sampler::new(request.sampling.clone(), &request.prompt)?;
        let prompt_tokens = std::mem::take(&mut request.prompt).len();
        Ok(Self {
            ticket,
            prompt_tokens,
            rank,
            prefilling: true,
            cached_tokens: None,
            ended: None,
            stop_logprobs: None,
            guessing: Guessing::default(),
            sampler,
            generated: 0,
            prompt_logprobs: request.prompt_logprobs.map(|_| Vec::new()),
            request,
        })
    }

    /// Whether the prompt's log-probabilities are still to be found, so that every row needs its logits.
    pub fn scores_prompt(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Whether the answer ends before anything is computed.
    pub fn is_empty(&self) -> bool {
        self.request.max_tokens == 0 && self.request.prompt_logprobs.is_none()
    }

    /// The sequence begins anew.
    pub fn restart(&mut self) {
        self.prefilling = true;
        if let Some(known) = &mut self.prompt_logprobs {
            known.clear();
        }
    }

    /// Takes a step's logits for this answer's chunk, (rows, vocabulary); how many guesses were right.
    pub fn receive(
        &mut self,
        chunk: &mut Chunk,
        logits: Rows<'_>,
        scratch: &mut Scratch,
        on: OnEvent<'_>,
    ) -> usize {
        match self.read(chunk, logits, scratch, on) {
            Ok(right) => right,
            Err(error) => {
                self.ended = Some(Err(error));
                0
            }
        }
    }

    fn read(
        &mut self,
        chunk: &mut Chunk,
        all: Rows<'_>,
        scratch: &mut Scratch,
        on: OnEvent<'_>,
    ) -> Result<usize> {
        let mut right = 0;
        let first = chunk.sequence.computed() - all.len();
        for (offset, logits) in all.iter().enumerate() {
            let (row, predicted) = (OfRow { all, logits }, first + offset + 1);
            if predicted < self.prompt_tokens {
                self.score(row, chunk.sequence.ids()[predicted], predicted, scratch)?;
                continue;
            }
            if let Some(known) = self.prompt_logprobs.take() {
                self.hand_out(Event::Prompt(known), on);
            }
            if self.ended.is_some() {
                break;
            }
            // Where the sequence goes on, it does so with guesses.
            let guess = chunk.sequence.ids().get(predicted).copied();
            let found = self.choose(row, &chunk.sequence.ids()[..predicted], scratch, on)?;
            if found.is_some() && found == guess && self.ended.is_none() {
                right += 1;
                continue;
            }
            chunk.sequence.truncate(predicted);
            chunk.sequence.extend(found.as_slice());
            break;
        }
        self.guessing.checked(right);
        Ok(right)
    }

    /// Notes the log-probability of the prompt's id at position `predicted`, where that was asked for.
    fn score(&mut self, row: OfRow<'_>, id: u32, predicted: usize, scratch: &mut Scratch) -> Result<()> {
        let top = self.request.prompt_logprobs.unwrap_or(0);
        if let Some(known) = &mut self.prompt_logprobs {
            known.push(log_probs_at(row, (id, top), predicted, scratch)?);
        }
        Ok(())
    }

    /// Chooses the id after `ids` from its row of logits and hands it out; `None` where the answer ends before it.
    fn choose(
        &mut self,
        row: OfRow<'_>,
        ids: &[u32],
        scratch: &mut Scratch,
        on: OnEvent<'_>,
    ) -> Result<Option<u32>> {
        self.prefilling = false;
        if self.generated == self.request.max_tokens {
            self.ended = Some(Ok(FinishReason::Length));
            return Ok(None);
        }
        let position = ids.len();
        let id = self.pick(row, ids, scratch)?;
        if self.request.stop_ids.contains(&id) {
            self.ended = Some(Ok(FinishReason::StopId(id)));
            if let Some(top) = self.request.logprobs {
                self.stop_logprobs = Some(log_probs_at(row, (id, top), position, scratch)?);
            }
            return Ok(None);
        }
        self.sampler.accept(id);
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(id).map_err(|reason| Error::Constraint { position, reason })?;
        }
        let logprobs = match self.request.logprobs {
            Some(top) => Some(log_probs_at(row, (id, top), position, scratch)?),
            None => None,
        };
        let token = Token { id, index: self.generated, logprobs };
        self.generated += 1;
        if self.generated == self.request.max_tokens {
            self.ended = Some(Ok(FinishReason::Length));
        }
        self.hand_out(Event::Token(token), on);
        Ok(Some(id))
    }

    /// Guesses that could be checked at most: the answer's last id needs none after it.
    pub fn guesses_max(&self) -> usize {
        self.request.max_tokens.saturating_sub(self.generated + 1)
    }

    fn pick(&mut self, row: OfRow<'_>, ids: &[u32], scratch: &mut Scratch) -> Result<u32> {
        let position = ids.len();
        let Scratch { room, mask, masks, .. } = scratch;
        let mask = match &mut self.request.constraint {
            None => None,
            Some(constraint) => {
                let begin = Instant::now();
                constraint.allowed(mask).map_err(|reason| Error::Constraint { position, reason })?;
                masks.note(begin.elapsed());
                Some(&*mask)
            }
        };
        let constrained = mask.is_some();
        let found = self.sampler.pick(Row { logits: row.logits, ids, mask }, self.generated, room);
        found.ok_or_else(|| match constrained && row.logits.iter().all(|logit| logit.is_finite()) {
            true => Error::Constraint { position, reason: "it allows no id".to_owned() },
            false => Error::NotFinite { position },
        })
    }

    fn hand_out(&mut self, event: Event, on: OnEvent<'_>) {
        if on(self.ticket, event).is_break() {
            self.ended = Some(Ok(FinishReason::Cancelled));
        }
    }

    /// The counts of an answer that ended so.
    pub fn finish(&self, reason: FinishReason) -> Finish {
        Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            stop_logprobs: self.stop_logprobs.clone(),
        }
    }

    /// The event that an answer which has ended closes with.
    pub fn last_event(&mut self) -> Option<Event> {
        Some(match self.ended.take()? {
            Ok(reason) => Event::Finished(self.finish(reason)),
            Err(error) => Event::Failed(error),
        })
    }

    pub fn generated(&self) -> usize {
        self.generated
    }
}

/// The log-probability of `id` and the `top` highest, from the logits that predict the id at `position`.
fn log_probs_at(
    row: OfRow<'_>,
    (id, top): (u32, usize),
    position: usize,
    scratch: &mut Scratch,
) -> Result<TokenLogProbs> {
    let log_probs = &mut scratch.log_probs;
    row.all.log_probs(row.logits, log_probs);
    let chosen = LogProb { id, logprob: log_probs[id as usize] };
    if !chosen.logprob.is_finite() {
        return Err(Error::NotFinite { position });
    }
    Ok(TokenLogProbs { chosen, top: highest(log_probs, top) })
}
