//! `taoye runs`: what the runs of a folder have come to, read from their files alone while any of them may be under way.

mod compare;
mod plot;
mod state;
mod watch;

use crate::cli::{Runs, RunsCommand};
use crate::context::Context;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use state::RunState;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Lists runs, or does what the subcommand says.
///
/// # Errors
/// When the folder or a run cannot be read.
pub fn run(context: &Context, flags: &Runs) -> Result<()> {
    match &flags.command {
        None => list(context, &flags.runs),
        Some(RunsCommand::Watch(flags)) => watch::run(context, flags),
        Some(RunsCommand::Compare(flags)) => compare::run(context, flags),
    }
}

fn list(context: &Context, runs: &Path) -> Result<()> {
    let mut states = Vec::new();
    for path in folders(runs)? {
        states.push(RunState::read(&path)?);
    }
    states.sort_by_key(|state| std::cmp::Reverse(state.changed));
    let heads = ["name", "state", "stage", "step", "loss", "best eval", "tokens/s", "when"];
    let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(states.iter().map(row));
    let text = match states.is_empty() {
        true => format!("no runs in {}", runs.display()),
        false => table(&rows),
    };
    let failures =
        states.iter().filter_map(|state| Some(format!("\n\n{}: {}", state.name, state.failure.as_ref()?)));
    let text = text + &failures.collect::<String>();
    context.print(&text, &json!({"runs": states.iter().map(json).collect::<Vec<_>>()}));
    Ok(())
}

/// The folders of runs, told by their lock.
fn folders(runs: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(runs)
        .with_context(|| format!("cannot list {}; give the runs' folder with --runs", runs.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_hidden && path.join(".lock").exists() {
            found.push(path);
        }
    }
    Ok(found)
}

fn row(state: &RunState) -> Vec<String> {
    let number = |value: Option<f64>, decimals: usize| {
        value.map_or("–".to_owned(), |value| format!("{value:.decimals$}"))
    };
    vec![
        state.name.clone(),
        state.standing.name().to_owned(),
        state.stage.clone().unwrap_or_else(|| "–".to_owned()),
        state.steps.map_or("–".to_owned(), |steps| format!("{}/{steps}", state.step)),
        number(state.loss, 4),
        number(state.best_evaluation, 4),
        number(state.tokens_per_s, 0),
        state.changed.map_or("–".to_owned(), ago),
    ]
}

fn json(state: &RunState) -> Value {
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    json!({
        "name": state.name,
        "state": state.standing.name(),
        "stage": state.stage,
        "step": state.step,
        "steps": state.steps,
        "loss": state.loss,
        "best_evaluation": state.best_evaluation,
        "tokens_per_s": state.tokens_per_s,
        "changed_unix_s": state.changed.and_then(since_epoch).map(|time| time.as_secs()),
        "failure": state.failure,
    })
}

/// How long ago a moment was, in its largest unit.
fn ago(moment: SystemTime) -> String {
    let seconds = moment.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    match units.into_iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) => format!("{} {unit} ago", seconds / size),
        None => format!("{seconds} s ago"),
    }
}

/// Rows in columns as wide as their widest cell; those of numbers are set flush right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| plot::width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let is_number = |column: usize| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.all(|cell| cell == "–" || cell.starts_with(|first: char| first.is_ascii_digit()))
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let space = " ".repeat(widths[column] - plot::width(cell));
            if is_number(column) { format!("{space}{cell}") } else { format!("{cell}{space}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
