//! `taoye speedrun` and `taoye run`: a recipe with the command line's changes.

use super::train;
use crate::cli::{RunPlace, RunRecipe, Speedrun, Train};
use crate::context::Context;
use crate::pipeline::{self, Ended, Request};
use crate::recipe::{AnyRecipe, Recipe, SPEEDRUN, Tuning};
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
    if is_tuning(&flags.recipe) {
        let RunPlace { name, runs, fresh, minutes, seed, dry_run } = &flags.place;
        let tuning = Tuning {
            name: name.clone(),
            data: flags.inputs.clone(),
            minutes: *minutes,
            seed: *seed,
            ..Tuning::default()
        };
        let recipe = Some(flags.recipe.clone());
        let flags = Train { tuning, recipe, runs: runs.clone(), fresh: *fresh, dry_run: *dry_run };
        return train::run(context, &flags);
    }
    start(context, Recipe::load(&flags.recipe)?, &flags.inputs, &flags.place)
}

/// Whether a recipe starts from a model; one that cannot be read is left to the reader of whole pipelines to refuse.
fn is_tuning(path: &Path) -> bool {
    let table: Option<toml::Table> = std::fs::read_to_string(path).ok().and_then(|text| text.parse().ok());
    table.is_some_and(|table| table.contains_key("init"))
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
    if place.dry_run {
        pipeline::rehearse(context, recipe, &place.runs)?;
        return Ok(Ended::Done);
    }
    pipeline::run(context, Request { recipe, runs: place.runs.clone(), fresh: place.fresh })
}
