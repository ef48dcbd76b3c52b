//! What a caller can choose about a corpus. It must not know how it is built.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Limits and shares; part of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// At most so many bytes of text are kept, held-out ones included; None for no limit. Which files are read first
    /// depends on the hash of their names, so that a part is a fair sample.
    pub max_bytes: Option<u64>,
    /// The share of groups (or, with under twenty of them, of documents) that is held out, from 0 to 0.5.
    pub held_out_share: f64,
    /// The most of the text that one group may have, from 0 (not included) to 1; where there are too few groups for it,
    /// twice the mean group.
    pub max_group_share: f64,
    /// Longer documents are dropped, in bytes after unpacking; but longer plain text is read in pieces of whole lines.
    pub max_document_bytes: u64,
}

impl Default for Options {
    /// No limit on the whole, 5 % held out, groups unlimited, documents up to 16 MiB.
    fn default() -> Self {
        Self { max_bytes: None, held_out_share: 0.05, max_group_share: 1.0, max_document_bytes: 16 << 20 }
    }
}

impl Options {
    /// For the crates of a Cargo registry: no crate over 3 % of the text, files up to 1 MiB (larger sources are data;
    /// StarCoder's curation, Li et al. 2023, section 3.1, draws the line at 1 MB too).
    pub fn for_crates() -> Self {
        Self { max_group_share: 0.03, max_document_bytes: 1 << 20, ..Self::default() }
    }

    /// # Errors
    /// [`Error::BadOption`] for a value outside its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name, value: String, good, wanted| {
            if good { Ok(()) } else { Err(Error::BadOption { name, value, wanted }) }
        };
        let (held_out, group) = (self.held_out_share, self.max_group_share);
        check("held_out_share", held_out.to_string(), (0.0..=0.5).contains(&held_out), "from 0 to 0.5")?;
        check("max_group_share", group.to_string(), group > 0.0 && group <= 1.0, "above 0 and at most 1")?;
        check("max_bytes", "0".to_string(), self.max_bytes != Some(0), "above 0")?;
        let document_bytes = self.max_document_bytes;
        check("max_document_bytes", document_bytes.to_string(), document_bytes > 0, "above 0")
    }
}
