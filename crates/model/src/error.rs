//! What can go wrong with a model folder.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {source}; is this a model folder (config.json, model.safetensors)?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Base(#[from] base::Error),
    /// A tensor's elements cannot be encoded.
    #[error(transparent)]
    Tensor(#[from] tensor::Error),
    /// `config.json` asks for something that cannot be had.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, by key.
        reason: String,
    },
    /// The weights are not those that the configuration describes.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, by tensor.
        reason: String,
    },
    /// An adapter's file could not be read.
    #[error(
        "cannot read {}: {source}; is this a PEFT folder (adapter_config.json, adapter_model.safetensors)?",
        path.display()
    )]
    ReadAdapter {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Adapters that cannot be had.
    #[error("adapter: {reason}")]
    Adapter {
        /// What is wrong, by option.
        reason: String,
    },
}

impl Error {
    pub(crate) fn read(path: &Path, source: io::Error) -> Error {
        Error::Read { path: path.to_owned(), source }
    }

    pub(crate) fn weights(path: &Path, reason: impl Into<String>) -> Error {
        Error::Weights { path: path.to_owned(), reason: reason.into() }
    }
}
