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
    /// The listener failed.
    #[error("the server stopped listening: {0}")]
    Serve(std::io::Error),
}
