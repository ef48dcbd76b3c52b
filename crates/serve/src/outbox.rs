//! The events of one answer on their way from the model's thread to whoever writes them down, counted in bytes, so that a
//! client that does not read costs no more than a fixed amount of memory. Knows neither HTTP nor how answers are found.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use chat::{CompletionReply, Delta, Reply, TokenText, TopToken};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::wire::ApiError;

/// Bytes that wait for one answer's reader at most, beside what comes within [`PATIENCE`].
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// How long more than that may wait: one event may be larger, and whoever writes events down may be busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// What happens to an answer: for each of its choices pieces and the end; or a failure, after which nothing
/// comes. Choices are counted through all prompts: the second choice for the first prompt is number 1.
#[derive(Debug)]
pub(crate) enum Event {
    /// A piece of the choice with this number.
    Delta(usize, Delta),
    /// This choice of the conversation's answers is complete; the ids that it has had since its last piece.
    Chat(usize, Reply, usize),
    /// This choice of the prompts' continuations is complete.
    Completion(usize, CompletionReply),
    /// There is no answer, or no more of it.
    Failed(ApiError),
}

/// The two ends of one answer's way.
pub(crate) fn outbox() -> (Outbox, Events) {
    let (sender, receiver) = unbounded_channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    (Outbox { sender, bytes: Arc::clone(&bytes), full_since: None }, Events { receiver, bytes })
}

/// Where the model's thread puts an answer's events.
pub(crate) struct Outbox {
    sender: UnboundedSender<Event>,
    bytes: Arc<AtomicUsize>,
    /// Since when too much waits.
    full_since: Option<Instant>,
}

/// Where they are taken. Dropping it cancels the answer.
pub(crate) struct Events {
    receiver: UnboundedReceiver<Event>,
    bytes: Arc<AtomicUsize>,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It waits for its reader.
    Waiting,
    /// Nobody will read it.
    Gone,
    /// It waits, but too much has waited for too long; the answer is to end.
    TooMuch,
}

impl Outbox {
    /// Puts an event.
    pub fn send(&mut self, event: Event) -> Sent {
        let bytes = bytes_of(&event);
        let waiting = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if self.sender.send(event).is_err() {
            return Sent::Gone;
        }
        if waiting <= BYTES_MAX {
            self.full_since = None;
            return Sent::Waiting;
        }
        match self.full_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            true => Sent::Waiting,
            false => Sent::TooMuch,
        }
    }

    /// Whether nobody will read.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Events {
    /// The next event; `None` where the model's thread has ended.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await;
        self.taken(event)
    }

    /// [`Events::recv`] for what polls.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.poll_recv(context).map(|event| self.taken(event))
    }

    fn taken(&self, event: Option<Event>) -> Option<Event> {
        self.bytes.fetch_sub(event.as_ref().map_or(0, bytes_of), Ordering::AcqRel);
        event
    }
}

fn bytes_of(event: &Event) -> usize {
    let top = |top: &TopToken| size_of::<TopToken>() + top.text.len() + top.bytes.len();
    let token = |token: &TokenText| {
        let all: usize = token.top.iter().map(top).sum();
        size_of::<TokenText>() + token.text.len() + token.bytes.len() + all
    };
    let tokens = |tokens: &[TokenText]| tokens.iter().map(token).sum::<usize>();
    size_of::<Event>()
        + match event {
            Event::Delta(_, delta) => delta.text.len() + tokens(&delta.tokens),
            Event::Chat(_, reply, _) => reply.message.content.len() + tokens(&reply.tokens),
            Event::Completion(_, reply) => reply.text.len() + tokens(&reply.tokens),
            Event::Failed(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece() -> Event {
        Event::Delta(0, Delta { text: "x".repeat(BYTES_MAX / 2), ..Delta::default() })
    }

    #[test]
    fn what_is_taken_makes_room_and_what_is_not_ends_the_answer() {
        let (mut outbox, mut events) = outbox();
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..20 {
            assert_eq!(outbox.send(piece()), Sent::Waiting);
            assert!(events.poll_recv(&mut context).is_ready());
        }
        let full = (0..5).map(|_| outbox.send(piece())).collect::<Vec<_>>();
        assert_eq!(full, [Sent::Waiting; 5], "not at once");
        outbox.full_since = outbox.full_since.map(|since| since - 2 * PATIENCE);
        assert_eq!(outbox.send(piece()), Sent::TooMuch);
        while events.poll_recv(&mut context).is_ready() {}
        assert_eq!(outbox.send(piece()), Sent::Waiting, "all was taken");
        drop(events);
        assert!(outbox.is_closed());
        assert_eq!(outbox.send(piece()), Sent::Gone);
    }
}
