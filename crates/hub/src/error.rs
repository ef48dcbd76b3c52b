//! What can go wrong while a model is fetched or looked for.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] base::Error),
    /// The name of a model is none.
    #[error(
        "`{name}` names no model: {reason}; write ORGANISATION/NAME, or ORGANISATION/NAME:Q4_K_M for one GGUF file"
    )]
    Name {
        /// As given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The hub lists a file whose name would lead out of the model's folder.
    #[error("{name} lists the file `{path}`, whose name {reason}; nothing of it was fetched")]
    UnsafePath {
        /// The model.
        name: String,
        /// The file's path as listed.
        path: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The hub does not have it.
    #[error("{url} answers {status}: there is no {what}; check its name and revision{hint}")]
    NotFound {
        /// What was asked.
        url: String,
        /// 401 for a hidden or missing model, or 404.
        status: u16,
        /// The model, revision or file.
        what: String,
        /// Empty, or that a token may be needed.
        hint: &'static str,
    },
    /// The hub refuses this user.
    #[error(
        "{url} answers 403: {what} is not open to this user; accept its terms on the hub, or set {variable} to a token that may read it"
    )]
    Forbidden {
        /// What was asked.
        url: String,
        /// The model or file.
        what: String,
        /// The variable for the token.
        variable: &'static str,
    },
    /// The hub kept failing.
    #[error(
        "{url}: {reason}; gave up after {attempts} attempts. What has arrived is kept: run the command again to go on from there"
    )]
    Network {
        /// What was asked.
        url: String,
        /// The last failure.
        reason: String,
        /// How many times it was asked without getting further.
        attempts: u32,
    },
    /// The hub answered something that cannot be used.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A fetched file is not what the hub listed.
    #[error(
        "{path} arrived damaged twice: its {kind} is {found}, the hub lists {expected}; try again later or from another mirror"
    )]
    Damaged {
        /// The file in the repository.
        path: String,
        /// SHA-256, git's SHA-1 or size.
        kind: &'static str,
        /// What arrived.
        found: String,
        /// What was listed.
        expected: String,
    },
    /// Nothing in the repository fits the request.
    #[error("{name} has no {wanted}; it has: {available}")]
    NoSuchFile {
        /// The model.
        name: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// Several files fit the request.
    #[error("{name} has several models that fit: {available}; add one as {name}:NAME")]
    Ambiguous {
        /// The model.
        name: String,
        /// What fits.
        available: String,
    },
    /// Without a network, and the files are not here.
    #[error("offline, and {missing} is not in {}; fetch it where there is a network and copy that folder, or go online", folder.display())]
    Offline {
        /// The model or files.
        missing: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A pull was cut off and not yet resumed.
    #[error("{} is incomplete: a pull was cut off; run `taoye model pull {name}` to go on from there", folder.display())]
    Incomplete {
        /// The model.
        name: String,
        /// Its folder.
        folder: PathBuf,
    },
    /// Another process fetches the same model.
    #[error("another process is fetching into {}; wait for it to end", folder.display())]
    Busy {
        /// The model's folder.
        folder: PathBuf,
    },
    /// There is no home to put models into.
    #[error("neither TAOYE_MODELS nor HOME is set: set TAOYE_MODELS to the folder for models")]
    NoHome,
    /// Ctrl-C.
    #[error("interrupted; what has arrived is kept: run the command again to go on from there")]
    Interrupted,
}
