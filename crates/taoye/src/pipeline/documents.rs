//! The stage from files to documents.

use super::{Interrupted, Run};
use crate::context::Context;
use crate::recipe::CorpusPart;
use anyhow::{Result, bail};
use base::progress::{Progress, Unit, format_bytes};
use corpus::source::{Listing, cargo_registry, list_folders};
use corpus::{DROPPED_FILE, HELD_OUT_FILE, Options, Report, TRAIN_FILE};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

impl Run<'_> {
    /// Builds the corpus, or finds it built.
    pub(super) fn documents(&mut self) -> Result<()> {
        let (listing, options) = input(&self.recipe.corpus)?;
        let fingerprint = corpus::fingerprint(&listing, &options)?;
        if self.is_done("documents", &fingerprint) {
            return Ok(());
        }
        if self.recipe.sized.is_some() {
            self.refuse_changed("documents", &listing.source, &fingerprint)?;
        }
        self.folder.record_input(&listing.source, &fingerprint)?;
        let report = build(self.context, &listing, &options, self.folder.path())?;
        let report_path = self.folder.join("corpus.json");
        base::fs::write_bytes(&report_path, serde_json::to_string_pretty(&report)?.as_bytes())?;
        self.context.say(&describe(&report));
        let outputs = [TRAIN_FILE, HELD_OUT_FILE, DROPPED_FILE, "corpus.json"].map(PathBuf::from);
        self.folder.mark_stage("documents", &fingerprint, &outputs)?;
        Ok(())
    }
}

impl<R> Run<'_, R> {
    /// Refuses to go on where `stage`, done before, read something else than it would now.
    pub(super) fn refuse_changed(&self, stage: &str, source: &str, fingerprint: &str) -> Result<()> {
        let before = self.fingerprint_of(stage);
        if !before.is_empty() && before != fingerprint {
            bail!(
                "the text in {source} has changed since {} was begun; choose another --name, or begin again with --fresh",
                self.folder.path().display()
            );
        }
        Ok(())
    }
}

/// What a recipe's corpus part asks for.
fn input(part: &CorpusPart) -> Result<(Listing, Options)> {
    let defaults = match part.inputs.is_empty() {
        true => Options { max_group_share: part.max_group_share, ..Options::for_crates() },
        false => Options::default(),
    };
    let options = Options {
        max_bytes: Some(part.max_megabytes.saturating_mul(1_000_000)),
        held_out_share: part.held_out_share,
        ..defaults
    };
    let listing = match part.inputs.as_slice() {
        [] => cargo_registry::find(Path::new("."))?,
        inputs => list_folders(inputs)?,
    };
    Ok((listing, options))
}

/// Builds a corpus in a folder, with progress.
///
/// # Errors
/// As [`corpus::build`]; Ctrl-C is [`Interrupted`].
pub fn build(context: &Context, listing: &Listing, options: &Options, folder: &Path) -> Result<Report> {
    let mut progress = Progress::start(context.progress, "documents", Unit::Bytes, None);
    let report = corpus::build(listing, options, folder, &mut |tick| {
        progress.set(tick.kept_bytes);
        match base::interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if base::interrupt::requested() {
        bail!(Interrupted);
    }
    progress.finish();
    Ok(report?)
}

/// A line or two on what a corpus holds.
pub fn describe(report: &Report) -> String {
    let (kept, dropped) = (report.kept(), report.dropped_total());
    let mut text = format!(
        "documents: {} kept ({}, {} held out) of {} files from {}",
        kept.documents,
        format_bytes(kept.bytes as f64),
        format_bytes(report.held_out.bytes as f64),
        report.files.documents,
        report.source,
    );
    if dropped.documents > 0 {
        text.push_str(&format!("\n           {} dropped: {}", dropped.documents, report.reasons_text(5)));
    }
    text
}
