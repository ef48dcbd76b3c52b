//! `taoye plan --here`: this machine, measured, and what it can train in some hours.

use super::graphics::graphics;
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use plan::overnight::{Rung, TOKENS_PER_PARAMETER, best, ladder};
use plan::units::{show_bytes, show_count};
use serde_json::{Value, json};
use std::fmt::Write;
use tensor::{CountingAllocator, limits};
use train::{BenchSettings, BenchShape, OptimiserKind, step_bench};

/// Steps that are timed, of the small shape of `taoye bench train`.
const STEPS: usize = 3;

/// Measures and prints.
///
/// # Errors
/// When a training step cannot be run here.
pub fn run(context: &Context, hours: f64) -> Result<()> {
    if !(hours.is_finite() && hours > 0.0) {
        bail!("--hours: {hours} must be a finite number above zero");
    }
    let device = context.device()?;
    let exec = device.exec();
    let peak = limits::fma_peak(exec);
    let integers = limits::integer_peak(exec);
    let bandwidth = limits::read_bandwidth(exec);
    let settings = BenchSettings {
        shape: BenchShape::S,
        warm_up: 2,
        steps: STEPS,
        optimiser: OptimiserKind::AdamW,
        activation_checkpointing: false,
        profile: false,
        allocations: Some(CountingAllocator::count),
    };
    let step = step_bench(&device, settings)?;
    let peak = peak.max(limits::fma_peak(exec));
    let memory = base::machine::memory_available_bytes().context("this system does not tell its memory")?;
    let rungs = ladder(step.gflops * 1e9, hours * 3600.0, memory, context.threads);
    let graphics = graphics();
    let chosen = best(&rungs);
    let mut text = format!(
        "{} · {} · {} threads\n  fused multiply-adds {peak:.0} GFLOP/s, products of bytes {integers:.0} GOP/s, memory read \
         {bandwidth:.1} GB/s, {} free\n  a training step (8.9 M parameters) does {:.0} GFLOP/s, {:.0} % of the peak",
        base::machine::cpu_name(),
        context.isa(),
        context.threads,
        show_bytes(memory as f64),
        step.gflops,
        100.0 * step.gflops / peak
    );
    let _ =
        write!(text, "\n  {}\n\nIn {hours} hours at that speed, on the processor:\n", graphics.words(hours));
    let _ = write!(
        text,
        "  {:>10} {:>8} {:>10} {:>12} {:>9}",
        "parameters", "shape", "tokens", "a parameter", "memory"
    );
    for rung in &rungs {
        let _ = write!(text, "\n  {}", line(rung, chosen));
    }
    let _ = match chosen {
        Some(rung) => write!(
            text,
            "\n\nThe largest that fits and sees {TOKENS_PER_PARAMETER} tokens a parameter: width {}, {} layers, {} parameters.",
            rung.width,
            rung.layers,
            show_count(rung.parameters)
        ),
        None => write!(
            text,
            "\n\nNone of them fits and sees {TOKENS_PER_PARAMETER} tokens a parameter: give more --hours."
        ),
    };
    let json = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads,
        "peak_gflops": peak, "integer_peak_gops": integers, "read_gb_per_s": bandwidth, "memory_available_bytes": memory,
        "training_gflops": step.gflops, "share_of_peak": step.gflops / peak, "hours": hours, "gpu": graphics.json(hours),
        "models": rungs.iter().map(json_of).collect::<Vec<Value>>(), "best": chosen.map(json_of),
    });
    context.print(&text, &json);
    Ok(())
}

fn line(rung: &Rung, chosen: Option<&Rung>) -> String {
    let mark = match (rung.fits, chosen == Some(rung)) {
        (false, _) => "  does not fit",
        (true, true) => "  ←",
        (true, false) => "",
    };
    format!(
        "{:>10} {:>8} {:>10} {:>12.1} {:>9}{mark}",
        show_count(rung.parameters),
        format!("{}×{}", rung.width, rung.layers),
        show_count(rung.tokens),
        rung.tokens_per_parameter(),
        show_bytes(rung.memory_bytes as f64)
    )
}

fn json_of(rung: &Rung) -> Value {
    json!({
        "width": rung.width, "layers": rung.layers, "parameters": rung.parameters, "tokens": rung.tokens,
        "tokens_per_parameter": rung.tokens_per_parameter(), "memory_bytes": rung.memory_bytes, "fits": rung.fits,
    })
}
