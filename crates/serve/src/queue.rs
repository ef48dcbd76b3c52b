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

use chat::{AnswerEvent, AnswerId, AnswerOptions, CompletionRequest, Delta, Local, Statistics};
use engine::Adapter;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::metrics::Metrics;
use crate::outbox::{Event, Events, Outbox, Sent, outbox};
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

/// What comes to the model's thread.
enum Letter {
    Job(Job),
    /// Adapters to take on, and where to say whether that went well.
    Insert(Box<Adapter>, oneshot::Sender<engine::Result<()>>),
    /// Adapters to let go.
    Remove(String),
}

struct Job {
    work: Work,
    events: Outbox,
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
    letters: UnboundedSender<Letter>,
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
    pub fn new(thread: JoinHandle<()>, give_up: Arc<AtomicBool>) -> Worker {
        Worker { thread, give_up }
    }

    /// Whether the thread has ended and its model is gone.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

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
    pub fn start(
        model: Local,
        waiting_max: usize,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<(Self, Worker)> {
        let (letters, receiver) = unbounded_channel();
        let give_up = Arc::new(AtomicBool::new(false));
        let places = model.engine().options().max_sequences.saturating_add(waiting_max.max(1));
        let (publish, statistics) = watch::channel(model.statistics());
        let desk = Desk {
            model,
            letters: receiver,
            give_up: Arc::clone(&give_up),
            publish,
            metrics: Arc::clone(metrics),
            orders: Vec::new(),
            by_answer: HashMap::new(),
        };
        let thread = std::thread::Builder::new().name("model".into()).spawn(move || {
            let device = desk.model.engine().device().clone();
            desk.work();
            // The model is gone, and what it had of the device's buffers goes too.
            device.release_idle();
        })?;
        Ok((Self { letters, taken: Arc::default(), places, statistics }, Worker::new(thread, give_up)))
    }

    /// Queues work.
    ///
    /// # Errors
    /// Where the queue is full or the thread has ended.
    pub fn ask(&self, work: Work) -> Result<Events, ApiError> {
        let place = Place::take(&self.taken, self.places).ok_or_else(|| ApiError::overloaded(self.places))?;
        let (events, receiver) = outbox();
        let job = Job { work, events, _place: place };
        self.letters.send(Letter::Job(job)).map_err(|_| ApiError::closing())?;
        Ok(receiver)
    }

    /// Has the engine take adapters on; from then on answers may name them.
    ///
    /// # Errors
    /// Where the thread has ended; within, what the engine refused.
    pub async fn insert_adapter(&self, adapter: Adapter) -> Result<engine::Result<()>, ApiError> {
        let (answer, receiver) = oneshot::channel();
        let letter = Letter::Insert(Box::new(adapter), answer);
        self.letters.send(letter).map_err(|_| ApiError::closing())?;
        receiver.await.map_err(|_| ApiError::closing())
    }

    /// Has the engine let adapters go, before any answer that is asked for later.
    pub fn remove_adapter(&self, name: &str) {
        // Where the thread has ended there are none any more.
        let _ = self.letters.send(Letter::Remove(name.to_owned()));
    }

    /// What the model's thread was doing after its last step.
    pub fn statistics(&self) -> Statistics {
        *self.statistics.borrow()
    }
}

/// The model's thread: the model and the answers that are under way.
struct Desk {
    model: Local,
    letters: UnboundedReceiver<Letter>,
    give_up: Arc<AtomicBool>,
    publish: watch::Sender<Statistics>,
    metrics: Arc<Metrics>,
    orders: Vec<Order>,
    /// The number of each answer among its order's choices, and the ids that it has had since its last piece.
    by_answer: HashMap<AnswerId, (usize, usize)>,
}

/// A job under way.
struct Order {
    events: Outbox,
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
            match self.letters.blocking_recv() {
                Some(letter) => self.open(letter),
                None => return false,
            }
        }
        while let Ok(letter) = self.letters.try_recv() {
            self.open(letter);
        }
        true
    }

    fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Job(job) => return self.begin(job),
            Letter::Insert(adapter, answer) => {
                // Nobody is told where the client has left; then it stays unnamed until it is unloaded.
                let _ = answer.send(self.model.insert_adapter(*adapter));
            }
            // One that is not there is gone.
            Letter::Remove(name) => _ = self.model.remove_adapter(&name),
        }
        self.publish.send_replace(self.model.statistics());
    }

    fn begin(&mut self, Job { work, mut events, _place }: Job) {
        if events.is_closed() {
            return;
        }
        let input = work.input();
        let begun = catch_unwind(AssertUnwindSafe(|| self.begin_all(&work)));
        let failed = match begun {
            Ok(Ok(answers)) => {
                self.by_answer.extend(answers.iter().enumerate().map(|(choice, &id)| (id, (choice, 0))));
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
        for mut order in self.orders.drain(..) {
            // As above.
            let _ = order.events.send(Event::Failed(error.clone()));
        }
        self.by_answer.clear();
    }

    fn step(&mut self) {
        let Self { model, orders, by_answer, metrics, .. } = self;
        let mut failed = Vec::new();
        model.step(&mut |id, event| {
            let Some((choice, ids)) = by_answer.get_mut(&id) else { return ControlFlow::Break(()) };
            let found = orders.iter().position(|order| order.answers.contains(&id));
            let Some(place) = found else { return ControlFlow::Break(()) };
            let (order, choice) = (&mut orders[place], *choice);
            let ends = !matches!(event, AnswerEvent::Delta(_));
            let event = match event {
                AnswerEvent::Delta(delta) => {
                    *ids += delta.ids;
                    if delta.text.is_empty() && delta.tokens.is_empty() {
                        return ControlFlow::Continue(());
                    }
                    Event::Delta(choice, Delta { ids: std::mem::take(ids), ..delta })
                }
                AnswerEvent::Reply(reply) => Event::Chat(choice, reply, *ids),
                AnswerEvent::Completion(reply) => Event::Completion(choice, reply),
                AnswerEvent::Failed(error) => Event::Failed(ApiError::from_chat(&error, order.input)),
            };
            if ends {
                by_answer.remove(&id);
                order.answers.retain(|other| *other != id);
            }
            let mut fails = matches!(event, Event::Failed(_));
            let sent = order.events.send(event);
            if sent == Sent::TooMuch && !order.answers.is_empty() {
                metrics.cut_off.fetch_add(1, Ordering::Relaxed);
                // It waits behind what the client has not read, and nobody is there where it has left.
                let _ = order.events.send(Event::Failed(ApiError::slow_reader()));
                fails = true;
            }
            if fails {
                failed.append(&mut order.answers);
            }
            if order.answers.is_empty() {
                orders.swap_remove(place);
            }
            if sent == Sent::Waiting && !fails { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // One choice that failed ends the others of its request.
        for id in failed {
            self.model.cancel(id);
            self.by_answer.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
