//! `taoye plan forecast`.

use crate::cli::PlanForecast;
use crate::context::Context;
use anyhow::Result;
use plan::forecast::{EXAMPLE, Portfolio};
use plan::units::{grouped, show_count, three};
use serde_json::{Value, json};
use std::fmt::Write;

/// Reads a portfolio and prints the demand.
///
/// # Errors
/// When the file cannot be read.
pub fn run(context: &Context, flags: &PlanForecast) -> Result<()> {
    let (text, place) = match &flags.file {
        Some(path) => (base::fs::read_text(path)?, path.display().to_string()),
        None => (EXAMPLE.to_owned(), "the shipped example".to_owned()),
    };
    let portfolio = Portfolio::parse(&text, &place)?;
    context.print(&words(&portfolio), &json_of(&portfolio));
    Ok(())
}

fn words(portfolio: &Portfolio) -> String {
    let mut text = format!("{}\n  {}", portfolio.title, portfolio.source);
    for group in &portfolio.group {
        let [least, most] = group.share_that_moves.map(|share| 100.0 * share);
        let _ = write!(
            text,
            "\n\n{}: {} of them, {} → {} parameters, {least}–{most} % move\n  \
             one that moves needs {} × its compute: {} × parameters · {} × tokens · {} × trainings",
            group.name,
            grouped(group.organisations),
            show_count(group.parameters_today),
            show_count(group.parameters_planned),
            three(group.compute_factor()),
            three(group.parameters_planned / group.parameters_today),
            group.data_factor,
            group.frequency_factor
        );
    }
    if let (Some(low), Some(high)) = (portfolio.growth(0), portfolio.growth(1)) {
        let _ = write!(
            text,
            "\n\nDemand grows by {:.0}–{:.0} % (to {}–{} × today's), by 1 + share · (compute factor − 1)",
            low.percent,
            high.percent,
            three(low.factor),
            three(high.factor)
        );
    }
    for implied in [portfolio.implied(0), portfolio.implied(1)].into_iter().flatten() {
        let _ = write!(
            text,
            "\n  the stated {} % with {} % moving takes {} × the compute of each, so {} × in tokens and trainings together",
            portfolio.stated_growth_percent.unwrap_or_default(),
            100.0 * implied.share,
            three(implied.compute_factor),
            three(implied.data_and_frequency)
        );
    }
    for (step, link) in portfolio.steps().iter().zip(&portfolio.chain) {
        let times = |factor: Option<f64>| {
            factor.map_or(String::new(), |factor| format!(" ({} × the last)", three(factor)))
        };
        let tokens = step.tokens.map_or_else(
            || "no size is told, so no tokens follow".to_owned(),
            |tokens| {
                format!("these pay for {} tokens of a dense model, all layers recomputed", show_count(tokens))
            },
        );
        let compute = step
            .compute_factor
            .map_or(String::new(), |factor| format!("; chip days {} × the last", three(factor)));
        let _ = write!(
            text,
            "\n\n{}: {} servers, {} PFLOP/s as stated ({} a server), {} chips{}{compute}\n  {}–{} days at {} TFLOP/s a chip: {tokens}",
            step.name,
            grouped(link.servers),
            grouped(link.pflops),
            three(link.pflops / link.servers),
            grouped(step.chips),
            times(step.chips_factor),
            link.days[0],
            link.days[1],
            link.tflops_per_chip,
        );
    }
    text
}

fn json_of(portfolio: &Portfolio) -> Value {
    let growth = |end| {
        portfolio.growth(end).map(|growth| json!({ "factor": growth.factor, "percent": growth.percent }))
    };
    let implied = |end| {
        portfolio.implied(end).map(|implied| {
            json!({
                "share": implied.share, "compute_factor": implied.compute_factor,
                "data_and_frequency_factor": implied.data_and_frequency,
            })
        })
    };
    let steps: Vec<Value> = portfolio
        .steps()
        .iter()
        .map(|step| {
            json!({
                "name": step.name, "chips": step.chips, "chips_factor": step.chips_factor,
                "compute_factor": step.compute_factor, "tokens": step.tokens,
            })
        })
        .collect();
    json!({
        "title": portfolio.title, "source": portfolio.source,
        "stated_growth_percent": portfolio.stated_growth_percent,
        "growth": { "least": growth(0), "most": growth(1) },
        "implied_by_stated": { "least_share": implied(0), "most_share": implied(1) },
        "chain": steps,
    })
}
