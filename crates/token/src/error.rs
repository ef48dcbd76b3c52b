//! The one error type of the crate. Must not know who shows the messages.

use std::path::PathBuf;

/// Everything that can go wrong in this crate; each message says what happened, where and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    Base(#[from] base::Error),
    /// Training options that contradict each other or the texts.
    #[error("cannot train a tokenizer: {0}")]
    Training(String),
    /// A tokenizer file that is damaged or of a kind that cannot be used.
    #[error("{path}: cannot use this tokenizer: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The part that is not supported, and what was expected.
        reason: String,
    },
    /// A chat template that does not compile, fails on these messages or changes what they say.
    #[error("chat template: {0}")]
    Template(String),
    /// A line of a file of conversations that cannot be learnt from.
    #[error("{path}, line {line}: {reason}")]
    Chat {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: u64,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A shard that is damaged, cut off or of another kind.
    #[error("{path}: {reason}; remove it and run the same command again, which makes it anew")]
    Shard {
        /// The file.
        path: PathBuf,
        /// The block or field, and what is wrong with it.
        reason: String,
    },
    /// A document that does not fit the shard that it is written to.
    #[error("cannot add a document to shard {path}: {reason}")]
    Document {
        /// The shard being written.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Packing options that cannot be met.
    #[error("cannot pack documents: {0}")]
    Packing(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
