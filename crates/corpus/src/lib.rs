//! Raw files to clean, deduplicated documents, where every dropped document has a reason.
//! It must not know tokens, models or what the documents are used for.
//!
//! The way of a document: [`source`] lists files and reads them into [`Document`]s; each of [`step::STEPS`] changes it
//! or judges it; [`build()`] keeps what passes every step, holds groups to their share, splits train from held-out, and
//! writes `documents-train.jsonl.zst`, `documents-heldout.jsonl.zst` and `dropped.jsonl.zst`.
//! One thread streams, so memory does not grow with the input but for a few dozen bytes a document.

mod assemble;
mod build;
mod collect;
mod document;
mod documents;
mod error;
mod options;
mod report;
pub mod source;
mod split;
mod spool;
pub mod step;
pub mod text;

pub use build::{DROPPED_FILE, HELD_OUT_FILE, TRAIN_FILE, Tick, build, fingerprint};
pub use document::{Document, Dropped, Kind, Reason};
pub use documents::{read_documents, read_dropped};
pub use error::{Error, Result};
pub use options::Options;
pub use report::{GroupShare, Report, Tally};
pub use source::{Listing, cargo_registry, list_folders};
