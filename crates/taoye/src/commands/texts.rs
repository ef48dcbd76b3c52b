//! Texts from what a command was given: files, folders, documents as JSON lines, or the default corpus.

use crate::context::Context;
use anyhow::{Result, bail};
use corpus::source::{cargo_registry, list_folders, read_file};
use std::path::{Path, PathBuf};

/// Longest text that is read, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Files that are named when they could not be read.
const NAMED_MAX: usize = 5;

/// Reads texts of `inputs` (none: the local Cargo registry) up to about `budget_bytes`, as they are, and says what could
/// not be read.
///
/// # Errors
/// When an input is missing, or nothing readable is in it.
pub fn read(context: &Context, inputs: &[PathBuf], budget_bytes: u64) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    visit(context, inputs, budget_bytes, &mut |text| texts.push(text))?;
    Ok(texts)
}

/// Hands the texts of [`read`] to `take` one by one, so that they need not be in memory together; returns their bytes.
///
/// # Errors
/// As [`read`].
pub fn visit(
    context: &Context,
    inputs: &[PathBuf],
    budget_bytes: u64,
    take: &mut dyn FnMut(String),
) -> Result<u64> {
    let listing = match inputs {
        [] => cargo_registry::find(Path::new("."))?,
        inputs => list_folders(inputs)?,
    };
    let (mut passed_over, mut bytes) = (Vec::new(), 0);
    for file in &listing.files {
        read_file(file, TEXT_BYTES_MAX, &mut |document| {
            match document {
                Ok(document) if document.text.is_empty() => {}
                Ok(document) => {
                    bytes += document.text.len() as u64;
                    take(document.text);
                }
                Err(dropped) => passed_over.push(format!("{} ({})", dropped.path, dropped.reason.name())),
            }
            bytes < budget_bytes
        });
        if bytes >= budget_bytes {
            break;
        }
    }
    if !passed_over.is_empty() {
        let named = passed_over.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = passed_over.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        context.say(&format!("not read: {named}{more}"));
    }
    if bytes == 0 {
        bail!("no readable text in {}", listing.source);
    }
    Ok(bytes)
}
