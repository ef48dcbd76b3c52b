//! What flows through the pipeline: documents, their kinds, and the reasons for dropping them.
//! It must not know how documents are judged.

use serde::{Deserialize, Serialize};

/// One text on its way to the corpus; as JSON one line of `documents-*.jsonl.zst`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Sixteen hexadecimal digits, a hash of `path`; stable wherever the folder lies.
    pub id: String,
    /// What must not be torn between training and held-out: a crate's name, a folder.
    pub group: String,
    /// Relative to the folder given, with `/` between its parts; `#n` names a line of a JSONL file.
    pub path: String,
    /// What sort of file it came from.
    pub kind: Kind,
    /// The text.
    pub text: String,
}

impl Document {
    /// A document whose id follows from its path.
    pub fn new(group: &str, path: &str, kind: Kind, text: String) -> Self {
        Self { id: id_of(path), group: group.to_string(), path: path.to_string(), kind, text }
    }
}

/// The id of the document at a path.
pub fn id_of(path: &str) -> String {
    format!("{:016x}", base::hash::hash_128(path.as_bytes()) as u64)
}

/// What sort of file a document came from; thresholds differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Plain text and lines of JSONL.
    Text,
    /// Markdown, reStructuredText and their like.
    Markdown,
    /// A web page, turned into text.
    Html,
    /// Source code and configuration.
    Code,
}

impl Kind {
    /// Whether people wrote it as sentences, in which case it is judged more strictly.
    pub fn is_prose(self) -> bool {
        self != Kind::Code
    }
}

/// Why a document, or a file before it became one, was dropped. The names in JSON are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The name starts with a dot: a file, or a folder that was not entered.
    Hidden,
    /// A symbolic link below the folder given; not followed, so that loops and doubles cannot arise.
    Symlink,
    /// Not a kind of file that this pipeline reads.
    UnsupportedType,
    /// A folder of build outputs or packages of others (`target`, `node_modules`), not entered.
    BuildOutput,
    /// A lock file of a package manager.
    LockFile,
    /// An older version of a crate of which a newer one is there.
    OldVersion,
    /// The system refused to read it.
    Unreadable,
    /// Larger than the limit.
    TooLarge,
    /// A `.gz` or `.zst` that is damaged or ends too early; what came before was used.
    Truncated,
    /// Binary, or in an encoding that is neither UTF-8, UTF-16 nor GB18030.
    NotText,
    /// A line of JSONL that is not a JSON object with a string in `text`.
    BadJson,
    /// A line of JSONL without `text`.
    NoTextField,
    /// Hardly any letters or digits in it.
    NearEmpty,
    /// Made by a program, by its own words.
    Generated,
    /// Squeezed into a few very long lines.
    Minified,
    /// Characters that stand for bytes which once could not be decoded.
    ReplacementCharacters,
    /// Mostly digits and signs.
    FewLetters,
    /// Mostly the same lines, words or shapes of lines again and again.
    Repetitive,
    /// Base64, hexadecimal or other data written as text.
    EncodedData,
    /// The same text was kept already.
    Duplicate,
    /// Its group already fills the share that one group may have.
    OverShare,
    /// The corpus already holds as many bytes as asked for.
    OverBudget,
}

impl Reason {
    /// The stable name, as in JSON.
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_string))
            .expect("a variant without fields serialises to its name")
    }
}

/// One line of `dropped.jsonl.zst`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The document's id, as in [`Document::id`].
    pub id: String,
    /// The document's path, as in [`Document::path`].
    pub path: String,
    /// Why.
    pub reason: Reason,
    /// Its size in bytes, as far as known: of the text after unpacking, else of the file.
    pub bytes: u64,
}

impl Dropped {
    /// A record whose id follows from its path.
    pub fn new(path: &str, reason: Reason, bytes: u64) -> Self {
        Self { id: id_of(path), path: path.to_string(), reason, bytes }
    }
}
