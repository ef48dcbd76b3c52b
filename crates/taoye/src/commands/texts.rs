//! Texts from what a command was given: files, folders, documents as JSON lines, or the default corpus.

use anyhow::{Result, bail};
use corpus::source::{cargo_registry, list_folders, read_file};
use std::path::{Path, PathBuf};

/// Longest text that is read, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Reads texts of `inputs` (none: the local Cargo registry) up to about `budget_bytes`, as they are.
///
/// # Errors
/// When an input is missing, or nothing readable is in it.
pub fn read(inputs: &[PathBuf], budget_bytes: u64) -> Result<Vec<String>> {
    let listing = match inputs {
        [] => cargo_registry::find(Path::new("."))?,
        inputs => list_folders(inputs)?,
    };
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for file in &listing.files {
        read_file(file, TEXT_BYTES_MAX, &mut |document| {
            if let Ok(document) = document
                && !document.text.is_empty()
            {
                bytes += document.text.len() as u64;
                texts.push(document.text);
            }
            bytes < budget_bytes
        });
        if bytes >= budget_bytes {
            break;
        }
    }
    if texts.is_empty() {
        bail!("no readable text in {}", listing.source);
    }
    Ok(texts)
}
