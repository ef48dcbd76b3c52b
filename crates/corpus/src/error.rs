//! The crate's one error type. What concerns single documents is no error but a [`crate::Reason`].

use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in `corpus`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files, journals, folders.
    #[error(transparent)]
    Base(#[from] base::Error),
    /// A folder or file that was given does not exist.
    #[error("input {} does not exist; check the path that you gave", path.display())]
    MissingInput {
        /// As given.
        path: PathBuf,
    },
    /// Nothing to read in what was given.
    #[error(
        "no readable documents in {places}: looked for txt, md, html, source code, jsonl and json (also .gz, .zst). \
         Give a folder that holds such files"
    )]
    EmptyInput {
        /// As given, separated by commas.
        places: String,
    },
    /// Every document was dropped.
    #[error("all {documents} documents were dropped ({reasons}); see {} for each one's reason", dropped.display())]
    NothingKept {
        /// How many there were.
        documents: u64,
        /// The most frequent reasons with their counts.
        reasons: String,
        /// The list of what was dropped.
        dropped: PathBuf,
    },
    /// Neither a Cargo registry nor `vendor/` was found.
    #[error(
        "found no crate sources for the default corpus: looked in {looked_in}. Run `cargo fetch` (or `cargo vendor`) \
         in a Rust project once, or give your own folders of text instead"
    )]
    NoCrates {
        /// The folders that were looked at.
        looked_in: String,
    },
    /// The caller asked to stop.
    #[error(
        "stopped while reading documents; nothing was written, and the same command starts this stage again"
    )]
    Interrupted,
    /// An option outside its range.
    #[error("option {name} is {value}, but must be {wanted}")]
    BadOption {
        /// The option.
        name: &'static str,
        /// As given.
        value: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// A line of a documents file cannot be understood.
    #[error("{}:{line}: not a document: {reason}. Build the corpus again", path.display())]
    BadDocument {
        /// The file.
        path: PathBuf,
        /// Line, counted from one.
        line: u64,
        /// serde's words.
        reason: String,
    },
}
