//! `taoye corpus INPUT… --out DIR`.

use crate::cli::Corpus;
use crate::context::Context;
use crate::pipeline::documents;
use anyhow::Result;
use corpus::Options;
use corpus::source::list_folders;

/// Builds documents from files and folders.
///
/// # Errors
/// When an input is missing or empty, or the output cannot be written.
pub fn run(context: &Context, flags: &Corpus) -> Result<()> {
    base::interrupt::install()?;
    let options = Options {
        max_bytes: flags.max_megabytes.map(|megabytes| megabytes.saturating_mul(1_000_000)),
        held_out_share: flags.held_out_share,
        ..Options::default()
    };
    options.validate()?;
    let listing = list_folders(&flags.inputs)?;
    base::fs::create_folder(&flags.out)?;
    let report = documents::build(context, &listing, &options, &flags.out)?;
    context.print(&documents::describe(&report), &serde_json::to_value(&report)?);
    Ok(())
}
