//! What can keep a server from serving. Refusals of single requests are in `wire`.

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {host}:{port}: {source}; choose another \
         --port (0 takes a free one) or another --host"
    )]
    Bind {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system grants no threads or signals.
    #[error("the server cannot start: {0}")]
    Start(std::io::Error),
    /// No model could be loaded.
    #[error("no model could be loaded, so there is nothing to serve: {0}")]
    NoModel(String),
    /// Two models have one name.
    #[error("two models are called {0:?}; give each a name of its own: --name {0} --name OTHER")]
    SameName(String),
    /// The file of API keys.
    #[error("the API keys in {}: {reason}", path.display())]
    Keys {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}
