//! Speeds of products with block-quantised weights beside the machine's limits:
//! `quant_bench TYPES ROWS COLUMNS OUTPUTS [milliseconds]`, types and rows separated by commas, instruction set by
//! `TAOYE_ISA`, threads by `THREADS`.

use std::time::Duration;
use tensor::quant::BlockType;
use tensor::quant::bench::{Shape, measure};
use tensor::{Exec, Isa, Pool, limits};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kinds, rows, columns, outputs, rest @ ..] = arguments.as_slice() else {
        return Err("quant_bench TYPES ROWS COLUMNS OUTPUTS [milliseconds]".into());
    };
    let time = Duration::from_millis(rest.first().map_or(Ok(200), |text| text.parse())?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("THREADS").map_or(Ok(cores), |text| text.parse())?;
    let pool = Pool::new(threads);
    let exec = Exec::new(&pool, Isa::from_environment()?)?;
    let (peak, bandwidth) = (limits::integer_peak(exec), limits::read_bandwidth(exec));
    println!("{} × {threads}: int8 {peak:.0} GOP/s, memory {bandwidth:.1} GB/s", exec.isa());
    for kind in kinds.split(',') {
        let kind = BlockType::from_name(kind).ok_or("no such type")?;
        for rows in rows.split(',') {
            let shape =
                Shape { kind, rows: rows.parse()?, columns: columns.parse()?, outputs: outputs.parse()? };
            let speed = measure(exec, shape, time);
            println!(
                "{:7} {:4} rows: {:7.1} GOP/s ({:4.1} %), {:5.1} GB/s ({:5.1} %), quantising {:4.1} % of the product",
                kind.name(),
                shape.rows,
                speed.gops,
                100.0 * speed.gops / peak,
                speed.gb_per_s,
                100.0 * speed.gb_per_s / speed.read_gb_per_s,
                100.0 * speed.quantize_s / speed.product_s,
            );
        }
    }
    println!(
        "after: int8 {:.0} GOP/s, memory {:.1} GB/s",
        limits::integer_peak(exec),
        limits::read_bandwidth(exec)
    );
    Ok(())
}
