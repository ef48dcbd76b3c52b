//! One request under way: from rows of logits to tokens, and how it ends. Knows neither pages nor company.

use crate::sampler::highest;
use crate::scheduler::{Event, OnEvent, Ticket};
use crate::{
    Chunk, Error, Finish, FinishReason, LogProb, Request, Result, Rows, Sampler, Sequence, Token,
    TokenLogProbs,
};

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
    sampler: Sampler,
    generated: usize,
    /// Of the prompt's ids but the first, as far as they are known; `None` once handed out.
    prompt_logprobs: Option<Vec<TokenLogProbs>>,
    /// Room for one row of log-probabilities, (vocabulary).
    log_probs: Vec<f32>,
}

impl Answer {
    pub fn new(ticket: Ticket, mut request: Request, rank: u64) -> Result<Self> {
        let sampler = Sampler::new(request.sampling.clone())?;
        let prompt_tokens = std::mem::take(&mut request.prompt).len();
        Ok(Self {
            ticket,
            prompt_tokens,
            rank,
            prefilling: true,
            cached_tokens: None,
            ended: None,
            sampler,
            generated: 0,
            prompt_logprobs: request.prompt_logprobs.map(|_| Vec::new()),
            log_probs: Vec::new(),
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

    /// Takes a step's logits for this answer's chunk, (rows, vocabulary).
    pub fn receive(&mut self, chunk: &mut Chunk, logits: Rows<'_>, on: OnEvent<'_>) {
        if let Err(error) = self.read(chunk, logits, on) {
            self.ended = Some(Err(error));
        }
    }

    fn read(&mut self, chunk: &mut Chunk, logits: Rows<'_>, on: OnEvent<'_>) -> Result<()> {
        let first = chunk.sequence.computed() - logits.len();
        for (offset, row) in logits.iter().enumerate() {
            let predicted = first + offset + 1;
            if predicted < self.prompt_tokens {
                self.score((logits, row), chunk.sequence.ids()[predicted], predicted)?;
                continue;
            }
            if let Some(known) = self.prompt_logprobs.take() {
                self.hand_out(Event::Prompt(known), on);
            }
            if self.ended.is_none() && predicted == chunk.sequence.ids().len() {
                self.choose((logits, row), &mut chunk.sequence, on)?;
            }
        }
        Ok(())
    }

    /// Notes the log-probability of the prompt's id at position `predicted`, where that was asked for.
    fn score(&mut self, row: (Rows<'_>, &[f32]), id: u32, predicted: usize) -> Result<()> {
        if let Some(mut known) = self.prompt_logprobs.take() {
            let top = self.request.prompt_logprobs.unwrap_or(0);
            known.push(self.log_probs_at(row, id, top, predicted)?);
            self.prompt_logprobs = Some(known);
        }
        Ok(())
    }

    /// Chooses the next id from its row of logits and hands it out, unless it ends the answer.
    fn choose(
        &mut self,
        (logits, row): (Rows<'_>, &[f32]),
        sequence: &mut Sequence,
        on: OnEvent<'_>,
    ) -> Result<()> {
        self.prefilling = false;
        if self.generated == self.request.max_tokens {
            self.ended = Some(Ok(FinishReason::Length));
            return Ok(());
        }
        let position = sequence.ids().len();
        let id = self.sampler.pick(row, self.generated).ok_or(Error::NotFinite { position })?;
        if self.request.stop_ids.contains(&id) {
            self.ended = Some(Ok(FinishReason::StopId(id)));
            return Ok(());
        }
        let logprobs = match self.request.logprobs {
            Some(top) => Some(self.log_probs_at((logits, row), id, top, position)?),
            None => None,
        };
        let token = Token { id, index: self.generated, logprobs };
        sequence.push(id);
        self.generated += 1;
        if self.generated == self.request.max_tokens {
            self.ended = Some(Ok(FinishReason::Length));
        }
        self.hand_out(Event::Token(token), on);
        Ok(())
    }

    fn hand_out(&mut self, event: Event, on: OnEvent<'_>) {
        if on(self.ticket, event).is_break() {
            self.ended = Some(Ok(FinishReason::Cancelled));
        }
    }

    /// The log-probability of `id` and the `top` highest, from the logits that predict the id at `position`.
    fn log_probs_at(
        &mut self,
        (logits, row): (Rows<'_>, &[f32]),
        id: u32,
        top: usize,
        position: usize,
    ) -> Result<TokenLogProbs> {
        logits.log_probs(row, &mut self.log_probs);
        let chosen = LogProb { id, logprob: self.log_probs[id as usize] };
        if !chosen.logprob.is_finite() {
            return Err(Error::NotFinite { position });
        }
        Ok(TokenLogProbs { chosen, top: highest(&self.log_probs, top) })
    }

    /// The counts of an answer that ended so.
    pub fn finish(&self, reason: FinishReason) -> Finish {
        Finish {
            reason,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.generated,
            cached_tokens: self.cached_tokens.unwrap_or(0),
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
