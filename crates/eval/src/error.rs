//! What can go wrong while a model is measured.
//!
//! It must not know any model: a model's own error arrives boxed.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model failed on one piece of text.
    #[error("the model failed on {what}: {source}")]
    Model {
        /// Which document, window or item.
        what: String,
        /// The model's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model returned another number of log-probabilities than was asked for.
    #[error("{what}: expected {expected} log-probabilities, one for each id but the first, and got {found}")]
    LogProbabilities {
        /// Which document and window.
        what: String,
        /// How many were due.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// A log-probability that no distribution has.
    #[error(
        "{what}: the log-probability of token {position} is {value}; the model's weights or logits hold no numbers"
    )]
    NotALogProbability {
        /// Which document and window.
        what: String,
        /// The token's place in the window, the start token being 0.
        position: usize,
        /// What the model returned.
        value: f32,
    },
    /// Nothing to measure.
    #[error("no held-out text to measure bits per byte on: give at least one document that is not empty")]
    NoText,
    /// A context that holds no text.
    #[error(
        "a context of {context} tokens cannot score text: one token is the start, so at least 2 are needed"
    )]
    Context {
        /// The context asked for, in tokens.
        context: usize,
    },
    /// Too little text for perplexity.
    #[error(
        "the text has {tokens} tokens, and perplexity needs at least two windows: {needed}; give a longer text or a \
         shorter --window"
    )]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens needed.
        needed: usize,
    },
    /// Another model's distributions cannot be used.
    #[error("distributions in {}: {reason}", path.display())]
    BaseFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Base(base::Error),
    /// The yardstick failed.
    #[error("zstd could not compress {what}: {source}")]
    Compression {
        /// Which document.
        what: String,
        /// The error that zstd gave.
        source: std::io::Error,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
