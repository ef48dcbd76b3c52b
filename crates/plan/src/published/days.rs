//! Runs whose speed is published: the length that follows, beside the one that the source gives. It must not predict speeds.

use crate::architecture::known;
use crate::calibration::Calibration;
use crate::catalog::Catalog;
use crate::split::Wanted;
use crate::step::Recompute;
use crate::train::{Request, Speed, plan};
use serde::Deserialize;

const DAYS: &str = include_str!("../../data/days.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    run: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    model: String,
    tokens: f64,
    chip: String,
    chips: f64,
    tflops: Option<f64>,
    tokens_per_second: Option<f64>,
    recompute: Option<String>,
    sequence: f64,
    batch: f64,
    days: Option<f64>,
    step_seconds: Option<f64>,
    chip_hours: Option<f64>,
    source: String,
    reached: bool,
}

/// A published length beside the computed one.
#[derive(Clone, Debug, PartialEq)]
pub struct Length {
    /// The run.
    pub name: String,
    /// What is measured: "days", "seconds a step" or "chip hours".
    pub unit: &'static str,
    /// As published.
    pub published: f64,
    /// As computed.
    pub computed: f64,
    /// Computed over published, less 1.
    pub error: f64,
    /// Where it is published.
    pub source: String,
    /// Whether the source's text was read beside the row.
    pub is_reached: bool,
}

/// All of them.
pub fn lengths(calibration: &Calibration) -> Vec<Length> {
    let file: File = toml::from_str(DAYS).expect("the table of lengths is tested");
    let catalog = Catalog::shipped();
    file.run.into_iter().map(|row| length(row, &catalog, calibration)).collect()
}

fn length(row: Row, catalog: &Catalog, calibration: &Calibration) -> Length {
    let model = known(&row.model).expect("the table's models are known");
    let chip = catalog.chip(&row.chip).expect("the table's chips are in the catalogue").clone();
    let named = |name: &str| Recompute::ALL.iter().find(|known| known.0 == name).map(|known| known.1);
    let recompute = row.recompute.as_deref().and_then(named);
    let per_token = 3.0 * model.forward_flops(row.sequence);
    let speed = match (row.tflops, row.tokens_per_second) {
        (Some(tflops), _) => Speed::PerChip(tflops * 1e12),
        (None, Some(tokens)) => Speed::Share(
            tokens * per_token / (chip.peak(crate::catalog::Precision::Bf16)).unwrap_or(f64::NAN),
        ),
        (None, None) => Speed::Predicted,
    };
    let request = Request {
        model: Some(model),
        tokens: Some(row.tokens),
        chips: Some(row.chips),
        speed,
        sequence: Some(row.sequence),
        batch: Some(row.batch),
        wanted: Wanted { recompute, ..Wanted::default() },
        ..Request::new(chip)
    };
    // The batch need not divide by these replicas: the length does not depend on the split.
    let plan = plan(&request, calibration)
        .or_else(|_| plan(&Request { batch: None, ..request.clone() }, calibration));
    let plan = plan.expect("the table's runs can be planned");
    let batch_seconds = plan.step_seconds * row.batch / plan.found.batch;
    let (unit, published, computed) = match (row.days, row.step_seconds, row.chip_hours) {
        (Some(days), ..) => ("days", days, plan.days()),
        (None, Some(seconds), _) => ("seconds a step", seconds, batch_seconds),
        (None, None, hours) => ("chip hours", hours.unwrap_or(f64::NAN), plan.chip_hours()),
    };
    Length {
        name: row.name,
        unit,
        published,
        computed,
        error: computed / published - 1.0,
        source: row.source,
        is_reached: row.reached,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_within_a_twentieth() {
        let lengths = lengths(&Calibration::shipped());
        assert!(lengths.len() >= 7);
        for length in lengths {
            println!("{} {} {} {:+.3}", length.name, length.published, length.computed, length.error);
            assert!(length.error.abs() <= 0.05, "{length:?}");
        }
    }
}
