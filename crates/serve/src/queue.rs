//! The way to the one thread that owns the model, and that thread. Knows neither HTTP nor how answers are
//! written down.
//!
//! What has come since the last step joins before the next one, so that many answers are under way at once.
//! What may be under way and what may wait beside it are limited; more is refused.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use chat::{
    AnswerEvent, AnswerId, AnswerOptions, CompletionReply, CompletionRequest, Delta, Local, Reply, Statistics,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::wire::ApiError;

/// What the model's thread is asked to do.
pub(crate) enum Work {
    /// Answer a conversation, given as ids, so many times.
    Chat(Vec<u32>, Box<AnswerOptions>, usize),
    /// Continue each prompt, so many times.
    Completion(Vec<CompletionRequest>, usize),
}

impl Work {
    /// The field that holds the text.
    fn input(&self) -> &'static str {
        match self {
            Work::Chat(..) => "messages",
            Work::Completion(..) => "prompt",
        }
    }
}

/// What happens to an answer: for each of its choices pieces and the end; or a failure, after which nothing
/// comes. Choices are counted through all prompts: the second choice for the first prompt is number 1.
#[derive(Debug)]
pub(crate) enum Event {
    /// A piece of the choice with this number.
    Delta(usize, Delta),
    /// This choice of the conversation's answers is complete.
    Chat(usize, Reply),
    /// This choice of the prompts' continuations is complete.
    Completion(usize, CompletionReply),
    /// There is no answer, or no more of it.
    Failed(ApiError),
}

/// The events of one answer. Dropping it cancels the answer.
pub(crate) type Events = UnboundedReceiver<Event>;

struct Job {
    work: Work,
    events: UnboundedSender<Event>,
    /// Given back when the job is over.
    _place: Place,
}

/// One of the places for jobs.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` where all `limit` are taken.
    fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let add = |count: usize| (count < limit).then_some(count + 1);
        let added = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        added.is_ok().then(|| Self(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The way to the model's thread. The thread ends when the last handle is gone and nothing is left to do.
#[derive(Clone)]
pub(crate) struct Queue {
    jobs: UnboundedSender<Job>,
    taken: Arc<AtomicUsize>,
    places: usize,
    statistics: watch::Receiver<Statistics>,
}

/// The model's thread.
pub(crate) struct Worker {
    thread: JoinHandle<()>,
    give_up: Arc<AtomicBool>,
}

impl Worker {
    /// Cuts all answers short.
    pub fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }

    /// Waits until the thread has ended, which needs every [`Queue`] to be gone.
    pub fn join(self) {
        // A panic in the thread has been reported where it happened.
        let _ = self.thread.join();
    }
}

impl Queue {
    /// Starts the thread that owns `model`. At most `waiting_max` requests wait beside as many as the engine
    /// steps at once.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(model: Local, waiting_max: usize) -> std::io::Result<(Self, Worker)> {
        let (jobs, receiver) = unbounded_channel();
        let give_up = Arc::new(AtomicBool::new(false));
        let places = model.engine().options().max_sequences.saturating_add(waiting_max.max(1));
        let (publish, statistics) = watch::channel(model.statistics());
        let desk = Desk {
            model,
            jobs: receiver,
            give_up: Arc::clone(&give_up),
            publish,
            orders: Vec::new(),
            by_answer: HashMap::new(),
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(move || desk.work())?;
        Ok((Self { jobs, taken: Arc::default(), places, statistics }, Worker { thread, give_up }))
    }

    /// Queues work.
    ///
    /// # Errors
    /// Where the queue is full or the thread has ended.
    pub fn ask(&self, work: Work) -> Result<Events, ApiError> {
        let place = Place::take(&self.taken, self.places).ok_or_else(|| ApiError::overloaded(self.places))?;
        let (events, receiver) = unbounded_channel();
        let job = Job { work, events, _place: place };
        self.jobs.send(job).map_err(|_| ApiError::closing())?;
        Ok(receiver)
    }

    /// What the model's thread was doing after its last step.
    pub fn statistics(&self) -> Statistics {
        *self.statistics.borrow()
    }
}

/// The model's thread: the model and the answers that are under way.
struct Desk {
    model: Local,
    jobs: UnboundedReceiver<Job>,
    give_up: Arc<AtomicBool>,
    publish: watch::Sender<Statistics>,
    orders: Vec<Order>,
    /// The number of each answer among its order's choices.
    by_answer: HashMap<AnswerId, usize>,
}

/// A job under way.
struct Order {
    events: UnboundedSender<Event>,
    input: &'static str,
    /// The answers that have not ended.
    answers: Vec<AnswerId>,
    _place: Place,
}

impl Desk {
    fn work(mut self) {
        while self.receive() {
            self.drop_abandoned();
            let stepped = catch_unwind(AssertUnwindSafe(|| self.step()));
            if stepped.is_err() {
                // Whose answer it was cannot be said, so all of them end.
                self.model.abandon();
                let message = "The model failed while this request was answered; the server's log says why.";
                self.fail_all(&ApiError::internal(message));
            }
            self.publish.send_replace(self.model.statistics());
        }
    }

    /// Takes the jobs that have come, after waiting for one where nothing is under way; `false` where none
    /// will come any more.
    fn receive(&mut self) -> bool {
        while self.orders.is_empty() {
            match self.jobs.blocking_recv() {
                Some(job) => self.begin(job),
                None => return false,
            }
        }
        while let Ok(job) = self.jobs.try_recv() {
            self.begin(job);
        }
        true
    }

    fn begin(&mut self, Job { work, events, _place }: Job) {
        if events.is_closed() {
            return;
        }
        let input = work.input();
        let begun = catch_unwind(AssertUnwindSafe(|| self.begin_all(&work)));
        let failed = match begun {
            Ok(Ok(answers)) => {
                self.by_answer.extend(answers.iter().enumerate().map(|(choice, &id)| (id, choice)));
                return self.orders.push(Order { events, input, answers, _place });
            }
            Ok(Err(error)) => ApiError::from_chat(&error, input),
            Err(_) => ApiError::internal("The request could not be begun; the server's log says why."),
        };
        // Nobody is there to read it where the client has left.
        let _ = events.send(Event::Failed(failed));
    }

    fn begin_all(&mut self, work: &Work) -> chat::Result<Vec<AnswerId>> {
        let (prompts, choices) = match work {
            Work::Chat(prompt, options, choices) => {
                return self.model.begin_reply_to(prompt.clone(), options, *choices);
            }
            Work::Completion(prompts, choices) => (prompts, *choices),
        };
        let mut answers = Vec::new();
        for prompt in prompts {
            match self.model.begin_completion(prompt, choices) {
                Ok(begun) => answers.extend(begun),
                Err(error) => {
                    answers.into_iter().for_each(|id| self.model.cancel(id));
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    /// Ends the answers that nobody waits for, and all where the server gives up.
    fn drop_abandoned(&mut self) {
        if self.give_up.load(Ordering::Relaxed) {
            self.model.abandon();
            self.fail_all(&ApiError::closing());
        }
        let Self { model, orders, by_answer, .. } = self;
        orders.retain(|order| {
            if !order.events.is_closed() {
                return true;
            }
            for id in &order.answers {
                model.cancel(*id);
                by_answer.remove(id);
            }
            false
        });
    }

    fn fail_all(&mut self, error: &ApiError) {
        for order in self.orders.drain(..) {
            // As above.
            let _ = order.events.send(Event::Failed(error.clone()));
        }
        self.by_answer.clear();
    }

    fn step(&mut self) {
        let Self { model, orders, by_answer, .. } = self;
        let mut failed = Vec::new();
        model.step(&mut |id, event| {
            let Some(&choice) = by_answer.get(&id) else { return ControlFlow::Break(()) };
            let found = orders.iter().position(|order| order.answers.contains(&id));
            let Some(place) = found else { return ControlFlow::Break(()) };
            let order = &mut orders[place];
            let event = match event {
                AnswerEvent::Delta(delta) if delta.text.is_empty() && delta.tokens.is_empty() => {
                    return ControlFlow::Continue(());
                }
                AnswerEvent::Delta(delta) => Event::Delta(choice, delta),
                AnswerEvent::Reply(reply) => Event::Chat(choice, reply),
                AnswerEvent::Completion(reply) => Event::Completion(choice, reply),
                AnswerEvent::Failed(error) => Event::Failed(ApiError::from_chat(&error, order.input)),
            };
            if !matches!(event, Event::Delta(..)) {
                by_answer.remove(&id);
                order.answers.retain(|other| *other != id);
            }
            if matches!(event, Event::Failed(_)) {
                failed.append(&mut order.answers);
            }
            let received = order.events.send(event).is_ok();
            if order.answers.is_empty() {
                orders.swap_remove(place);
            }
            if received { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // One choice that failed ends the others of its request.
        for id in failed {
            self.model.cancel(id);
            self.by_answer.remove(&id);
        }
    }
}
