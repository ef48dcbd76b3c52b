//! `taoye model`: fetch models and look after their files. One file a subcommand.

mod pull;

use crate::cli::Model;
use crate::context::Context;
use anyhow::Result;

/// # Errors
/// As the subcommand.
pub fn run(context: &Context, command: &Model) -> Result<()> {
    match command {
        Model::Pull(flags) => pull::run(context, flags),
    }
}
