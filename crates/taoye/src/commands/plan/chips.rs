//! `taoye plan chips`.

use super::catalog;
use crate::cli::PlanChips;
use crate::context::Context;
use anyhow::Result;
use plan::catalog::{Chip, Figure, Precision};
use plan::units::three;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What stands beside a figure whose source's text was not read.
const NOT_READ: &str = " [not read: as other texts quote it]";

/// Prints the catalogue.
///
/// # Errors
/// When a chip is unknown or a catalogue cannot be read.
pub fn run(context: &Context, flags: &PlanChips) -> Result<()> {
    let catalog = catalog(flags.catalog.as_deref())?;
    let chosen = flags.names.iter().map(|name| catalog.chip(name)).collect::<Result<Vec<_>, _>>()?;
    let chips: Vec<&Chip> = if chosen.is_empty() { catalog.chips().iter().collect() } else { chosen };
    let text = if flags.names.is_empty() { table(&chips) } else { sheets(&chips) };
    context.print(&text, &json!({ "chips": chips.iter().map(|chip| json_of(chip)).collect::<Vec<_>>() }));
    Ok(())
}

/// A chip's figures with their names and units.
fn figures(chip: &Chip) -> Vec<(String, &'static str, &Figure)> {
    let peaks =
        chip.peak.iter().map(|(kind, figure)| (format!("{} peak", kind.name()), "TFLOP/s, dense", figure));
    let rest = [
        ("memory", "GB", &chip.memory),
        ("memory bandwidth", "GB/s", &chip.bandwidth),
        ("links", "GB/s, both directions", &chip.link),
        ("network", "GB/s, one direction", &chip.network),
        ("power", "W", &chip.power),
        ("price", "US dollars an hour", &chip.price),
    ];
    peaks.chain(rest.map(|(name, unit, figure)| (name.to_owned(), unit, figure))).collect()
}

fn table(chips: &[&Chip]) -> String {
    let number = |figure: Option<&Figure>| figure.and_then(Figure::value).map_or("–".to_owned(), three);
    let mut text = format!(
        "{:<16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6} {:>8} {:>6}   –: not published\n{:<16} {:>31} {:>7} {:>6} {:>8}",
        "chip",
        "bf16",
        "fp16",
        "fp8",
        "int8",
        "memory",
        "GB/s",
        "links",
        "W",
        "",
        "TFLOP/s, dense",
        "GB",
        "",
        "GB/s"
    );
    for chip in chips {
        let peak = |kind| number(chip.peak.get(&kind));
        let _ = write!(
            text,
            "\n{:<16} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6} {:>8} {:>6}   {}",
            chip.name,
            peak(Precision::Bf16),
            peak(Precision::Fp16),
            peak(Precision::Fp8),
            peak(Precision::Int8),
            number(Some(&chip.memory)),
            number(Some(&chip.bandwidth)),
            number(Some(&chip.link)),
            number(Some(&chip.power)),
            chip.title,
        );
    }
    text + "\n\nSources: taoye plan chips NAME. Add chips of your own: --catalog FILE."
}

fn sheets(chips: &[&Chip]) -> String {
    let sheet = |chip: &&Chip| {
        let mut text = format!("{} ({}), {} chips within a node's links", chip.name, chip.title, chip.node);
        for (name, unit, figure) in figures(chip) {
            let _ = match figure {
                Figure::Known { value, source, is_reached } => {
                    let note = if *is_reached { "" } else { NOT_READ };
                    write!(text, "\n  {name:<18} {} {unit}\n    {source}{note}", three(*value))
                }
                Figure::Unpublished(why) => write!(text, "\n  {name:<18} not known: {why}"),
            };
        }
        text
    };
    chips.iter().map(sheet).collect::<Vec<_>>().join("\n\n")
}

fn json_of(chip: &Chip) -> Value {
    let figure = |(name, unit, figure): (String, &str, &Figure)| {
        let value = match figure {
            Figure::Known { value, source, is_reached } => {
                json!({ "value": value, "unit": unit, "source": source, "source_was_read": is_reached })
            }
            Figure::Unpublished(why) => json!({ "value": null, "unit": unit, "unpublished": why }),
        };
        (name.replace(' ', "_"), value)
    };
    let figures: Map<String, Value> = figures(chip).into_iter().map(figure).collect();
    json!({ "name": chip.name, "title": chip.title, "class": chip.class, "node": chip.node, "figures": figures })
}
