//! Everything that can stop a training stage.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option that no run could use.
    #[error("`{key}` is {value}; it must be {needed}")]
    Options {
        /// The key below `[train]`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        needed: &'static str,
    },
    /// The data do not fit the model or the options.
    #[error("training data: {message}")]
    Data {
        /// What is wrong and what to do.
        message: String,
    },
    /// A loss or gradient that is not a number. The last checkpoint is untouched.
    #[error(
        "step {step}: {what} is {value}, not a finite number; first affected: {tensor}. Training stopped before the \
         update{kept}. Lower the learning rate or `clip`, lengthen the warm-up, or look at the data of this step"
    )]
    NotFinite {
        /// The step, counted from 1.
        step: usize,
        /// "the loss" or "the gradient norm".
        what: &'static str,
        /// Its value, as printed.
        value: String,
        /// Name of the first tensor that holds such a number.
        tensor: String,
        /// What training can go on from, as a clause; empty when nothing is known of it.
        kept: String,
    },
    /// A loss that rose far above what it had come to and stayed there. A checkpoint from before is untouched.
    #[error(
        "step {step}: the loss is {loss:.3} and has been more than {margin} nats above {lowest:.3}, the lowest that its \
         running mean had come to, for {steps} steps; the largest gradient is that of {tensor}. Training stopped{kept}. \
         Lower the learning rate or `clip`, lengthen the warm-up, or raise `explosion_nats` to let it go on"
    )]
    Exploded {
        /// The step, counted from 1.
        step: usize,
        /// Its loss, in nats.
        loss: f64,
        /// The lowest running mean so far, in nats.
        lowest: f64,
        /// `explosion_nats`.
        margin: f64,
        /// Steps in a row.
        steps: usize,
        /// Name of the tensor with the largest gradient, with its norm beside the norm of all.
        tensor: String,
        /// What training can go on from, as a clause.
        kept: String,
    },
    /// The context is longer than the model's.
    #[error(
        "`context` is {context}, but the model has {limit} positions (`max_position_embeddings`); \
         take a shorter context or another model"
    )]
    Context {
        /// The context asked for.
        context: usize,
        /// The model's positions.
        limit: usize,
    },
    /// The machine has less memory than the stage needs.
    #[error(transparent)]
    Memory(#[from] plan::Shortage),
    /// A shard is missing or damaged, or cannot be packed.
    #[error(transparent)]
    Token(#[from] token::Error),
    /// A file of the run could not be read or written.
    #[error(transparent)]
    Base(#[from] base::Error),
    /// The folder belongs to another run.
    #[error(
        "{} holds a run that differs in {difference}; its results would not be those of this recipe. \
         Choose another folder or remove this one",
        folder.display()
    )]
    OtherRun {
        /// The checkpoints' folder.
        folder: PathBuf,
        /// What differs.
        difference: String,
    },
    /// No checkpoint of a folder can be read.
    #[error(
        "all {count} checkpoints in {} are damaged ({reason}); nothing was overwritten. \
         Restore one, or remove the folder to train from the start",
        folder.display()
    )]
    AllDamaged {
        /// The checkpoints' folder.
        folder: PathBuf,
        /// How many there are.
        count: usize,
        /// What is wrong with the newest.
        reason: String,
    },
    /// A checkpoint could not be written; the previous one is untouched.
    #[error(
        "cannot write checkpoint {}: {source}; {kept}. Free space on that disk, then run the same command again",
        path.display()
    )]
    Write {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What training can go on from.
        kept: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an input/output error with its path.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
