//! `taoye train`: a model that exists, trained further.

use crate::cli::Train;
use crate::context::Context;
use crate::pipeline::{self, Ended, Request};
use crate::recipe::{AnyRecipe, Tuning};
use anyhow::Result;

/// Trains as the flags say, and as the recipe says where they are silent.
///
/// # Errors
/// When the settings are unusable; else as [`pipeline::tune`].
pub fn run(context: &Context, flags: &Train) -> Result<Ended> {
    let mut recipe = flags.tuning.clone();
    if let Some(path) = &flags.recipe {
        recipe = recipe.over(Tuning::load(path)?)?;
    }
    recipe.check()?;
    if flags.dry_run {
        pipeline::rehearse_tuning(context, recipe, &flags.runs)?;
        return Ok(Ended::Done);
    }
    pipeline::tune(context, Request { recipe, runs: flags.runs.clone(), fresh: flags.fresh })
}
