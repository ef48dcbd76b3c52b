//! `taoye bench attention`: attention over a cache at a depth, beside the fused-multiply-add peak (many rows) or the rate
//! at which memory is read (one row: a step of decoding).

use crate::cli::BenchAttention;
use crate::context::Context;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;
use tensor::kernels::attention::bench::{AttentionShape, measure};
use tensor::{Heads, limits};

/// How long attention is repeated.
const TIME: Duration = Duration::from_millis(500);

/// Measures and prints.
///
/// # Errors
/// Flags that no attention has.
pub fn run(context: &Context, flags: &BenchAttention) -> Result<()> {
    let BenchAttention { heads, kv_heads, head_dim, depth, rows, kv } = *flags;
    ensure!(
        kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads),
        "--heads is a multiple of --kv-heads"
    );
    ensure!(head_dim > 0 && rows > 0, "--head-dim and --rows are at least 1");
    let device = context.device()?;
    let exec = device.exec();
    let limit = || if rows == 1 { limits::read_bandwidth(exec) } else { limits::fma_peak(exec) };
    let before = limit();
    let shape = AttentionShape { heads: Heads { heads, kv_heads, head_dim }, depth, rows, kv_type: kv };
    let speed = measure(exec, shape, TIME);
    let limit = before.max(limit());
    let (reached, unit) = if rows == 1 { (speed.gb_per_s, "GB/s") } else { (speed.gflop_per_s, "GFLOP/s") };
    let text = format!(
        "{} · {} · {} threads\n{rows} rows at depth {depth}, {heads} heads over {kv_heads} of width {head_dim}, keys and \
         values in {}\n{:.3} ms, {reached:.1} {unit}: {:.1} % of the {limit:.1} measured around it",
        base::machine::cpu_name(),
        context.isa(),
        context.threads,
        kv.name(),
        1e3 * speed.seconds,
        100.0 * reached / limit,
    );
    let json = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads,
        "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "depth": depth, "rows": rows,
        "kv": kv.name(), "seconds": speed.seconds, "gflop_per_s": speed.gflop_per_s,
        "gb_per_s": speed.gb_per_s, "limit": limit, "share_of_limit": reached / limit,
    });
    context.print(&text, &json);
    Ok(())
}
