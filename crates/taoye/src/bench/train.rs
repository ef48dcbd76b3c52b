//! `taoye bench train`: whole training steps on random tokens.

use crate::cli::{BenchShape, BenchTrain};
use crate::context::Context;
use anyhow::Result;
use serde_json::json;
use tensor::{CountingAllocator, limits};
use train::{BenchSettings, step_bench};

/// Measures and prints.
///
/// # Errors
/// As [`step_bench`].
pub fn run(context: &Context, flags: &BenchTrain) -> Result<()> {
    let device = context.device()?;
    let before = limits::fma_peak(device.exec());
    let settings = BenchSettings {
        shape: match flags.shape {
            BenchShape::S => train::BenchShape::S,
            BenchShape::M => train::BenchShape::M,
        },
        steps: flags.steps,
        activation_checkpointing: flags.checkpointing,
        peak_flops: Some(before * 1e9),
        allocations: Some(CountingAllocator::count),
    };
    let found = step_bench(&device, settings)?;
    let after = limits::fma_peak(device.exec());
    let peak = before.max(after);
    let share = found.gflops / peak;
    let mut json = serde_json::to_value(&found)?;
    json["share_of_peak"] = json!(share);
    json["peak_gflops_before"] = json!(before);
    json["peak_gflops_after"] = json!(after);
    json["isa"] = json!(context.isa().name());
    json["threads"] = json!(context.threads);
    json["cpu"] = json!(base::machine::cpu_name());
    let rss = found.peak_rss_bytes.unwrap_or_default() as f64 / f64::from(1 << 30);
    let text = format!(
        "{} · {} · {} threads\n\
         shape {:?}: {:.1} M parameters, {} tokens a step, {} steps measured\n  \
         {:.0} tokens/s (best {:.0}), {:.0} GFLOP/s, {:.1} % of the peak ({before:.0} before, {after:.0} after)\n  \
         forward {:.1} ms, head and loss {:.1} ms, backward {:.1} ms, optimiser {:.1} ms\n  \
         peak memory {rss:.2} GiB, {} allocations in the measured steps",
        base::machine::cpu_name(),
        context.isa(),
        context.threads,
        found.shape,
        found.parameters as f64 / 1e6,
        found.tokens,
        found.steps,
        found.tokens_per_s,
        found.tokens_per_s_best,
        found.gflops,
        100.0 * share,
        found.forward_ms,
        found.head_ms,
        found.backward_ms,
        found.optimiser_ms,
        found.allocations.unwrap_or_default(),
    );
    context.print(&text, &json);
    Ok(())
}
