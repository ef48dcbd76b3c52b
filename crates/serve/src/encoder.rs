//! The thread that owns an encoder, and the way to it. Knows neither HTTP nor text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::Encoder;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::queue::Worker;
use crate::wire::ApiError;

/// Documents that are computed together.
const BATCH_DOCUMENTS: usize = 32;

struct Job {
    documents: Vec<Vec<u32>>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>, ApiError>>,
}

/// The way to an encoder's thread, which ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct EncoderQueue {
    jobs: mpsc::Sender<Job>,
    places: usize,
}

impl EncoderQueue {
    /// Starts the thread; at most `waiting_max` requests wait.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(encoder: Encoder, waiting_max: usize) -> std::io::Result<(EncoderQueue, Worker)> {
        let places = waiting_max.max(1);
        let (jobs, receiver) = mpsc::channel(places);
        let give_up = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&give_up);
        let thread = std::thread::Builder::new().name("encoder".into()).spawn(move || {
            let device = encoder.device().clone();
            work(encoder, receiver, &ending);
            // The model is gone, and what it had of the device's buffers goes too.
            device.release_idle();
        })?;
        Ok((EncoderQueue { jobs, places }, Worker::new(thread, give_up)))
    }

    /// The vectors of documents, in their order.
    ///
    /// # Errors
    /// Where the queue is full, or a document is empty, too long or holds unknown ids.
    pub async fn embed(&self, documents: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, ApiError> {
        let (answer, receiver) = oneshot::channel();
        self.jobs.try_send(Job { documents, answer }).map_err(|error| match error {
            TrySendError::Full(_) => ApiError::overloaded(self.places),
            TrySendError::Closed(_) => ApiError::closing(),
        })?;
        receiver.await.unwrap_or_else(|_| Err(ApiError::closing()))
    }
}

fn work(mut encoder: Encoder, mut jobs: mpsc::Receiver<Job>, give_up: &AtomicBool) {
    while let Some(Job { documents, answer }) = jobs.blocking_recv() {
        let mut vectors = Ok(Vec::with_capacity(documents.len()));
        for batch in documents.chunks(BATCH_DOCUMENTS) {
            if answer.is_closed() {
                break;
            }
            if give_up.load(Ordering::Relaxed) {
                vectors = Err(ApiError::closing());
                break;
            }
            let batch: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            let computed = catch_unwind(AssertUnwindSafe(|| encoder.embed(&batch)));
            let computed = match computed {
                Ok(Ok(computed)) => computed,
                Ok(Err(error)) => {
                    vectors = Err(ApiError::from_engine(&error, "input"));
                    break;
                }
                Err(_) => {
                    vectors = Err(ApiError::internal(
                        "The encoder failed on these texts; the server's log says why.",
                    ));
                    break;
                }
            };
            if let Ok(vectors) = &mut vectors {
                vectors.extend(computed);
            }
        }
        // Nobody waits for it where the client has left.
        let _ = answer.send(vectors);
    }
}
