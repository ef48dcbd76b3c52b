//! `taoye plan proof`.

use crate::context::Context;
use anyhow::Result;
use plan::architecture::origins;
use plan::calibration::Calibration;
use plan::catalog::Catalog;
use plan::published::{self, Comparison, Length, Memory, Set};
use serde_json::{Value, json};
use std::fmt::Write;

/// Prints published runs beside their predictions.
///
/// # Errors
/// None; the tables ship.
pub fn run(context: &Context) -> Result<()> {
    let calibration = Calibration::shipped();
    let (rows, lengths, memory) =
        (published::compare(&calibration), published::lengths(&calibration), published::memory());
    let mut text =
        String::from("Share of the peak (MFU): measured, predicted, error; error of a constant share");
    for row in &rows {
        let _ = write!(
            text,
            "\n{} {:<38} {:<9} {:5.1} % {:5.1} % {:+6.1} % {:+7.1} %",
            mark(row.is_reached),
            row.name,
            set_name(row.set),
            100.0 * row.measured_mfu,
            100.0 * row.predicted_mfu,
            100.0 * row.error,
            100.0 * row.constant_error
        );
    }
    for set in [Set::Fitted, Set::HeldOut, Set::More] {
        let (ours, constant) = published::medians(&rows, set);
        let _ = write!(
            text,
            "\n  median of absolute errors, {}: {:.1} %, of a constant share {:.1} %",
            set_name(set),
            100.0 * ours,
            100.0 * constant
        );
    }
    text.push_str("\n\nLengths that follow from a published speed: published, computed, error");
    for length in &lengths {
        let _ = write!(
            text,
            "\n{} {:<26} {:>12.1} {:>12.1} {} {:+.1} %",
            mark(length.is_reached),
            length.name,
            length.published,
            length.computed,
            length.unit,
            100.0 * length.error
        );
    }
    text.push_str("\n\nMemory in GB: published, computed, error");
    for row in &memory {
        let _ = write!(
            text,
            "\n{} {:<38} {:>7.1} {:>7.1} {:+.1} %",
            mark(row.is_reached),
            row.name,
            row.published_gb,
            row.computed_gb,
            100.0 * row.error()
        );
    }
    let _ = write!(text, "\n\n{}", sources(&rows));
    context.print(&text, &json_of(&rows, &lengths, &memory));
    Ok(())
}

/// What stands before a row whose source's text was not read.
fn mark(is_reached: bool) -> &'static str {
    if is_reached { " " } else { "*" }
}

/// How many of the figures were read beside their sources.
fn sources(rows: &[Comparison]) -> String {
    let of = |reached: Vec<bool>| {
        format!("{} of {}", reached.iter().filter(|is_reached| **is_reached).count(), reached.len())
    };
    format!(
        "* the source's text was not read: the figures are as other texts quote them.\nRead beside their sources: {} runs, {} \
         models' shapes, {} sources of chips (taoye plan chips NAME).",
        of(rows.iter().map(|row| row.is_reached).collect()),
        of(origins().iter().map(|origin| origin.is_reached).collect()),
        of(Catalog::shipped_sources().iter().map(|source| source.1).collect())
    )
}

fn json_of(rows: &[Comparison], lengths: &[Length], memory: &[Memory]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "set": set_name(row.set), "measured_mfu": row.measured_mfu,
                "predicted_mfu": row.predicted_mfu, "error": row.error, "constant_share_error": row.constant_error,
                "source_was_read": row.is_reached,
            })
        })
        .collect();
    let lengths: Vec<Value> = lengths
        .iter()
        .map(|length| json!({ "name": length.name, "unit": length.unit, "published": length.published, "computed": length.computed, "error": length.error, "source": length.source, "source_was_read": length.is_reached }))
        .collect();
    let memory: Vec<Value> = memory
        .iter()
        .map(|row| json!({ "name": row.name, "published_gb": row.published_gb, "computed_gb": row.computed_gb, "source": row.source, "source_was_read": row.is_reached }))
        .collect();
    json!({ "runs": rows, "lengths": lengths, "memory": memory })
}

fn set_name(set: Set) -> &'static str {
    match set {
        Set::Fitted => "fitted",
        Set::HeldOut => "held out",
        Set::More => "more",
    }
}
