//! A recipe from its first unfinished stage to its last. Each stage is skipped when its inputs and its part of the
//! recipe have not changed. There are two kinds of run: a pipeline from raw text to a scored model (documents,
//! tokenizer, shards, sizing, pretraining, fine-tuning, scores), and the tuning of a model that exists (see
//! [`tuning`]). It must not know the command line.

pub mod documents;
mod prepare;
mod rehearsal;
pub mod scores;
mod sizing;
mod summary;
mod training;
mod tuning;

use crate::context::{Context, explain};
use crate::recipe::{AnyRecipe, Recipe, Tuning};
use anyhow::{Result, bail};
use base::journal::{Journal, SyncPolicy};
use base::run::RunFolder;
use rehearsal::Scratch;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tensor::Device;
use token::Tokenizer;
use train::{Event, Kind};

/// What is to be run, and where.
pub struct Request<R> {
    /// The recipe as asked for.
    pub recipe: R,
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
struct Run<'a, R = Recipe> {
    context: &'a Context,
    device: Device,
    folder: RunFolder,
    recipe: R,
    /// Hash of the recipe as asked for.
    asked: String,
    started: Instant,
    /// Seconds of each stage of this call, in order; none for those that were done before.
    seconds: Vec<(&'static str, Option<f64>)>,
}

/// Runs what is left of a pipeline from raw text.
///
/// # Errors
/// What any stage reports; the folder then holds all that was finished, and the same call goes on.
pub fn run(context: &Context, request: Request<Recipe>) -> Result<Ended> {
    Run::begin(context, request)?.stages()
}

/// Runs what is left of the tuning of a model.
///
/// # Errors
/// As [`run`].
pub fn tune(context: &Context, request: Request<Tuning>) -> Result<Ended> {
    Run::begin(context, request)?.tune()
}

/// Tells what a pipeline from raw text would take, and leaves nothing behind.
///
/// # Errors
/// As the stages before training; [`train::Error::Memory`] when training does not fit.
pub fn rehearse(context: &Context, recipe: Recipe, runs: &Path) -> Result<()> {
    let scratch = Scratch::new(runs);
    Run::in_folder(context, RunFolder::open(scratch.path())?, recipe)?.rehearse()
}

/// Tells what the tuning of a model would take, and leaves nothing behind.
///
/// # Errors
/// As [`rehearse`].
pub fn rehearse_tuning(context: &Context, recipe: Tuning, runs: &Path) -> Result<()> {
    let scratch = Scratch::new(runs);
    Run::in_folder(context, RunFolder::open(scratch.path())?, recipe)?.rehearse_tuning()
}

/// The run's own recipe, its sizes decided, where this run was begun before; else the one asked for.
fn continued<R: AnyRecipe>(folder: &RunFolder, recipe: R, asked: &str) -> Result<R> {
    let own = folder.recipe();
    if !own.exists() {
        return Ok(recipe);
    }
    match R::load(&own) {
        Ok(saved) if saved.decided_for() == Some(asked) => Ok(saved),
        _ => bail!(
            "{} holds a run of another recipe; choose another --name, or delete that run with --fresh",
            folder.path().display()
        ),
    }
}

impl<'a, R: AnyRecipe> Run<'a, R> {
    fn begin(context: &'a Context, request: Request<R>) -> Result<Run<'a, R>> {
        let name = request.recipe.run_name();
        let path = request.runs.join(&name);
        if request.fresh && path.exists() {
            // A folder of another kind, which a name or --runs may point at by mistake, is not ours to delete.
            if !path.join(".lock").exists() {
                bail!(
                    "{} is no run's folder, so --fresh does not delete it; choose another --name or --runs",
                    path.display()
                );
            }
            // Refuses a run that another process holds, and a name that leads out of the runs' folder.
            drop(RunFolder::open_named(&request.runs, &name)?);
            std::fs::remove_dir_all(&path)?;
        }
        let folder = RunFolder::open_named(&request.runs, &name)?;
        Run::in_folder(context, folder, request.recipe)
    }

    fn in_folder(context: &'a Context, folder: RunFolder, recipe: R) -> Result<Run<'a, R>> {
        base::interrupt::install()?;
        let started = Instant::now();
        let asked = recipe.hash()?;
        let recipe = continued(&folder, recipe, &asked)?;
        let device = context.device()?;
        context.say(&format!(
            "run {} · {} threads, {}",
            folder.path().display(),
            context.threads,
            context.isa()
        ));
        Ok(Run { context, device, folder, recipe, asked, started, seconds: Vec::new() })
    }
}

impl Run<'_> {
    fn stages(mut self) -> Result<Ended> {
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
}

impl Run<'_> {
    /// Goes as far as training and tells what that would take.
    fn rehearse(mut self) -> Result<()> {
        self.timed("documents", Run::documents)?;
        let tokenizer = self.timed("tokenizer", Run::tokenizer)?;
        self.timed("shards", |run| run.shards(&tokenizer))?;
        self.timed("sizing", |run| run.size(&tokenizer))?;
        let plans = [self.plan_pretraining(&tokenizer)?, self.plan_finetuning(&tokenizer)?];
        let text = plans.each_ref().map(|plan| plan.0.as_str()).join("\n");
        self.context.print(&text, &json!({"stages": plans.map(|plan| plan.1)}));
        Ok(())
    }
}

impl<R> Run<'_, R> {
    fn timed<T>(&mut self, name: &'static str, stage: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if base::interrupt::requested() {
            bail!(Interrupted);
        }
        let started = Instant::now();
        let place = self.seconds.len();
        self.seconds.push((name, Some(0.0)));
        let result = stage(self).inspect_err(|error| self.record_failure(name, error))?;
        if let Some(seconds) = &mut self.seconds[place].1 {
            *seconds = started.elapsed().as_secs_f64();
        }
        Ok(result)
    }

    /// Writes into the run's journal that it failed, so that lists of runs and its report can say so.
    fn record_failure(&self, stage: &str, error: &anyhow::Error) {
        if error.is::<Interrupted>() {
            return;
        }
        let path = self.folder.events();
        let steps = train::read_events(&path).unwrap_or_default();
        let step = steps.iter().rev().find(|event| event.stage == stage).map_or(0, |event| event.step);
        let kind = Kind::Failed { message: explain(error) };
        let event = Event { stage: stage.to_owned(), step, kind };
        // The error itself is what matters; that it could not be written down too, as on a full disk, is no news.
        if let Ok(opened) = Journal::open(&path, SyncPolicy::EveryRecord) {
            let mut journal = opened.journal;
            let _ = journal.append(&event);
        }
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
