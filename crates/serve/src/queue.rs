//! The queue before the one thread that owns the model. Knows neither HTTP nor how answers are written down.
//!
//! Requests are answered one after another in the order of their coming; the queue's length is the limit of
//! what waits.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use chat::{ChatModel, ChatRequest, CompletionReply, CompletionRequest, Delta, Local, Reply};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};

use crate::wire::ApiError;

/// What the model's thread is asked to do.
pub(crate) enum Work {
    /// Answer a conversation.
    Chat(ChatRequest),
    /// Continue prompts, one after another.
    Completion(Vec<CompletionRequest>),
}

/// What happens to an answer, in this order: pieces, the end, for each prompt; or a failure, after which
/// nothing comes.
#[derive(Debug)]
pub(crate) enum Event {
    /// A piece of the answer to the prompt at this index.
    Delta(usize, Delta),
    /// The conversation is answered.
    Chat(Reply),
    /// The prompt at this index is continued.
    Completion(CompletionReply),
    /// There is no answer, or no more of it.
    Failed(ApiError),
}

/// The events of one answer. Dropping it cancels the answer.
pub(crate) type Events = UnboundedReceiver<Event>;

struct Job {
    work: Work,
    events: UnboundedSender<Event>,
}

/// The way to the model's thread. The thread ends when the last handle is gone and the queue is empty.
#[derive(Clone)]
pub(crate) struct Queue {
    jobs: Sender<Job>,
    waiting_max: usize,
}

/// The model's thread.
pub(crate) struct Worker {
    thread: JoinHandle<()>,
    give_up: Arc<AtomicBool>,
}

impl Worker {
    /// Cuts the answer under way short and drops what waits.
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
    /// Starts the thread that owns `model`. At most `waiting_max` requests wait beside the one that is
    /// answered.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(model: Local, waiting_max: usize) -> std::io::Result<(Self, Worker)> {
        let (jobs, receiver) = channel(waiting_max.max(1));
        let give_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&give_up);
        let thread =
            std::thread::Builder::new().name("model".into()).spawn(move || work(model, receiver, &seen))?;
        Ok((Self { jobs, waiting_max: waiting_max.max(1) }, Worker { thread, give_up }))
    }

    /// Queues work.
    ///
    /// # Errors
    /// Where the queue is full or the thread has ended.
    pub fn ask(&self, work: Work) -> Result<Events, ApiError> {
        let (events, receiver) = unbounded_channel();
        match self.jobs.try_send(Job { work, events }) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(ApiError::overloaded(self.waiting_max)),
            Err(TrySendError::Closed(_)) => Err(ApiError::closing()),
        }
    }
}

fn work(mut model: Local, mut jobs: Receiver<Job>, give_up: &AtomicBool) {
    while let Some(Job { work, events }) = jobs.blocking_recv() {
        if events.is_closed() {
            continue;
        }
        if give_up.load(Ordering::Relaxed) {
            let _ = events.send(Event::Failed(ApiError::closing()));
            continue;
        }
        // A sequence that is dropped gives its pages back, and a step clears what the one before left; so
        // after a panic the model is as good as new.
        let answered = catch_unwind(AssertUnwindSafe(|| answer(&mut model, work, &events, give_up)));
        let failed = match answered {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => ApiError::internal("The model failed on this request; the server's log says why."),
        };
        // Nobody is there to read it where the client has left.
        let _ = events.send(Event::Failed(failed));
    }
}

fn answer(
    model: &mut Local,
    work: Work,
    events: &UnboundedSender<Event>,
    give_up: &AtomicBool,
) -> Result<(), ApiError> {
    let hand_out = |index: usize, delta: Delta| {
        let nothing = delta.text.is_empty() && delta.tokens.is_empty();
        let received =
            if nothing { !events.is_closed() } else { events.send(Event::Delta(index, delta)).is_ok() };
        if received && !give_up.load(Ordering::Relaxed) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    match work {
        Work::Chat(request) => {
            let reply = model.reply(&request, &mut |delta| hand_out(0, delta));
            let reply = reply.map_err(|error| ApiError::from_chat(&error, "messages"))?;
            let _ = events.send(Event::Chat(reply));
        }
        Work::Completion(requests) => {
            for (index, request) in requests.iter().enumerate() {
                let reply = model.complete(request, &mut |delta| hand_out(index, delta));
                let reply = reply.map_err(|error| ApiError::from_chat(&error, "prompt"))?;
                if events.send(Event::Completion(reply)).is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}
