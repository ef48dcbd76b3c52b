//! A recipe from its first unfinished stage to its last: documents, tokenizer, shards, sizing,
//! pretraining, fine-tuning, scores. Each stage is skipped when its inputs and its part of the recipe
//! have not changed. It must not know the command line.

pub mod documents;
mod prepare;
pub mod scores;
mod sizing;
mod summary;
mod training;

use crate::context::Context;
use crate::recipe::Recipe;
use anyhow::{Result, bail};
use base::run::RunFolder;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tensor::Device;
use token::Tokenizer;

/// What is to be run, and where.
pub struct Request {
    /// The recipe as asked for.
    pub recipe: Recipe,
    /// Folder that holds the runs.
    pub runs: PathBuf,
    /// Delete an earlier run of the same name.
    pub fresh: bool,
}

/// How a run ended.
pub enum Ended {
    /// Every stage is done.
    Done,
    /// Ctrl-C; the same command goes on.
    Interrupted,
}

/// A run under way.
struct Run<'a> {
    context: &'a Context,
    device: Device,
    folder: RunFolder,
    recipe: Recipe,
    /// Hash of the recipe as asked for.
    asked: String,
    started: Instant,
    /// Seconds of each stage of this call, in order; none for those that were done before.
    seconds: Vec<(&'static str, Option<f64>)>,
}

/// Runs what is left of a recipe.
///
/// # Errors
/// What any stage reports; the folder then holds all that was finished, and the same call goes on.
pub fn run(context: &Context, request: Request) -> Result<Ended> {
    base::interrupt::install()?;
    let started = Instant::now();
    let path = request.runs.join(&request.recipe.name);
    if request.fresh && path.exists() {
        // A folder of another kind, which a name or --runs may point at by mistake, is not ours to delete.
        if !path.join(".lock").exists() {
            bail!(
                "{} is no run's folder, so --fresh does not delete it; choose another --name or --runs",
                path.display()
            );
        }
        // Refuses a run that another process holds, and a name that leads out of the runs' folder.
        drop(RunFolder::open_named(&request.runs, &request.recipe.name)?);
        std::fs::remove_dir_all(&path)?;
    }
    let folder = RunFolder::open_named(&request.runs, &request.recipe.name)?;
    let asked = request.recipe.hash()?;
    let recipe = continued(&folder, request.recipe, &asked)?;
    let device = context.device()?;
    let mut run = Run { context, device, folder, recipe, asked, started, seconds: Vec::new() };
    run.stages()
}

/// The run's own recipe, its sizes decided, where this run was begun before; else the one asked for.
fn continued(folder: &RunFolder, recipe: Recipe, asked: &str) -> Result<Recipe> {
    let own = folder.recipe();
    if !own.exists() {
        return Ok(recipe);
    }
    let saved = Recipe::load(&own)?;
    match &saved.sized {
        Some(sized) if sized.asked == asked => Ok(saved),
        _ => bail!(
            "{} holds a run of another recipe; choose another --name, or delete that run with --fresh",
            folder.path().display()
        ),
    }
}

impl Run<'_> {
    fn stages(&mut self) -> Result<Ended> {
        let context = self.context;
        context.say(&format!(
            "run {} · {} threads, {}",
            self.folder.path().display(),
            context.threads,
            context.isa()
        ));
        self.timed("documents", Run::documents)?;
        let tokenizer = self.timed("tokenizer", Run::tokenizer)?;
        self.timed("shards", |run| run.shards(&tokenizer))?;
        self.timed("sizing", |run| run.size(&tokenizer))?;
        let Some(base) = self.timed("pretrain", |run| run.pretrain(&tokenizer))? else {
            return Ok(Ended::Interrupted);
        };
        let before = self.timed("scores before", |run| run.base_scores(&tokenizer, &base))?;
        drop(base);
        if self.timed("finetune", |run| run.finetune(&tokenizer))?.is_none() {
            return Ok(Ended::Interrupted);
        }
        let after = self.timed("scores after", |run| run.final_scores())?;
        self.summarise(&before, &after)?;
        Ok(Ended::Done)
    }

    fn timed<T>(&mut self, name: &'static str, stage: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if base::interrupt::requested() {
            bail!(Interrupted);
        }
        let started = Instant::now();
        let place = self.seconds.len();
        self.seconds.push((name, Some(0.0)));
        let result = stage(self)?;
        if let Some(seconds) = &mut self.seconds[place].1 {
            *seconds = started.elapsed().as_secs_f64();
        }
        Ok(result)
    }

    /// Whether a stage is done; then its time is not counted.
    fn is_done(&mut self, stage: &str, fingerprint: &str) -> bool {
        let done = self.folder.stage_done(stage, fingerprint);
        if done {
            self.context.say(&format!("{stage}: done before, kept"));
            if let Some((_, seconds)) = self.seconds.last_mut() {
                *seconds = None;
            }
        }
        done
    }

    /// The fingerprint that a finished stage was recorded with; part of the next stage's.
    fn fingerprint_of(&self, stage: &str) -> String {
        self.folder.manifest().stages.get(stage).map(|record| record.fingerprint.clone()).unwrap_or_default()
    }

    fn seconds_gone(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn tokenizer_folder(&self) -> PathBuf {
        self.folder.join("tokenizer")
    }
}

/// Ctrl-C between or inside the stages that do not train; the binary exits with status 130.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; the same command goes on from here")
    }
}

impl std::error::Error for Interrupted {}

/// Everything that a Hugging Face folder needs beside weights and configuration.
fn save_tokenizer(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    base::fs::create_folder(folder)?;
    tokenizer.save(folder)?;
    Ok(())
}
