//! Before a step: who joins, how the step's rows are divided, and where the pages come from.

use super::answer::Answer;
use super::draft::look_up;
use super::{Event, Scheduler, remember, root_of};
use crate::prefix::common;
use crate::{Chunk, FinishReason, LogitRows};

/// Rows that have logits in one step at most where a prompt's log-probabilities are asked for, so that these
/// need little memory.
const LOGIT_ROWS_MAX: usize = 64;

/// Rows that must be spared for a prompt to wait for another that begins alike and is being computed.
const SPARED_ROWS_MIN: usize = 32;

/// Ids that are guessed for one answer in one step at most.
const GUESSES_MAX: usize = 8;

/// Ids that a page must share with a prompt to be copied for it.
const COPIED_ROWS_MIN: usize = 4;

impl Scheduler {
    /// Lets waiting requests join, in their order, while there is room for the ids that they have.
    pub(super) fn admit(&mut self) {
        while let Some(index) = self.first_waiting() {
            let (answer, _) = &self.waiting[index];
            if answer.is_empty() {
                let event = Event::Finished(answer.finish(FinishReason::Length));
                self.undelivered.push((answer.ticket, event));
                self.waiting.remove(index);
                continue;
            }
            if self.answers.len() >= self.engine.options().max_sequences || !self.has_room(index) {
                return;
            }
            let (answer, sequence) = self.waiting.remove(index);
            let place = self.answers.partition_point(|other| other.ticket < answer.ticket);
            self.chunks.insert(place, Chunk { sequence, rows: 0, logits: LogitRows::None });
            self.answers.insert(place, answer);
        }
    }

    /// The waiting request whose turn it is.
    fn first_waiting(&self) -> Option<usize> {
        let ranks = self.waiting.iter().map(|(answer, _)| (answer.rank, answer.ticket)).enumerate();
        ranks.min_by_key(|&(_, rank)| rank).map(|(index, _)| index)
    }

    /// Whether the ids that a waiting request has, and one page more for each answer that steps already, have
    /// a place. Where nothing steps there always is: no request needs more pages than there are.
    fn has_room(&mut self, index: usize) -> bool {
        if self.answers.is_empty() {
            return true;
        }
        let (answer, sequence) = &self.waiting[index];
        let pages = self.engine.pages();
        let all = (sequence.ids().len() + 1).div_ceil(pages.page_tokens());
        let wanted = all + self.answers.len();
        if wanted <= pages.free() {
            return true;
        }
        let mut known = 0;
        if !answer.scores_prompt() {
            let ids = &sequence.ids()[..sequence.ids().len() - 1];
            self.prefixes.find(&root_of(sequence), ids, &mut self.found);
            known = self.found.pages.len();
        }
        // Pages that the prompt would share are not there to be given up.
        let shared = pages.held_once(self.found.pages[..known].iter().copied());
        wanted - known <= pages.free() + self.prefixes.evictable() - shared
    }

    /// Divides the step's rows: one for each answer that is being generated, the rest for prompts in the
    /// order of their ranks.
    pub(super) fn plan(&mut self) {
        let decoding = self.chunks.iter().filter(|chunk| chunk.sequence.pending() == 1).count();
        let mut rows_left = self.engine.options().step_rows.saturating_sub(decoding).max(1);
        let mut logit_rows_left = LOGIT_ROWS_MAX;
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
            (chunk.rows, chunk.logits) = (1, LogitRows::Last);
            if chunk.sequence.pending() > 1 {
                chunk.rows = 0;
                order.push(index);
            }
        }
        order.sort_unstable_by_key(|&index| (self.answers[index].rank, self.answers[index].ticket));
        for (place, &index) in order.iter().enumerate() {
            if self.answers[index].scores_prompt() {
                let chunk = &mut self.chunks[index];
                chunk.rows = chunk.sequence.pending().min(rows_left).min(logit_rows_left);
                chunk.logits = LogitRows::All;
                logit_rows_left -= chunk.rows;
            } else if rows_left > 0 {
                self.adopt(index);
                if self.is_being_computed(index, &order[..place]) {
                    continue;
                }
                let chunk = &mut self.chunks[index];
                let pending = chunk.sequence.pending();
                chunk.rows = pending.min(rows_left);
                chunk.logits = if chunk.rows == pending { LogitRows::Last } else { LogitRows::None };
            }
            rows_left -= self.chunks[index].rows;
        }
        self.order = order;
        self.count_prompts();
        self.guess();
    }

    /// Lets the answers that are being generated guess ids ahead, which the step then checks.
    fn guess(&mut self) {
        let Self { engine, draft, chunks, answers, .. } = self;
        let generating = |chunk: &Chunk, answer: &Answer| chunk.sequence.pending() == 1 && !answer.prefilling;
        let count = chunks.iter().zip(&*answers).filter(|(chunk, answer)| generating(chunk, answer)).count();
        let limit = engine.options().guess_rows.min(GUESSES_MAX * count) / count.max(1);
        if limit == 0 {
            return;
        }
        let mut wants = std::mem::take(&mut self.wants);
        wants.clear();
        for (index, (chunk, answer)) in chunks.iter().zip(answers.iter_mut()).enumerate() {
            let limit = limit.min(answer.guesses_max());
            let wanted = if generating(chunk, answer) { answer.guessing.wanted(limit) } else { 0 };
            if wanted > 0 {
                wants.push((index, wanted));
            }
        }
        match draft {
            Some(draft) => {
                let asked: Vec<_> = wants
                    .iter()
                    .map(|&(index, wanted)| (answers[index].ticket, chunks[index].sequence.ids(), wanted))
                    .collect();
                let guesses = draft.guess(&asked);
                let places = wants.iter().map(|&(index, _)| index);
                places.zip(guesses).for_each(|(index, guesses)| {
                    check_guesses(&mut chunks[index], &mut answers[index], &guesses);
                });
            }
            None => {
                for &(index, wanted) in &wants {
                    let (chunk, mut guesses) = (&mut chunks[index], [0; GUESSES_MAX]);
                    let found = look_up(chunk.sequence.ids(), wanted);
                    let guesses = &mut guesses[..found.len()];
                    guesses.copy_from_slice(found);
                    check_guesses(chunk, &mut answers[index], guesses);
                }
            }
        }
        self.wants = wants;
    }

    /// Takes the guesses of an answer back.
    fn drop_guesses(&mut self, index: usize) {
        let open = std::mem::take(&mut self.answers[index].guessing.open);
        if open > 0 {
            let chunk = &mut self.chunks[index];
            chunk.sequence.truncate(chunk.sequence.ids().len() - open);
            (chunk.rows, chunk.logits) = (1, LogitRows::Last);
        }
    }

    /// Counts prompts when their first rows are planned.
    fn count_prompts(&mut self) {
        let Self { chunks, answers, counts, .. } = self;
        for (chunk, answer) in chunks.iter().zip(answers) {
            if chunk.rows == 0 || answer.cached_tokens.is_some() {
                continue;
            }
            let cached = chunk.sequence.computed().min(answer.prompt_tokens);
            answer.cached_tokens = Some(cached);
            counts.prompts += 1;
            counts.cached_prompts += u64::from(cached > 0);
            counts.prompt_tokens += answer.prompt_tokens as u64;
            counts.cached_tokens += cached as u64;
        }
    }

    /// Takes over what others have computed of a sequence's ids, where that is more than it has. The last id
    /// stays to be computed, since its logits are needed.
    fn adopt(&mut self, index: usize) {
        let Self { engine, prefixes, chunks, found, .. } = self;
        let sequence = &mut chunks[index].sequence;
        let page_tokens = engine.pages().page_tokens();
        prefixes.find(&root_of(sequence), &sequence.ids()[..sequence.ids().len() - 1], found);
        found.tail = found.tail.filter(|&(_, tokens)| tokens >= COPIED_ROWS_MIN);
        if found.tokens(page_tokens) <= sequence.computed() {
            return;
        }
        sequence.adopt(&found.pages, page_tokens);
        if let Some((page, tokens)) = found.tail {
            // Held, so that it is not itself the page that is given up for its copy.
            engine.pages().hold(page);
            prefixes.free_up(1);
            engine.copy_into(sequence, page, tokens);
            engine.pages().release(page);
        }
    }

    /// Whether a prompt that is served earlier in this step computes ids that this one begins with too, so
    /// that it can take them over in the next.
    fn is_being_computed(&self, index: usize, earlier: &[usize]) -> bool {
        let this = &self.chunks[index].sequence;
        self.engine.options().prefix_cache
            && earlier.iter().any(|&other| {
                let Chunk { sequence: other, rows, .. } = &self.chunks[other];
                let shared = common(other.ids(), &this.ids()[..this.ids().len() - 1]);
                *rows > 0
                    && shared > other.computed()
                    && shared >= this.computed() + SPARED_ROWS_MIN
                    && root_of(other).is(&root_of(this))
            })
    }

    /// Gives every chunk the pages for its rows, the oldest first. Where there are none, cached pages are
    /// given up, then the youngest answer gives back its own.
    pub(super) fn take_pages(&mut self) {
        let mut index = 0;
        while index < self.chunks.len() {
            let Chunk { sequence, rows, .. } = &mut self.chunks[index];
            let tokens = sequence.computed() + *rows;
            self.prefixes.free_up(sequence.pages.missing(tokens));
            if sequence.pages.grow(tokens).is_ok() {
                index += 1;
            } else if self.answers[index].guessing.open > 0 {
                self.drop_guesses(index);
            } else {
                self.preempt(self.chunks.len() - 1);
            }
        }
    }

    /// Sends an answer that steps back to those that wait.
    fn preempt(&mut self, index: usize) {
        self.drop_guesses(index);
        let Chunk { mut sequence, .. } = self.chunks.remove(index);
        let mut answer: Answer = self.answers.remove(index);
        if self.engine.options().prefix_cache {
            remember(&mut self.prefixes, &sequence);
        }
        sequence.release();
        self.draft.iter_mut().for_each(|draft| draft.forget(answer.ticket));
        answer.restart();
        self.counts.preemptions += 1;
        self.waiting.push((answer, sequence));
    }
}

/// Has the step check guesses of what follows a sequence.
fn check_guesses(chunk: &mut Chunk, answer: &mut Answer, guesses: &[u32]) {
    if guesses.is_empty() {
        return;
    }
    chunk.sequence.extend(guesses);
    (chunk.rows, chunk.logits) = (1 + guesses.len(), LogitRows::All);
    answer.guessing.open = guesses.len();
}
