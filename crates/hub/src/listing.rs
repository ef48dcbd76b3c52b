//! The two kinds of hub: where they are, how they list a repository's files, and where a file is fetched from.

use crate::client::{Client, Policy};
use crate::name::check_path;
use crate::{Error, ModelName, Result};
use serde::Deserialize;

/// The most of a listing that is read: about a hundred thousand files.
const LISTING_BYTES_MAX: u64 = 64 << 20;

/// Whose protocol a hub speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// huggingface.co and its mirrors (<https://huggingface.co/docs/hub/api>).
    HuggingFace,
    /// modelscope.cn (<https://modelscope.cn/docs>).
    ModelScope,
}

impl Kind {
    /// The environment's variable for the address, the default address, and the variable for the token.
    fn settings(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::HuggingFace => ("HF_ENDPOINT", "https://huggingface.co", "HF_TOKEN"),
            Kind::ModelScope => ("MODELSCOPE_ENDPOINT", "https://modelscope.cn", "MODELSCOPE_API_TOKEN"),
        }
    }

    /// The environment's variable that holds the token.
    pub fn token_variable(self) -> &'static str {
        self.settings().2
    }

    fn default_revision(self) -> &'static str {
        match self {
            Kind::HuggingFace => "main",
            Kind::ModelScope => "master",
        }
    }
}

/// A hub and how patiently it is asked.
#[derive(Clone)]
pub struct Hub {
    /// Its protocol.
    pub kind: Kind,
    /// Its address, such as `https://hf-mirror.com`.
    pub endpoint: String,
    /// Sent to the endpoint alone.
    pub token: Option<String>,
    /// Retries and waiting.
    pub policy: Policy,
}

impl Hub {
    /// The hub that `HF_ENDPOINT` (or `MODELSCOPE_ENDPOINT`) names, with the token of `HF_TOKEN`
    /// (`MODELSCOPE_API_TOKEN`).
    pub fn from_environment(kind: Kind) -> Hub {
        let (endpoint, default, token) = kind.settings();
        let set = |name| {
            std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let endpoint = set(endpoint).unwrap_or_else(|| default.to_owned());
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") };
        Hub { kind, endpoint, token: set(token), policy: Policy::default() }
    }

    fn base(&self) -> &str {
        self.endpoint.trim_end_matches('/')
    }
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the content, in hexadecimal: files in large file storage.
    Sha256(String),
    /// SHA-1 of git's blob (`blob SIZE\0` and the content), in hexadecimal: all other files.
    GitSha1(String),
}

impl Checksum {
    /// The hexadecimal digits.
    pub fn digits(&self) -> &str {
        match self {
            Checksum::Sha256(digits) | Checksum::GitSha1(digits) => digits,
        }
    }

    /// Its kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Checksum::Sha256(_) => "SHA-256",
            Checksum::GitSha1(_) => "git hash",
        }
    }

    /// From an entity tag of the hub: 64 hexadecimal digits are SHA-256, 40 git's SHA-1.
    pub fn from_tag(tag: &str) -> Option<Checksum> {
        let tag = tag.trim_start_matches("W/").trim_matches('"').to_lowercase();
        let hexadecimal = tag.bytes().all(|b| b.is_ascii_hexdigit());
        match tag.len() {
            64 if hexadecimal => Some(Checksum::Sha256(tag)),
            40 if hexadecimal => Some(Checksum::GitSha1(tag)),
            _ => None,
        }
    }
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    pub path: String,
    /// Absent where a mirror does not tell.
    pub size_bytes: Option<u64>,
    pub checksum: Option<Checksum>,
    pub url: String,
}

/// A repository at one revision.
pub struct Listing {
    /// The commit where the hub tells it, else the revision as asked.
    pub revision: String,
    pub files: Vec<RemoteFile>,
}

/// Asks a hub for a repository's files.
///
/// # Errors
/// The hub does not have the model or does not answer; a file's name leads out of the folder.
pub fn list(hub: &Hub, client: &Client, name: &ModelName, revision: Option<&str>) -> Result<Listing> {
    let revision = revision.unwrap_or(hub.kind.default_revision());
    let what = format!("model {} at revision {revision}", name.repository());
    let (repository, quoted) = (name.repository(), quote(revision, ""));
    let url = match hub.kind {
        Kind::HuggingFace => format!("{}/api/models/{repository}/revision/{quoted}?blobs=true", hub.base()),
        Kind::ModelScope => {
            format!("{}/api/v1/models/{repository}/repo/files?Revision={quoted}&Recursive=true", hub.base())
        }
    };
    let text = client.get_text(&url, &what, LISTING_BYTES_MAX)?;
    let unreadable = |error: serde_json::Error| Error::Answer {
        url: url.clone(),
        reason: format!("this is no listing of a model's files ({error}); is the address that of a hub?"),
    };
    let listing = match hub.kind {
        Kind::HuggingFace => {
            let answer: HuggingFaceModel = serde_json::from_str(&text).map_err(unreadable)?;
            let commit = answer.sha.clone().unwrap_or_else(|| revision.to_owned());
            let prefix = format!("{}/{repository}/resolve/{}/", hub.base(), quote(&commit, ""));
            let files = answer.siblings.into_iter().map(|file| file.into_remote(&prefix)).collect();
            Listing { revision: commit, files }
        }
        Kind::ModelScope => {
            let answer: ModelScopeAnswer = serde_json::from_str(&text).map_err(unreadable)?;
            let prefix =
                format!("{}/api/v1/models/{repository}/repo?Revision={quoted}&FilePath=", hub.base());
            let files = answer.data.files.into_iter().filter(|file| file.kind != "tree");
            let files = files.map(|file| file.into_remote(&prefix)).collect();
            Listing { revision: revision.to_owned(), files }
        }
    };
    for file in &listing.files {
        check_path(&file.path).map_err(|reason| Error::UnsafePath {
            name: name.repository().to_owned(),
            path: file.path.clone(),
            reason,
        })?;
    }
    Ok(listing)
}

#[derive(Deserialize)]
struct HuggingFaceModel {
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Sibling {
    fn into_remote(self, prefix: &str) -> RemoteFile {
        // A large file's blob is only its pointer.
        let (tag, size_bytes) = match self.lfs {
            Some(large) => (large.sha256, large.size.or(self.size)),
            None => (self.blob_id, self.size),
        };
        RemoteFile {
            url: format!("{prefix}{}", quote(&self.rfilename, "/")),
            path: self.rfilename,
            size_bytes,
            checksum: tag.as_deref().and_then(Checksum::from_tag),
        }
    }
}

#[derive(Deserialize)]
struct ModelScopeAnswer {
    #[serde(rename = "Data")]
    data: ModelScopeData,
}

#[derive(Deserialize)]
struct ModelScopeData {
    #[serde(rename = "Files")]
    files: Vec<ModelScopeFile>,
}

#[derive(Deserialize)]
struct ModelScopeFile {
    #[serde(rename = "Path")]
    path: String,
    #[serde(rename = "Size")]
    size: Option<u64>,
    #[serde(rename = "Sha256")]
    sha256: Option<String>,
    #[serde(rename = "Type", default)]
    kind: String,
}

impl ModelScopeFile {
    fn into_remote(self, prefix: &str) -> RemoteFile {
        RemoteFile {
            url: format!("{prefix}{}", quote(&self.path, "")),
            size_bytes: self.size,
            checksum: self.sha256.as_deref().and_then(Checksum::from_tag),
            path: self.path,
        }
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3) and those of `kept`.
fn quote(text: &str, kept: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted += &format!("%{byte:02X}");
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_and_tags() {
        assert_eq!(quote("a b/ü?&", "/"), "a%20b/%C3%BC%3F%26");
        assert_eq!(quote("refs/pr/1", ""), "refs%2Fpr%2F1");
        let (long, short) = ("AB".repeat(32), "cd".repeat(20));
        assert_eq!(Checksum::from_tag(&format!("\"{long}\"")), Some(Checksum::Sha256(long.to_lowercase())));
        assert_eq!(Checksum::from_tag(&format!("W/\"{short}\"")), Some(Checksum::GitSha1(short)));
        assert_eq!(Checksum::from_tag("\"5f-1\""), None);
        assert_eq!(Checksum::from_tag(&"g".repeat(64)), None);
    }
}
