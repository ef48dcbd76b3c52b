//! `taoye bench gemm`: matrix products of the trainer's shapes against the fused-multiply-add peak.

use crate::context::Context;
use anyhow::Result;
use serde_json::json;
use std::fmt::Write;
use std::time::Duration;
use tensor::gemm::bench::{ROLES, SHAPES, measure};
use tensor::limits;

/// How long each product is repeated.
const TIME: Duration = Duration::from_millis(200);

/// Measures and prints.
///
/// # Errors
/// None but those of the device.
pub fn run(context: &Context) -> Result<()> {
    let device = context.device()?;
    let exec = device.exec();
    let before = limits::fma_peak(exec);
    let bandwidth = limits::read_bandwidth(exec);
    let mut text =
        format!("{} · {} · {} threads\n", base::machine::cpu_name(), context.isa(), context.threads);
    let _ = writeln!(text, "memory read {bandwidth:.1} GB/s\n");
    let _ = writeln!(text, "GFLOP/s (share of the peak measured around it)");
    let mut shapes = Vec::new();
    for shape in SHAPES {
        let mut line = format!("  {:<10} {:>5} × {:>5} × {:>5}", shape.name, shape.m, shape.k, shape.n);
        for role in ROLES {
            let first = limits::fma_peak(exec);
            let gflops = measure(exec, shape, role, TIME);
            let peak = first.max(limits::fma_peak(exec));
            let _ = write!(line, "   {role:?} {gflops:6.1} ({:4.1} %)", 100.0 * gflops / peak);
            shapes.push(json!({
                "shape": shape.name, "m": shape.m, "k": shape.k, "n": shape.n, "role": format!("{role:?}"),
                "gflops": gflops, "share_of_peak": gflops / peak,
            }));
        }
        context.say(&line);
    }
    let after = limits::fma_peak(exec);
    let shares: Vec<f64> = shapes.iter().filter_map(|shape| shape["share_of_peak"].as_f64()).collect();
    let (least, mean) =
        (shares.iter().copied().fold(1.0, f64::min), shares.iter().sum::<f64>() / shares.len() as f64);
    let _ = writeln!(text, "  peak {before:.0} before, {after:.0} after");
    let _ = write!(text, "  share of the peak: least {:.1} %, mean {:.1} %", 100.0 * least, 100.0 * mean);
    let result = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads,
        "peak_gflops_before": before, "peak_gflops_after": after, "read_gb_per_s": bandwidth,
        "share_of_peak": mean, "share_of_peak_least": least, "shapes": shapes,
    });
    context.print(&text, &result);
    Ok(())
}
