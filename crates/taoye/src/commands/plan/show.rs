//! Quantities, assumptions and advice as terminal text and JSON. It must not compute.

use crate::context::Context;
use anyhow::{Result, bail};
use plan::advice::Advice;
use plan::report::Quantity;
use plan::train::Assumption;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The numbers as lines.
pub fn numbers(quantities: &[Quantity]) -> String {
    let width = quantities.iter().map(|quantity| quantity.label.len()).max().unwrap_or(0);
    let lines: Vec<String> = quantities
        .iter()
        .map(|quantity| format!("  {:<width$}  {}", quantity.label, quantity.shown))
        .collect();
    lines.join("\n")
}

/// What was assumed, as lines.
pub fn assumptions(assumptions: &[Assumption]) -> String {
    let mut text = String::from("Assumed:");
    for assumption in assumptions {
        let _ = write!(text, "\n  - {} ({})", assumption.text, assumption.source);
    }
    text
}

/// What optimisations would give, as lines.
pub fn advice(advice: &[Advice]) -> String {
    let mut text = String::from("Optimisations by gain:");
    for advice in advice {
        let note = match (advice.is_there, advice.fits) {
            (true, _) => " (in the plan; without it so much slower)",
            (false, true) => "",
            (false, false) => " (does not fit into memory)",
        };
        let _ = write!(text, "\n  {:>7.1} %  {}{note}", 100.0 * advice.gain, advice.name);
    }
    text
}

/// Formula and source of every number, or of the one that `key` names.
///
/// # Errors
/// When no number has that key.
pub fn explained(quantities: &[Quantity], key: &str) -> Result<String> {
    let chosen: Vec<&Quantity> =
        quantities.iter().filter(|quantity| key == "all" || quantity.key == key).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = quantities.iter().map(|quantity| quantity.key).collect();
        bail!("--explain: there is no number `{key}`; known: {}", known.join(", "));
    }
    let blocks = chosen.iter().map(|quantity| {
        let source = if quantity.source.is_empty() {
            String::new()
        } else {
            format!("\n    source: {}", quantity.source)
        };
        format!("  {} = {}\n    {}{source}", quantity.key, quantity.shown, quantity.formula)
    });
    Ok(blocks.collect::<Vec<_>>().join("\n"))
}

/// The numbers as an object by their keys.
pub fn object(quantities: &[Quantity]) -> Map<String, Value> {
    quantities.iter().map(|quantity| (quantity.key.to_owned(), json!(quantity.value))).collect()
}

/// Formulas and sources by key.
pub fn formulas(quantities: &[Quantity]) -> Value {
    let entry = |quantity: &Quantity| {
        let said = json!({ "formula": quantity.formula, "source": quantity.source });
        (quantity.key.to_owned(), said)
    };
    Value::Object(quantities.iter().map(entry).collect())
}

/// Assumptions as JSON.
pub fn assumptions_json(assumptions: &[Assumption]) -> Value {
    let each = |assumption: &Assumption| json!({ "assumed": assumption.text, "source": assumption.source });
    assumptions.iter().map(each).collect()
}

/// Advice as JSON.
pub fn advice_json(advice: &[Advice]) -> Value {
    let each = |advice: &Advice| json!({ "name": advice.name, "gain": advice.gain, "is_there": advice.is_there, "fits": advice.fits });
    advice.iter().map(each).collect()
}

/// Writes a page and says where.
///
/// # Errors
/// When it cannot be written.
pub fn write_page(context: &Context, path: &std::path::Path, html: &str) -> Result<()> {
    base::fs::write_bytes(path, html.as_bytes())?;
    context.say(&format!("page: {}", path.display()));
    Ok(())
}
