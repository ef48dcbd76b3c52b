//! `taoye bench quant`: products with block-quantised weights against the int8 peak and the read bandwidth.

use crate::cli::BenchQuant;
use crate::context::Context;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Duration;
use tensor::limits;
use tensor::quant::bench::{Shape, measure};
use tensor::quant::{BlockType, is_supported};

/// How long each product is repeated.
const TIME: Duration = Duration::from_millis(300);

/// Measures and prints.
///
/// # Errors
/// A type is unknown or has no integer product; a size is 0 or no whole number of blocks.
pub fn run(context: &Context, flags: &BenchQuant) -> Result<()> {
    let kinds: Vec<BlockType> =
        flags.types.iter().map(|name| kind_of(name, flags.columns)).collect::<Result<_>>()?;
    if flags.outputs == 0 || flags.rows.contains(&0) {
        bail!("a product of no rows or no outputs takes no time; give --rows and --outputs of at least 1");
    }
    let device = context.device()?;
    let exec = device.exec();
    let mut peak = limits::integer_peak(exec);
    context.say(&format!("{} · {} · {} threads", base::machine::cpu_name(), context.isa(), context.threads));
    let mut products = Vec::new();
    for kind in kinds {
        for &rows in &flags.rows {
            let shape = Shape { kind, rows, columns: flags.columns, outputs: flags.outputs };
            let speed = measure(exec, shape, TIME);
            peak = peak.max(limits::integer_peak(exec));
            let (of_peak, of_memory) = (speed.gops / peak, speed.gb_per_s / speed.read_gb_per_s);
            context.say(&format!(
                "  {:<7} {rows:>4} × {:>5} × {:>6}  {:7.1} GOP/s ({:4.1} %)  {:5.1} GB/s ({:5.1} %)",
                kind.name(),
                flags.columns,
                flags.outputs,
                speed.gops,
                100.0 * of_peak,
                speed.gb_per_s,
                100.0 * of_memory,
            ));
            products.push(json!({
                "type": kind.name(), "rows": rows, "columns": flags.columns, "outputs": flags.outputs,
                "gops": speed.gops, "share_of_peak": of_peak, "gb_per_s": speed.gb_per_s,
                "read_gb_per_s": speed.read_gb_per_s, "share_of_read": of_memory,
                "quantize_s": speed.quantize_s, "product_s": speed.product_s,
            }));
        }
    }
    let result = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "threads": context.threads,
        "integer_peak_gops": peak, "products": products,
    });
    context.print(&format!("  int8 peak {peak:.0} GOP/s"), &result);
    Ok(())
}

fn kind_of(name: &str, columns: usize) -> Result<BlockType> {
    let supported = || {
        let names: Vec<&str> =
            BlockType::all().filter(|kind| is_supported(*kind)).map(BlockType::name).collect();
        names.join(", ")
    };
    let Some(kind) = BlockType::from_name(name).filter(|kind| is_supported(*kind)) else {
        bail!("there is no integer product with weights of type '{name}'; there is with: {}", supported());
    };
    if columns == 0 || !columns.is_multiple_of(kind.block_len()) {
        bail!(
            "{columns} columns are no whole blocks of {}; give a multiple of {}",
            kind.name(),
            kind.block_len()
        );
    }
    Ok(kind)
}
