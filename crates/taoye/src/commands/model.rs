//! `taoye model`: fetch models, see what they are, turn them into other formats. One file a subcommand.

mod inspect;
mod pull;
mod sheet;
mod write;

use crate::cli::Model;
use crate::context::Context;
use anyhow::Result;

/// Runs one of the commands.
///
/// # Errors
/// As the subcommand.
pub fn run(context: &Context, command: &Model) -> Result<()> {
    match command {
        Model::Pull(flags) => pull::run(context, flags),
        Model::Inspect(flags) => inspect::run(context, flags),
        Model::Convert(flags) => write::convert(context, flags),
        Model::Quantize(flags) => write::quantize(context, flags),
    }
}
