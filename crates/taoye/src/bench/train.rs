//! `taoye bench train`: whole training steps on random tokens.

use super::profile;
use crate::cli::{self, BenchTrain};
use crate::context::Context;
use anyhow::Result;
use serde_json::json;
use tensor::{CountingAllocator, Device, limits};
use train::{BenchSettings, BenchShape, OptimiserKind, StepBench, step_bench};

/// Measures and prints.
///
/// # Errors
/// As [`step_bench`].
pub fn run(context: &Context, flags: &BenchTrain) -> Result<()> {
    let device = context.device()?;
    let (found, peak) = measure(&device, settings(flags))?;
    let mut json = serde_json::to_value(&found)?;
    json["share_of_peak"] = json!(found.gflops / peak.gflops());
    json["peak_gflops_before"] = json!(peak.before);
    json["peak_gflops_after"] = json!(peak.after);
    json["isa"] = json!(context.isa().name());
    json["threads"] = json!(context.threads);
    json["cpu"] = json!(base::machine::cpu_name());
    let mut text = format!(
        "{} · {} · {} threads\n{}",
        base::machine::cpu_name(),
        context.isa(),
        context.threads,
        figures(&found, &peak)
    );
    if let Some(rows) = &found.profile {
        let limits =
            profile::Limits { gflops: peak.gflops(), gb_per_s: limits::read_bandwidth(device.exec()) };
        let table = profile::table(rows, found.step_ms, &limits);
        text.push_str(&format!("\n\n{}", table.text()));
        json["profile"] = table.json();
    }
    context.print(&text, &json);
    Ok(())
}

/// The arithmetic peak measured around something, in GFLOP/s.
pub struct Peak {
    before: f64,
    after: f64,
}

impl Peak {
    /// The higher one: what the machine can do.
    pub fn gflops(&self) -> f64 {
        self.before.max(self.after)
    }
}

/// Measures steps, and the peak around them.
///
/// # Errors
/// As [`step_bench`].
pub fn measure(device: &Device, settings: BenchSettings) -> Result<(StepBench, Peak)> {
    let before = limits::fma_peak(device.exec());
    let found = step_bench(device, settings)?;
    Ok((found, Peak { before, after: limits::fma_peak(device.exec()) }))
}

fn settings(flags: &BenchTrain) -> BenchSettings {
    let shape = match flags.shape {
        cli::BenchShape::S => BenchShape::S,
        cli::BenchShape::M => BenchShape::M,
    };
    BenchSettings {
        shape: BenchShape {
            width: flags.width.unwrap_or(shape.width),
            layers: flags.layers.unwrap_or(shape.layers),
            vocab: flags.vocab.unwrap_or(shape.vocab),
            batch: flags.batch.unwrap_or(shape.batch),
            context: flags.context.unwrap_or(shape.context),
        },
        warm_up: 2,
        steps: flags.steps,
        optimiser: if flags.muon { OptimiserKind::Muon } else { OptimiserKind::AdamW },
        activation_checkpointing: flags.checkpointing,
        profile: flags.profile,
        allocations: Some(CountingAllocator::count),
    }
}

fn figures(found: &StepBench, peak: &Peak) -> String {
    let BenchShape { width, layers, vocab, batch, context } = found.shape;
    let faults = match found.page_faults {
        Some(faults) => format!("{} minor and {} major page faults", faults.minor, faults.major),
        None => "page faults unknown".to_owned(),
    };
    format!(
        "{layers} layers of {width}, vocabulary {vocab}, {batch} × {context} tokens a step: {:.1} M parameters, {} \
         steps measured\n  \
         {:.0} tokens/s (best {:.0}), {:.0} GFLOP/s, {:.1} % of the peak ({:.0} before, {:.0} after)\n  \
         forward {:.1} ms, head and loss {:.1} ms, backward {:.1} ms, optimiser {:.1} ms\n  \
         peak memory {:.2} GiB; in the measured steps {} allocations, {faults}",
        found.parameters as f64 / 1e6,
        found.steps,
        found.tokens_per_s,
        found.tokens_per_s_best,
        found.gflops,
        100.0 * found.gflops / peak.gflops(),
        peak.before,
        peak.after,
        found.forward_ms,
        found.head_ms,
        found.backward_ms,
        found.optimiser_ms,
        found.peak_rss_bytes.unwrap_or_default() as f64 / f64::from(1 << 30),
        found.allocations.unwrap_or_default(),
    )
}
