//! What a run has come to, from its folder. It must not write there.

use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::SystemTime;
use train::report::StageSummary;
use train::{Event, Kind, StepMetrics, read_events};

/// Steps that the speed is taken over.
const RECENT_STEPS: usize = 20;

/// A run at a moment.
pub struct RunState {
    /// Its folder's name.
    pub name: String,
    /// Whether it goes on.
    pub standing: Standing,
    /// The stage that trained last.
    pub stage: Option<String>,
    /// Steps done in it.
    pub step: usize,
    /// Steps of it in all.
    pub steps: Option<usize>,
    /// Mean loss over the last twentieth of its steps, in nats.
    pub loss: Option<f64>,
    /// Lowest evaluation loss of it, in nats.
    pub best_evaluation: Option<f64>,
    /// Tokens a second of its last steps.
    pub tokens_per_s: Option<f64>,
    /// When something was last written down.
    pub changed: Option<SystemTime>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// All that happened.
    pub events: Vec<Event>,
}

/// Whether a run goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A process works on it.
    Running,
    /// All its stages are done.
    Finished,
    /// It ended with an error.
    Failed,
    /// It was stopped or killed; the same command goes on.
    Interrupted,
}

impl Standing {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Running => "running",
            Standing::Finished => "finished",
            Standing::Failed => "failed",
            Standing::Interrupted => "interrupted",
        }
    }
}

impl RunState {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// When there is no run, or its journal is damaged.
    pub fn read(folder: &Path) -> Result<RunState> {
        if !folder.join(".lock").exists() {
            bail!("there is no run in {}; `taoye runs` lists those there are", folder.display());
        }
        let path = folder.join("events.jsonl");
        let events = match path.exists() {
            true => read_events(&path).with_context(|| format!("cannot read {}", path.display()))?,
            false => Vec::new(),
        };
        let failure = match events.last().map(|event| &event.kind) {
            Some(Kind::Failed { message }) => Some(message.clone()),
            _ => None,
        };
        let standing = if base::run::is_held(folder)? {
            Standing::Running
        } else if failure.is_some() {
            Standing::Failed
        } else if folder.join("summary.json").exists() {
            Standing::Finished
        } else {
            Standing::Interrupted
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let changed = [path, folder.join("manifest.json")]
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
            .max();
        let failure = failure.filter(|_| standing == Standing::Failed);
        Ok(RunState::of(name, standing, changed, failure, events))
    }

    fn of(
        name: String,
        standing: Standing,
        changed: Option<SystemTime>,
        failure: Option<String>,
        events: Vec<Event>,
    ) -> RunState {
        let started = events.iter().rev().find_map(|event| match event.kind {
            Kind::Started { steps, .. } => Some((event.stage.clone(), steps)),
            _ => None,
        });
        let (stage, steps) = started.unzip();
        let of_stage = || events.iter().filter(|event| Some(&event.stage) == stage.as_ref());
        let metrics: Vec<(usize, StepMetrics)> = of_stage()
            .filter_map(|event| match event.kind {
                Kind::Step(metrics) => Some((event.step, metrics)),
                _ => None,
            })
            .collect();
        let recent = &metrics[metrics.len().saturating_sub(RECENT_STEPS)..];
        let sum =
            |value: fn(&StepMetrics) -> f64| recent.iter().map(|(_, metrics)| value(metrics)).sum::<f64>();
        let has_steps = !recent.is_empty();
        let summary = stage.as_ref().and_then(|stage| StageSummary::of(stage, &events));
        let loss = summary.map(|summary| summary.loss);
        let tokens_per_s =
            has_steps.then(|| sum(|step| step.tokens as f64) / sum(|step| step.seconds).max(1e-9));
        let best_evaluation = of_stage()
            .filter_map(|event| match event.kind {
                Kind::Evaluation { loss, .. } => Some(loss),
                _ => None,
            })
            .min_by(f64::total_cmp);
        let step = metrics.last().map_or(0, |(step, _)| *step);
        RunState {
            name,
            standing,
            step,
            steps,
            loss,
            best_evaluation,
            tokens_per_s,
            changed,
            failure,
            stage,
            events,
        }
    }

    /// The steps of the stage that trained last.
    pub fn steps_done(&self) -> Vec<(usize, StepMetrics)> {
        let of_stage = self.events.iter().filter(|event| Some(&event.stage) == self.stage.as_ref());
        let steps = of_stage.filter_map(|event| match event.kind {
            Kind::Step(metrics) => Some((event.step, metrics)),
            _ => None,
        });
        steps.collect()
    }

    /// Seconds that the stage still takes at its recent speed, evaluations not counted.
    pub fn seconds_left(&self) -> Option<f64> {
        let done = self.steps_done();
        let recent = &done[done.len().saturating_sub(RECENT_STEPS)..];
        let seconds: f64 = recent.iter().map(|(_, step)| step.seconds).sum();
        let left = self.steps?.saturating_sub(self.step);
        (!recent.is_empty()).then(|| left as f64 * seconds / recent.len() as f64)
    }
}
