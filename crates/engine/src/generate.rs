//! Answering requests: one as a stream, or many that step together. Knows how answers begin and end, not how
//! a forward pass is computed.

use std::ops::ControlFlow;

use crate::sampler::highest;
use crate::{
    Chunk, Completion, Engine, Error, Finish, FinishReason, LogProb, LogitRows, Request, Result, Rows,
    Sampler, Sequence, Token, TokenLogProbs,
};

/// Rows that have logits in one step at most, so that a long prompt's log-probabilities need little memory.
const LOGIT_ROWS_MAX: usize = 64;

/// Receives the tokens of many requests: the request's index and its next token; `Break` ends that request
/// alone.
pub type OnToken<'a> = &'a mut dyn FnMut(usize, &Token) -> ControlFlow<()>;

impl Engine {
    /// Continues one prompt and hands out each token as it is found. Where `on_token` breaks, the answer ends
    /// with [`FinishReason::Cancelled`].
    ///
    /// # Errors
    /// See [`Engine::check`]; also where the cache has too few pages or the model gives a logit that is not
    /// finite.
    pub fn generate(
        &mut self,
        request: &Request,
        on_token: &mut dyn FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Finish> {
        let mut finishes =
            self.generate_many(std::slice::from_ref(request), &mut |_, token| on_token(token))?;
        Ok(finishes.pop().expect("one request gives one finish"))
    }

    /// Continues many prompts, as many at a time as the options and the cache allow, and returns their
    /// answers in the order of the requests. An answer does not depend on its company.
    ///
    /// # Errors
    /// As [`Engine::generate`]; all requests are checked before the first begins.
    pub fn generate_batch(&mut self, requests: &[Request]) -> Result<Vec<Completion>> {
        let mut tokens: Vec<Vec<Token>> = vec![Vec::new(); requests.len()];
        let finishes = self.generate_many(requests, &mut |index, token| {
            tokens[index].push(token.clone());
            ControlFlow::Continue(())
        })?;
        Ok(tokens.into_iter().zip(finishes).map(|(tokens, finish)| Completion { tokens, finish }).collect())
    }

    /// As [`Engine::generate_batch`], but hands each token out as it is found.
    ///
    /// # Errors
    /// As [`Engine::generate`]; all requests are checked before the first begins.
    pub fn generate_many(&mut self, requests: &[Request], on_token: OnToken<'_>) -> Result<Vec<Finish>> {
        for request in requests {
            self.check(request)?;
        }
        let mut batch = Batch::new(requests);
        while batch.admit(self)? {
            batch.plan(self.options().step_rows);
            let logits = self.step(&mut batch.chunks)?;
            for (index, answer) in batch.answers.iter_mut().enumerate() {
                answer.receive(&mut batch.chunks[index], logits.of(index), on_token)?;
            }
            batch.remove_finished();
        }
        Ok(batch
            .finishes
            .into_iter()
            .map(|finish| finish.expect("every request has been answered"))
            .collect())
    }

    /// ln p(ids[i + 1] | ids[..=i]) for each i: one value fewer than there are ids.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn log_probs(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let request = Request { prompt: ids.to_vec(), prompt_logprobs: Some(0), ..Request::default() };
        let finish = self.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        Ok(finish.prompt_logprobs.iter().map(|position| position.chosen.logprob).collect())
    }
}

/// Requests on their way: those that wait, those that step together, those that are done.
struct Batch<'a> {
    requests: &'a [Request],
    waiting: usize,
    /// Beside `answers`, since a step takes chunks that lie side by side.
    chunks: Vec<Chunk>,
    answers: Vec<Answer<'a>>,
    finishes: Vec<Option<Finish>>,
}

impl<'a> Batch<'a> {
    fn new(requests: &'a [Request]) -> Self {
        let finishes = vec![None; requests.len()];
        Self { requests, waiting: 0, chunks: Vec::new(), answers: Vec::new(), finishes }
    }

    /// Lets waiting requests in while there is room for their whole answers. Whether any request is left.
    fn admit(&mut self, engine: &Engine) -> Result<bool> {
        while self.waiting < self.requests.len() && self.chunks.len() < engine.options().max_sequences {
            let request = &self.requests[self.waiting];
            let tokens = request.prompt.len() + request.max_tokens;
            let mut sequence = engine.sequence(tokens);
            match sequence.pages.grow(tokens) {
                Err(error) if self.chunks.is_empty() => return Err(error),
                Err(_) => break,
                Ok(()) => sequence.extend(&request.prompt),
            }
            if request.max_tokens == 0 && request.prompt_logprobs.is_none() {
                self.finishes[self.waiting] =
                    Some(Answer::new(request, self.waiting)?.finish(FinishReason::Length));
            } else {
                self.chunks.push(Chunk::new(sequence));
                self.answers.push(Answer::new(request, self.waiting)?);
            }
            self.waiting += 1;
        }
        Ok(!self.chunks.is_empty())
    }

    /// Divides a step's rows: one for each answer under way, the rest for prompts, first come first served.
    fn plan(&mut self, step_rows: usize) {
        let decoding = self.chunks.iter().filter(|chunk| chunk.sequence.pending() == 1).count();
        let mut rows_left = step_rows.saturating_sub(decoding).max(1);
        let mut logit_rows_left = LOGIT_ROWS_MAX;
        for (chunk, answer) in self.chunks.iter_mut().zip(&self.answers) {
            let pending = chunk.sequence.pending();
            if pending == 1 {
                (chunk.rows, chunk.logits) = (1, LogitRows::Last);
                continue;
            }
            chunk.rows = pending.min(rows_left);
            chunk.logits = if chunk.rows == pending { LogitRows::Last } else { LogitRows::None };
            if answer.request.prompt_logprobs.is_some() {
                chunk.rows = chunk.rows.min(logit_rows_left);
                chunk.logits = LogitRows::All;
                logit_rows_left -= chunk.rows;
            }
            rows_left -= chunk.rows;
        }
    }

    fn remove_finished(&mut self) {
        let mut index = 0;
        while index < self.answers.len() {
            if let Some(reason) = self.answers[index].reason {
                self.chunks.remove(index);
                let answer = self.answers.remove(index);
                let place = answer.index;
                self.finishes[place] = Some(answer.finish(reason));
            } else {
                index += 1;
            }
        }
    }
}

/// One request under way.
struct Answer<'a> {
    request: &'a Request,
    index: usize,
    sampler: Sampler,
    generated: usize,
    prompt_logprobs: Vec<TokenLogProbs>,
    /// Room for one row of log-probabilities, (vocabulary).
    log_probs: Vec<f32>,
    reason: Option<FinishReason>,
}

impl<'a> Answer<'a> {
    fn new(request: &'a Request, index: usize) -> Result<Self> {
        let sampler = Sampler::new(request.sampling.clone())?;
        let (prompt_logprobs, log_probs) = (Vec::new(), Vec::new());
        Ok(Self { request, index, sampler, generated: 0, prompt_logprobs, log_probs, reason: None })
    }

    /// Takes a step's logits for this answer's chunk, (rows, vocabulary).
    fn receive(&mut self, chunk: &mut Chunk, logits: Rows<'_>, on_token: OnToken<'_>) -> Result<()> {
        let first = chunk.sequence.computed() - logits.len();
        for (offset, row) in logits.iter().enumerate() {
            let predicted = first + offset + 1;
            if let Some(&id) = chunk.sequence.ids().get(predicted) {
                let top = self.request.prompt_logprobs.unwrap_or(0);
                let known = self.log_probs_at((logits, row), id, top, predicted)?;
                self.prompt_logprobs.push(known);
            } else if self.generated == self.request.max_tokens {
                self.reason = Some(FinishReason::Length);
            } else {
                self.choose((logits, row), &mut chunk.sequence, on_token)?;
            }
        }
        Ok(())
    }

    /// Chooses the next id from its row of logits and hands it out, unless it ends the answer.
    fn choose(
        &mut self,
        (logits, row): (Rows<'_>, &[f32]),
        sequence: &mut Sequence,
        on_token: OnToken<'_>,
    ) -> Result<()> {
        let position = sequence.ids().len();
        let id = self.sampler.pick(row, self.generated).ok_or(Error::NotFinite { position })?;
        if self.request.stop_ids.contains(&id) {
            self.reason = Some(FinishReason::StopId(id));
            return Ok(());
        }
        let logprobs = match self.request.logprobs {
            Some(top) => Some(self.log_probs_at((logits, row), id, top, position)?),
            None => None,
        };
        let token = Token { id, index: self.generated, logprobs };
        sequence.push(id);
        self.generated += 1;
        if on_token(self.index, &token).is_break() {
            self.reason = Some(FinishReason::Cancelled);
        } else if self.generated == self.request.max_tokens {
            self.reason = Some(FinishReason::Length);
        }
        Ok(())
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

    fn finish(self, reason: FinishReason) -> Finish {
        Finish {
            reason,
            prompt_tokens: self.request.prompt.len(),
            completion_tokens: self.generated,
            prompt_logprobs: self.prompt_logprobs,
        }
    }
}
