//! The crate's one error type. Each message says what happened, where, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in `base`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "write" …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// No space, quota or file-size allowance left while writing.
    #[error(
        "cannot write {}: the disk is full ({source}). The previous file, if any, is unchanged. \
         Free space on that disk or choose another folder, then run the same command again",
        path.display()
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// A text file is larger than the caller allows once unpacked.
    #[error(
        "{} is larger than {limit_bytes} bytes once unpacked; split it, or raise the limit",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes after decompression.
        limit_bytes: u64,
    },
    /// A text file is not UTF-8.
    #[error("{} is not UTF-8 text (first bad byte at offset {offset}); convert it to UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset in bytes of the first bad byte, after decompression.
        offset: u64,
    },
    /// A record in the middle of a journal fails its checks, while good ones follow.
    #[error(
        "{}:{line} (byte {offset}): journal record is damaged: {reason}. Good records follow it, so nothing was cut. \
         Restore the file from a copy, or move it away to start a new journal",
        path.display()
    )]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// Line, counted from one.
        line: u64,
        /// Offset in bytes of the line's start.
        offset: u64,
        /// Which check failed.
        reason: String,
    },
    /// A record cannot be appended to a journal as it is.
    #[error("cannot append to {}: {reason}", path.display())]
    JournalRecord {
        /// The journal.
        path: PathBuf,
        /// Why, and what to change.
        reason: String,
    },
    /// A TOML text has a syntax error, an unknown key or a value of the wrong type.
    #[error("{}", format_toml(path, *line, *column, key, message, suggestion))]
    Toml {
        /// The recipe's path as shown to the user.
        path: PathBuf,
        /// Line, counted from one.
        line: usize,
        /// Column in characters, counted from one.
        column: usize,
        /// The offending key as a dotted path, empty if none is known.
        key: String,
        /// What is wrong.
        message: String,
        /// The nearest known key, for an unknown one.
        suggestion: Option<String>,
    },
    /// Another process holds the run's lock.
    #[error(
        "{} is in use by another process; wait for it to end, stop it, or choose another run name",
        path.display()
    )]
    RunLocked {
        /// The run's folder.
        path: PathBuf,
    },
    /// A run's name would leave its folder or is empty.
    #[error("run name {name:?} must be one plain folder name (letters, digits, '-', '_', '.')")]
    RunName {
        /// The name given.
        name: String,
    },
    /// A GGUF file is damaged, or not what is asked of it.
    #[error("{}: not a usable GGUF file: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong, by key or tensor.
        reason: String,
    },
    /// A run's manifest cannot be understood.
    #[error("{}: {reason}. Move the file away to run every stage again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Wraps an operating-system error; a lack of space becomes [`Error::DiskFull`].
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::DiskFull { path, source }
            }
            _ => Error::Io { action, path, source },
        }
    }
}

fn format_toml(
    path: &Path,
    line: usize,
    column: usize,
    key: &str,
    message: &str,
    suggestion: &Option<String>,
) -> String {
    let key = if key.is_empty() { String::new() } else { format!(" at key `{key}`") };
    let hint = match suggestion {
        Some(known) => format!("; did you mean `{known}`?"),
        None => String::new(),
    };
    format!("{}:{line}:{column}: {message}{key}{hint}", path.display())
}
