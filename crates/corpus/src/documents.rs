//! Reads back what a build wrote. It must not know how it came about.

use crate::{Document, Dropped, Error, Result};
use serde::de::DeserializeOwned;
use std::path::Path;

/// The documents of `documents-*.jsonl.zst`, in order, one at a time.
///
/// # Errors
/// [`Error::Base`] where the file cannot be opened; each item is [`Error::BadDocument`] or [`Error::Base`] where a line
/// cannot be read.
pub fn read_documents(path: &Path) -> Result<impl Iterator<Item = Result<Document>> + use<>> {
    read_lines(path)
}

/// The records of `dropped.jsonl.zst`, in order, one at a time.
///
/// # Errors
/// As [`read_documents`].
pub fn read_dropped(path: &Path) -> Result<impl Iterator<Item = Result<Dropped>> + use<>> {
    read_lines(path)
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<T>> + use<T>> {
    let lines = base::fs::open_lines(path)?;
    let path = path.to_path_buf();
    Ok(lines.enumerate().map(move |(index, line)| {
        serde_json::from_str(&line?).map_err(|error| Error::BadDocument {
            path: path.clone(),
            line: index as u64 + 1,
            reason: error.to_string(),
        })
    }))
}
