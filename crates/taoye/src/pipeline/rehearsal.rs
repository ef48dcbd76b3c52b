//! A dry run: what a training stage would take, told before it begins, and its first batch as text. What it writes on
//! the way lies in a folder of its own that is removed. It must not take an optimiser step that is kept.

use super::sizing::measure;
use anyhow::Result;
use base::progress::format_duration;
use model::Config;
use plan::memory::{Estimate, size};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tensor::Device;
use token::Tokenizer;
use train::{Init, OptimiserKind, PackedShards, Samples, ScheduleKind, Sequence, TrainOptions};

/// Encloses what a model sees but does not learn.
const MASKED: [&str; 2] = ["⟦", "⟧"];

/// A stage that might be run.
pub struct StagePlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// The model's shape.
    pub config: &'a Config,
    /// Memory that it needs.
    pub estimate: Estimate,
    /// How it trains.
    pub options: &'a TrainOptions,
    /// What it trains on.
    pub samples: &'a dyn Samples,
    /// The shards that the samples come from, packed at the whole context.
    pub shards: &'a PackedShards,
    /// What made its ids.
    pub tokenizer: &'a Tokenizer,
    /// Times that the data are read; none where they are made for the stage.
    pub epochs: Option<f64>,
}

/// A folder that is removed with its owner.
pub struct Scratch {
    path: PathBuf,
    /// The runs' folder, if it was made for this.
    made: Option<PathBuf>,
}

impl Scratch {
    /// A folder of this process below `runs`, so that it lies on the disk that a run would use.
    pub fn new(runs: &Path) -> Scratch {
        let made = (!runs.exists()).then(|| runs.to_owned());
        Scratch { path: runs.join(format!(".dry-run-{}", std::process::id())), made }
    }

    /// Where it is; it is made by whoever writes there first.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed harms nobody: its name begins with a dot and no run looks at it.
        let _ = std::fs::remove_dir_all(&self.path);
        if let Some(runs) = &self.made {
            let _ = std::fs::remove_dir(runs);
        }
    }
}

/// What was found out about a stage.
struct Found {
    tokens_per_s: f64,
    seconds: f64,
    free_bytes: Option<u64>,
    rates: Vec<(usize, f64)>,
    batch: Vec<Shown>,
}

/// What a stage would take, as text and as JSON.
///
/// # Errors
/// [`train::Error::Memory`] when the machine has too little; else as a step of the stage.
pub fn describe(device: &Device, start: Init, plan: &StagePlan<'_>) -> Result<(String, Value)> {
    let options = plan.options;
    let free_bytes = base::machine::memory_available_bytes();
    if let Some(free) = free_bytes {
        plan.estimate.check(free).map_err(train::Error::from)?;
    }
    let tokens_per_s = measure(device, start, options, plan.samples)?;
    let found = Found {
        tokens_per_s,
        seconds: (options.steps * options.batch_tokens()) as f64 / tokens_per_s,
        free_bytes,
        rates: learning_rates(options),
        batch: first_batch(options, plan.samples, plan.tokenizer),
    };
    Ok((text(plan, &found), json(plan, &found)))
}

fn text(plan: &StagePlan<'_>, found: &Found) -> String {
    let StagePlan { shards, options, .. } = plan;
    let mut text = format!("{}\n", plan.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<16}{value}");
    };
    line("parameters", format!("{:.2} M", plan.config.parameter_count() as f64 / 1e6));
    let (tokens, sequences) = (shards.tokens(), shards.len());
    let full = 100.0 * tokens as f64 / (sequences * shards.context()) as f64;
    line(
        "data",
        format!(
            "{tokens} tokens of {} documents in {sequences} sequences of {} ({full:.1} % full)",
            shards.documents(),
            shards.context(),
        ),
    );
    let times = plan.epochs.map_or(String::new(), |epochs| format!(", {epochs:.2} times through the data"));
    line(
        "steps",
        format!(
            "{} of {} × {} = {} tokens, {} sequences at once{times}",
            options.steps,
            options.batch_sequences,
            options.context,
            options.batch_tokens(),
            options.micro_batch()
        ),
    );
    let duration = format_duration(Duration::from_secs_f64(found.seconds));
    let speed = found.tokens_per_s;
    line("time", format!("about {duration} at {speed:.0} tokens/s, measured here; evaluations not counted"));
    let free = found.free_bytes.map_or(String::new(), |bytes| format!("; {} are free", size(bytes)));
    line("memory", format!("{}{free}", size(plan.estimate.total_bytes())));
    for item in plan.estimate.items.iter().filter(|item| item.bytes > 0) {
        line("", format!("{:<18}{:>10}  {}", item.name, size(item.bytes), item.formula));
    }
    let shown: Vec<String> = found.rates.iter().map(|(step, rate)| format!("{rate:.2e} at {step}")).collect();
    line("learning rate", format!("{}: {}", course(options), shown.join(", ")));
    let _ =
        writeln!(text, "\n  first batch; what is seen but not learned stands in {}{}", MASKED[0], MASKED[1]);
    text + &batch_text(&found.batch)
}

fn json(plan: &StagePlan<'_>, found: &Found) -> Value {
    let StagePlan { shards, options, .. } = plan;
    let memory = plan.estimate.items.iter().map(|item| json!([item.name, item.bytes]));
    json!({
        "stage": plan.name,
        "parameters": plan.config.parameter_count(),
        "tokens": shards.tokens(),
        "documents": shards.documents(),
        "sequences": shards.len(),
        "context": options.context,
        "steps": options.steps,
        "batch_sequences": options.batch_sequences,
        "micro_batch_sequences": options.micro_batch(),
        "epochs": plan.epochs,
        "tokens_per_s": found.tokens_per_s,
        "seconds": found.seconds,
        "memory_bytes": plan.estimate.total_bytes(),
        "memory": memory.collect::<Vec<_>>(),
        "learning_rates": found.rates,
        "first_batch": found.batch.iter().map(sequence_json).collect::<Vec<_>>(),
    })
}

/// A packed sequence as texts.
struct Shown {
    tokens: usize,
    /// Documents or parts of them.
    pieces: Vec<Vec<Run>>,
}

/// Neighbouring tokens that are all learned, or all not.
struct Run {
    text: String,
    is_learned: bool,
}

fn first_batch(options: &TrainOptions, samples: &dyn Samples, tokenizer: &Tokenizer) -> Vec<Shown> {
    let mut sequence = Sequence::default();
    let numbers = 0..options.batch_sequences as u64;
    let shown = numbers.map(|number| {
        samples.read(samples.index(options.seed, number), &mut sequence);
        let mut start = 0;
        let pieces = sequence.lengths.iter().map(|length| {
            let piece = start..start + length;
            start = piece.end;
            runs(&sequence.ids[piece.clone()], &sequence.mask[piece], tokenizer)
        });
        let pieces = pieces.collect();
        Shown { tokens: sequence.ids.len(), pieces }
    });
    shown.collect()
}

fn runs(ids: &[u32], mask: &[u8], tokenizer: &Tokenizer) -> Vec<Run> {
    let mut start = 0;
    let runs = mask.chunk_by(|one, other| one == other).map(|run| {
        let text = tokenizer.decode(&ids[start..start + run.len()]);
        start += run.len();
        Run { text, is_learned: run[0] > 0 }
    });
    runs.collect()
}

fn batch_text(batch: &[Shown]) -> String {
    let mut text = String::new();
    for (number, sequence) in batch.iter().enumerate() {
        let _ = writeln!(
            text,
            "══ sequence {} of {}: {} tokens in {} documents ══",
            number + 1,
            batch.len(),
            sequence.tokens,
            sequence.pieces.len()
        );
        for (place, piece) in sequence.pieces.iter().enumerate() {
            if place > 0 {
                text.push_str("── next document ──\n");
            }
            for run in piece {
                match run.is_learned {
                    true => text.push_str(&run.text),
                    false => text.extend([MASKED[0], run.text.as_str(), MASKED[1]]),
                }
            }
            text.push('\n');
        }
    }
    text
}

fn sequence_json(sequence: &Shown) -> Value {
    let piece = |piece: &Vec<Run>| -> Value {
        piece.iter().map(|run| json!({"text": run.text, "learned": run.is_learned})).collect()
    };
    json!({"tokens": sequence.tokens, "documents": sequence.pieces.iter().map(piece).collect::<Vec<_>>()})
}

/// The learning rate of the matrices inside layers, at the course's turning points and in between.
fn learning_rates(options: &TrainOptions) -> Vec<(usize, f64)> {
    let (steps, schedule) = (options.steps, &options.schedule);
    let decay = steps.saturating_sub(schedule.decay_steps);
    let mut at = vec![1, schedule.warmup_steps.max(1), steps / 4, steps / 2, steps * 3 / 4, decay, steps];
    at.retain(|step| (1..=steps).contains(step));
    at.sort_unstable();
    at.dedup();
    let peak = match options.optimiser.kind {
        OptimiserKind::AdamW => options.optimiser.learning_rate,
        OptimiserKind::Muon => options.optimiser.muon_learning_rate,
    };
    at.into_iter().map(|step| (step, peak * schedule.factor(step - 1, steps))).collect()
}

fn course(options: &TrainOptions) -> String {
    let schedule = &options.schedule;
    let warmup = match schedule.warmup_steps {
        0 => String::new(),
        steps => format!("rises over {steps} steps, then "),
    };
    match schedule.kind {
        ScheduleKind::Constant => format!("{warmup}constant"),
        ScheduleKind::Cosine => format!("{warmup}cosine"),
        ScheduleKind::WarmupStableDecay => {
            format!("{warmup}constant, falling over the last {} steps", schedule.decay_steps)
        }
    }
}
