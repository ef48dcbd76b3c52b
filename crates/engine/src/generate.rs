//! Answering requests from beginning to end: one as a stream, or many that step together. Everything here
//! only submits, steps and collects.

use std::ops::ControlFlow;

use crate::{Completion, Error, Event, Finish, Request, Result, Scheduler, Ticket, Token};

/// Receives the tokens of many requests: the request's index and its next token; `Break` ends that request
/// alone.
pub type OnToken<'a> = &'a mut dyn FnMut(usize, &Token) -> ControlFlow<()>;

impl Scheduler {
    /// Continues one prompt and hands out each token as it is found. Where `on_token` breaks, the answer ends
    /// with [`crate::FinishReason::Cancelled`].
    ///
    /// # Errors
    /// See [`Scheduler::check`]; also where the model gives a logit that is not finite.
    pub fn generate(
        &mut self,
        request: &Request,
        on_token: &mut dyn FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Finish> {
        let mut finishes =
            self.generate_many(std::slice::from_ref(request), &mut |_, token| on_token(token))?;
        Ok(finishes.pop().expect("one request gives one finish"))
    }

    /// Continues many prompts and returns their answers in the order of the requests. An answer does not
    /// depend on its company.
    ///
    /// # Errors
    /// As [`Scheduler::generate`]; all requests are checked before the first begins, and the first that fails
    /// ends all.
    pub fn generate_batch(&mut self, requests: &[Request]) -> Result<Vec<Completion>> {
        let empty = |finish| Completion { prompt_logprobs: Vec::new(), tokens: Vec::new(), finish };
        let mut prompts = vec![Vec::new(); requests.len()];
        let mut tokens: Vec<Vec<Token>> = vec![Vec::new(); requests.len()];
        let finishes = self.run(requests, &mut |index, event| {
            match event {
                Event::Prompt(known) => prompts[index] = known,
                Event::Token(token) => tokens[index].push(token),
                Event::Finished(_) | Event::Failed(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        let found = prompts.into_iter().zip(tokens).zip(finishes);
        Ok(found
            .map(|((prompt_logprobs, tokens), finish)| Completion {
                prompt_logprobs,
                tokens,
                ..empty(finish)
            })
            .collect())
    }

    /// As [`Scheduler::generate_batch`], but hands each token out as it is found.
    ///
    /// # Errors
    /// As [`Scheduler::generate_batch`].
    pub fn generate_many(&mut self, requests: &[Request], on_token: OnToken<'_>) -> Result<Vec<Finish>> {
        self.run(requests, &mut |index, event| match event {
            Event::Token(token) => on_token(index, &token),
            Event::Prompt(_) | Event::Finished(_) | Event::Failed(_) => ControlFlow::Continue(()),
        })
    }

    /// ln p(ids[i + 1] | ids[..=i]) for each i: one value fewer than there are ids.
    ///
    /// # Errors
    /// As [`Scheduler::generate`].
    pub fn log_probs(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let request = Request { prompt: ids.to_vec(), prompt_logprobs: Some(0), ..Request::default() };
        let known = self.generate_batch(&[request])?.remove(0).prompt_logprobs;
        Ok(known.iter().map(|position| position.chosen.logprob).collect())
    }

    /// Submits requests and steps until each has its last event. Events of requests that were under way
    /// before are kept for the next step.
    fn run(
        &mut self,
        requests: &[Request],
        on: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<Finish>> {
        for request in requests {
            self.check(request)?;
        }
        let tickets = requests.iter().map(|request| self.submit(request.clone()));
        let tickets = tickets.collect::<Result<Vec<Ticket>>>()?;
        let mut finishes: Vec<Option<Finish>> = vec![None; requests.len()];
        let mut failed: Option<Error> = None;
        let mut others = Vec::new();
        while failed.is_none() && finishes.iter().any(Option::is_none) {
            self.step(&mut |ticket, event| {
                let Ok(index) = tickets.binary_search(&ticket) else {
                    others.push((ticket, event));
                    return ControlFlow::Continue(());
                };
                match event {
                    Event::Finished(finish) => finishes[index] = Some(finish),
                    Event::Failed(error) => failed = failed.take().or(Some(error)),
                    event => return on(index, event),
                }
                ControlFlow::Continue(())
            });
        }
        others.into_iter().for_each(|(ticket, event)| self.postpone(ticket, event));
        if let Some(error) = failed {
            tickets.iter().for_each(|&ticket| _ = self.cancel(ticket));
            return Err(error);
        }
        Ok(finishes.into_iter().flatten().collect())
    }
}
