//! From a listing to the corpus on disk: reads, steps, duplicates, shares, split. It must not know where files lie or
//! what a step looks for.
//!
//! Two passes: the first cleans and sets aside what passes; then the kept sizes of all groups are known, so the second
//! can split, cut groups to their share and write.

use crate::assemble::assemble;
use crate::collect::collect;
use crate::source::Listing;
use crate::{Error, Options, Report, Result};
use std::ops::ControlFlow;
use std::path::Path;

/// The documents to train on.
pub const TRAIN_FILE: &str = "documents-train.jsonl.zst";
/// The documents that are held out.
pub const HELD_OUT_FILE: &str = "documents-heldout.jsonl.zst";
/// What was dropped, with reasons.
pub const DROPPED_FILE: &str = "dropped.jsonl.zst";

/// Raise it when a step changes what it does, so that corpora are built again.
const PIPELINE_VERSION: &str = "2";

/// How far a build is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tick {
    /// Bytes of input read so far, on disk.
    pub bytes_read: u64,
    /// All bytes of the input, on disk.
    pub bytes_total: u64,
    /// Documents seen so far.
    pub documents: u64,
    /// Bytes of text kept so far.
    pub kept_bytes: u64,
}

/// One hash over all that decides what a build gives: names, lengths and times of the files, options, the pipeline.
pub fn fingerprint(listing: &Listing, options: &Options) -> Result<String> {
    options.validate()?;
    let options = format!("{options:?}");
    let files = listing
        .files
        .iter()
        .map(|file| format!("{}\0{}\0{}\0{}", file.name, file.group, file.bytes, file.modified_unix_ns));
    let parts: Vec<String> = [PIPELINE_VERSION.to_string(), options].into_iter().chain(files).collect();
    Ok(base::hash::hash_parts(parts.iter().map(String::as_str)))
}

/// Builds the corpus in `folder` and writes [`TRAIN_FILE`], [`HELD_OUT_FILE`] and [`DROPPED_FILE`], each atomically.
/// The same listing and options give the same bytes. `tick` hears of progress and may stop the build.
///
/// # Errors
/// [`Error::BadOption`], [`Error::NothingKept`], [`Error::Interrupted`], [`Error::Base`] where writing fails. A file
/// that cannot be read is no error but a dropped record.
pub fn build(
    listing: &Listing,
    options: &Options,
    folder: &Path,
    tick: &mut dyn FnMut(Tick) -> ControlFlow<()>,
) -> Result<Report> {
    options.validate()?;
    let collected = collect(listing, options, folder, tick)?;
    if collected.kept.is_empty() {
        let report = collected.report;
        collected.dropped.commit()?;
        return Err(Error::NothingKept {
            documents: report.dropped_total().documents,
            reasons: report.reasons_text(4),
            dropped: folder.join(DROPPED_FILE),
        });
    }
    assemble(collected, options, folder)
}
