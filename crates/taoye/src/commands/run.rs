//! `taoye speedrun` and `taoye run`: a recipe with the command line's changes.

use crate::cli::{RunPlace, RunRecipe, Speedrun};
use crate::context::Context;
use crate::pipeline::{self, Ended, Request};
use crate::recipe::{Recipe, SPEEDRUN};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Runs the built-in recipe.
///
/// # Errors
/// As [`pipeline::run`].
pub fn speedrun(context: &Context, flags: &Speedrun) -> Result<Ended> {
    let recipe = Recipe::parse(SPEEDRUN, Path::new("recipes/speedrun.toml"))?;
    start(context, recipe, &flags.inputs, &flags.place)
}

/// Runs a recipe's file.
///
/// # Errors
/// When the recipe is unusable; else as [`pipeline::run`].
pub fn recipe(context: &Context, flags: &RunRecipe) -> Result<Ended> {
    start(context, Recipe::load(&flags.recipe)?, &flags.inputs, &flags.place)
}

fn start(context: &Context, mut recipe: Recipe, inputs: &[PathBuf], place: &RunPlace) -> Result<Ended> {
    if recipe.sized.take().is_some() && place.minutes.is_some() {
        bail!(
            "the recipe's sizes are decided already (it has a [sized] part), so --minutes would change nothing"
        );
    }
    if !inputs.is_empty() {
        recipe.corpus.inputs = inputs.to_vec();
    }
    if let Some(name) = &place.name {
        recipe.name.clone_from(name);
    }
    recipe.minutes = place.minutes.or(recipe.minutes);
    recipe.seed = place.seed.unwrap_or(recipe.seed);
    recipe.check()?;
    pipeline::run(context, Request { recipe, runs: place.runs.clone(), fresh: place.fresh })
}
