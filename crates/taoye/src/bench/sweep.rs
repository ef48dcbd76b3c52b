//! `taoye bench sweep`: how the cost of a training step grows with width, context and batch, one at a time.
//!
//! Every point is measured beside its own peak, and divided into products, attention and the rest, which is what
//! explains where the speed bends.

use super::train::{Peak, measure};
use crate::cli::{BenchSweep, SweepAxis};
use crate::context::Context;
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write;
use tensor::{CountingAllocator, limits};
use train::{BenchSettings, BenchShape, Error, Limit, OptimiserKind, StepBench};

/// What the axes cross in.
const CENTRE: BenchShape = BenchShape { width: 512, layers: 4, vocab: 8_192, batch: 2, context: 1_024 };
const WIDTHS: [usize; 6] = [256, 512, 768, 1_024, 1_536, 2_048];
const CONTEXTS: [usize; 6] = [256, 512, 1_024, 2_048, 4_096, 8_192];
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Measured at each point, as far as whole steps go.
const POINT_SECONDS: f64 = 1.5;
/// Most measured steps of a point.
const STEPS_MAX: usize = 8;
/// A step that is expected to take longer is not measured.
const STEP_SECONDS_MAX: f64 = 30.0;
/// Expected share of the peak, to estimate how long a step takes.
const EXPECTED_SHARE: f64 = 0.6;

/// Measures and prints.
///
/// # Errors
/// As [`train::step_bench`], but for points that do not fit into memory, which are named and left out.
pub fn run(context: &Context, flags: &BenchSweep) -> Result<()> {
    let device = context.device()?;
    let mut text =
        format!("{} · {} · {} threads\n", base::machine::cpu_name(), context.isa(), context.threads);
    let mut axes = serde_json::Map::new();
    for (axis, name, shapes) in axes_of(CENTRE) {
        if flags.axis.is_some_and(|chosen| chosen != axis) {
            continue;
        }
        let _ = writeln!(text, "\n{}", head(name));
        let mut points = Vec::new();
        for shape in shapes {
            context.say(&format!("{name}: width {}, {} × {}", shape.width, shape.batch, shape.context));
            let expected = shape.flops()? / (EXPECTED_SHARE * 1e9 * limits::fma_peak(device.exec()));
            let (line, point) = match expected > STEP_SECONDS_MAX {
                true => skipped(shape, &format!("a step would take about {expected:.0} s")),
                false => match measure(&device, settings(shape, expected)) {
                    Ok((found, peak)) => measured(&found, &peak),
                    Err(error) => match error.downcast_ref::<Error>() {
                        Some(Error::Memory(shortage)) => skipped(shape, first_line(&shortage.to_string())),
                        _ => return Err(error),
                    },
                },
            };
            let _ = writeln!(text, "{line}");
            points.push(point);
        }
        axes.insert(name.to_owned(), Value::Array(points));
    }
    let json = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads, "axes": axes,
    });
    context.print(text.trim_end(), &json);
    Ok(())
}

fn axes_of(centre: BenchShape) -> [(SweepAxis, &'static str, [BenchShape; 6]); 3] {
    [
        (SweepAxis::Width, "width", WIDTHS.map(|width| BenchShape { width, ..centre })),
        (SweepAxis::Context, "context", CONTEXTS.map(|context| BenchShape { context, ..centre })),
        (SweepAxis::Batch, "batch", BATCHES.map(|batch| BenchShape { batch, ..centre })),
    ]
}

fn settings(shape: BenchShape, expected_seconds: f64) -> BenchSettings {
    BenchSettings {
        shape,
        warm_up: 1,
        steps: ((POINT_SECONDS / expected_seconds) as usize).clamp(1, STEPS_MAX),
        optimiser: OptimiserKind::AdamW,
        activation_checkpointing: false,
        profile: true,
        allocations: Some(CountingAllocator::count),
    }
}

fn head(axis: &str) -> String {
    format!(
        "along the {axis}:\n{:>7}{:>9}{:>7}{:>11}{:>11}{:>9}{:>10}   {:<24}{:<24}{}",
        "width",
        "context",
        "batch",
        "parameters",
        "tokens/s",
        "of peak",
        "step",
        "products",
        "attention",
        "rest"
    )
}

fn sizes(shape: BenchShape) -> String {
    format!("{:>7}{:>9}{:>7}", shape.width, shape.context, shape.batch)
}

fn skipped(shape: BenchShape, reason: &str) -> (String, Value) {
    (format!("{}  not measured: {reason}", sizes(shape)), json!({ "shape": shape, "skipped": reason }))
}

fn measured(found: &StepBench, peak: &Peak) -> (String, Value) {
    let parts = Parts::of(found, peak.gflops());
    let share = found.gflops / peak.gflops();
    let part = |(of_step, of_peak): (f64, f64)| {
        format!("{:>4.0} % at {:>3.0} % of peak", 100.0 * of_step, 100.0 * of_peak)
    };
    let line = format!(
        "{}{:>9.1} M{:>11.0}{:>7.1} %{:>7.0} ms   {:<24}{:<24}{:.1} %",
        sizes(found.shape),
        found.parameters as f64 / 1e6,
        found.tokens_per_s,
        100.0 * share,
        found.step_ms,
        part(parts.products),
        part(parts.attention),
        100.0 * parts.rest_of_step
    );
    let point = json!({
        "shape": found.shape, "parameters": found.parameters, "tokens_per_s": found.tokens_per_s,
        "gflops": found.gflops, "peak_gflops": peak.gflops(), "share_of_peak": share, "step_ms": found.step_ms,
        "products_of_step": parts.products.0, "products_of_peak": parts.products.1,
        "attention_of_step": parts.attention.0, "attention_of_peak": parts.attention.1,
        "rest_of_step": parts.rest_of_step,
    });
    (line, point)
}

/// A step's division: share of the step, and speed as a share of the peak.
struct Parts {
    products: (f64, f64),
    attention: (f64, f64),
    rest_of_step: f64,
}

impl Parts {
    fn of(found: &StepBench, peak_gflops: f64) -> Parts {
        let rows = found.profile.as_deref().unwrap_or_default();
        let part = |wants_attention: bool| {
            let rows = rows.iter().filter(|row| {
                row.limit == Limit::Arithmetic && (row.operation == "attention") == wants_attention
            });
            let (ms, work) =
                rows.fold((0.0, 0.0), |sum, row| (sum.0 + row.ms, sum.1 + row.ms * row.giga_per_s));
            (ms / found.step_ms, work / f64::max(ms, 1e-9) / peak_gflops)
        };
        let (products, attention) = (part(false), part(true));
        Parts { products, attention, rest_of_step: 1.0 - products.0 - attention.0 }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use train::ProfileRow;

    #[test]
    fn axes_cross_in_the_centre() {
        for (_, name, shapes) in axes_of(CENTRE) {
            assert!(shapes.contains(&CENTRE), "{name}");
            assert!(shapes.iter().all(|shape| shape.config().is_ok()), "{name}");
        }
    }

    #[test]
    fn parts_add_up_to_the_step() {
        let row = |operation: &str, ms, giga_per_s, limit| ProfileRow {
            phase: "forward",
            operation: operation.to_owned(),
            calls: 1.0,
            ms,
            giga_per_s,
            limit,
        };
        let found = StepBench {
            shape: CENTRE,
            parameters: 1,
            tokens: 1,
            steps: 1,
            tokens_per_s: 1.0,
            tokens_per_s_best: 1.0,
            step_ms: 10.0,
            gflops: 1.0,
            peak_rss_bytes: None,
            forward_ms: 0.0,
            head_ms: 0.0,
            backward_ms: 0.0,
            optimiser_ms: 0.0,
            allocations: None,
            page_faults: None,
            loss: 0.0,
            profile: Some(vec![
                row("qkv", 4.0, 90.0, Limit::Arithmetic),
                row("down", 2.0, 60.0, Limit::Arithmetic),
                row("attention", 1.0, 50.0, Limit::Arithmetic),
                row("norm", 2.0, 30.0, Limit::Memory),
            ]),
        };
        let parts = Parts::of(&found, 100.0);
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(near(parts.products.0, 0.6) && near(parts.products.1, 0.8));
        assert!(near(parts.attention.0, 0.1) && near(parts.attention.1, 0.5));
        assert!(near(parts.rest_of_step, 0.3));
    }
}
