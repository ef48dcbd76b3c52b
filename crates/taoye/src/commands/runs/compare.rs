//! `taoye runs compare`: several runs' figures and curves in one report, with the recipe keys that they differ in.

use super::state::RunState;
use super::table;
use crate::cli::Compare;
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use train::Kind;
use train::report::{
    Block, Compared, Label, Language, RUNS_MAX, Report, Section, StageSummary, Table, compare, render,
};

/// Recipe keys that say nothing about what was trained.
const WITHOUT_MEANING: [&str; 2] = ["name", "sized."];

/// Writes the report and prints its figures.
///
/// # Errors
/// When a run cannot be read, there are more than a report can tell apart, or none has trained.
pub fn run(context: &Context, flags: &Compare) -> Result<()> {
    if flags.names.len() > RUNS_MAX {
        bail!("{} runs are more than one chart can tell apart; give at most {RUNS_MAX}", flags.names.len());
    }
    let mut runs = Vec::new();
    let mut recipes = Vec::new();
    for name in &flags.names {
        let folder = flags.runs.join(name);
        runs.push(RunState::read(&folder)?);
        recipes.push(recipe_keys(&folder)?);
    }
    let stages = stages(&runs);
    if stages.is_empty() {
        bail!("none of these runs has trained yet");
    }
    let differing = differences(&recipes);
    let compared: Vec<Compared<'_>> =
        runs.iter().map(|run| Compared { name: &run.name, events: &run.events }).collect();
    let mut sections = vec![Section {
        title: Label::new("Differing recipe keys", "不同的配方项"),
        blocks: vec![keys_table(&flags.names, &differing)],
    }];
    sections.extend(stages.iter().map(|stage| compare(Label::same(stage.clone()), stage, &compared)));
    let title = Label::same(flags.names.join(" · "));
    let report = Report { title, language: Language::English, sections };
    base::fs::write_bytes(&flags.out, render(&report).as_bytes())?;
    let mut text = String::new();
    let mut figures = Vec::new();
    for stage in &stages {
        let heads = ["run", "steps", "tokens", "seconds", "tokens/s", "loss", "evaluation", "best"];
        let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
        for run in &runs {
            let Some(summary) = StageSummary::of(stage, &run.events) else { continue };
            rows.push(row(&run.name, &summary));
            figures.push(json!({
                "run": run.name,
                "stage": stage,
                "steps": summary.steps,
                "tokens": summary.tokens,
                "seconds": summary.step_seconds,
                "loss": summary.loss,
                "evaluation_loss": summary.evaluation_loss,
                "best_evaluation_loss": summary.best_evaluation.map(|best| best.1),
            }));
        }
        text.push_str(&format!("{stage}\n{}\n\n", table(&rows)));
    }
    for (key, values) in &differing {
        text.push_str(&format!("{key}: {}\n", values.join(" | ")));
    }
    text.push_str(&format!("report: {}", flags.out.display()));
    context.print(&text, &json!({"report": flags.out, "stages": figures, "differing": differing}));
    Ok(())
}

fn row(name: &str, summary: &StageSummary) -> Vec<String> {
    let loss = |loss: Option<f64>| loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"));
    vec![
        name.to_owned(),
        summary.steps.to_string(),
        summary.tokens.to_string(),
        format!("{:.1}", summary.step_seconds),
        format!("{:.0}", summary.tokens_per_s),
        loss(Some(summary.loss)),
        loss(summary.evaluation_loss),
        loss(summary.best_evaluation.map(|best| best.1)),
    ]
}

/// The stages that some run has trained, in the order of their first steps.
fn stages(runs: &[RunState]) -> Vec<String> {
    let mut stages: Vec<String> = Vec::new();
    for event in runs.iter().flat_map(|run| &run.events) {
        if matches!(event.kind, Kind::Step(_)) && !stages.contains(&event.stage) {
            stages.push(event.stage.clone());
        }
    }
    stages
}

/// The recipe as run, each value under its path of keys.
fn recipe_keys(folder: &Path) -> Result<BTreeMap<String, String>> {
    let path = folder.join("recipe.toml");
    let mut keys = BTreeMap::new();
    if path.exists() {
        let table: toml::Table =
            base::fs::read_text(&path)?.parse().with_context(|| format!("{} is damaged", path.display()))?;
        flatten("", &toml::Value::Table(table), &mut keys);
    }
    Ok(keys)
}

fn flatten(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, keys);
            }
        }
        value => drop(keys.insert(path.to_owned(), value.to_string())),
    }
}

/// Keys whose values are not the same in all recipes, with the value of each.
fn differences(recipes: &[BTreeMap<String, String>]) -> BTreeMap<String, Vec<String>> {
    let keys: BTreeSet<&String> = recipes.iter().flat_map(BTreeMap::keys).collect();
    let means = |key: &&&String| !WITHOUT_MEANING.iter().any(|without| key.starts_with(without));
    let values = |key: &String| -> Vec<String> {
        let value =
            |recipe: &BTreeMap<String, String>| recipe.get(key).cloned().unwrap_or_else(|| "–".to_owned());
        recipes.iter().map(value).collect()
    };
    let all = keys.iter().filter(means).map(|key| ((*key).clone(), values(key)));
    all.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

fn keys_table(names: &[String], differing: &BTreeMap<String, Vec<String>>) -> Block {
    if differing.is_empty() {
        return Block::Text(Label::new("The recipes are the same.", "配方相同。"));
    }
    let head =
        [Label::new("key", "配方项")].into_iter().chain(names.iter().map(|name| Label::same(name.clone())));
    let row = |(key, values): (&String, &Vec<String>)| {
        [key].into_iter().chain(values).map(|cell| Label::same(cell.clone())).collect()
    };
    Block::Table(Table { head: head.collect(), rows: differing.iter().map(row).collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_keys_that_differ_in_meaning_are_named() {
        let keys = |text: &str| {
            let mut keys = BTreeMap::new();
            flatten("", &toml::Value::Table(text.parse().unwrap()), &mut keys);
            keys
        };
        let recipes = [
            keys(
                "name = 'a'\nseed = 1\nbatch = 4\n[sized]\npeak_gflops = 1.0\n[train.optimiser]\nrate = 0.1",
            ),
            keys("name = 'b'\nseed = 1\n[sized]\npeak_gflops = 2.0\n[train.optimiser]\nrate = 0.2"),
        ];
        let found = differences(&recipes);
        let expected = [("batch", ["4", "–"]), ("train.optimiser.rate", ["0.1", "0.2"])];
        let expected: BTreeMap<String, Vec<String>> =
            expected.map(|(key, values)| (key.to_owned(), values.map(str::to_owned).to_vec())).into();
        assert_eq!(found, expected);
        assert!(differences(&[recipes[0].clone(), recipes[0].clone()]).is_empty());
    }
}
