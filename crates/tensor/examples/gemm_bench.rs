//! Speeds of the trainer's matrix products beside the machine's limits: `gemm_bench [filter] [milliseconds]`,
//! instruction set by `TAOYE_ISA`, threads by `THREADS`.

use std::time::Duration;
use tensor::gemm::bench::{ROLES, SHAPES, measure};
use tensor::{Exec, Isa, Pool, limits};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.first().map_or("", String::as_str);
    let time = Duration::from_millis(arguments.get(1).map_or(Ok(150), |text| text.parse())?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("THREADS").map_or(Ok(cores), |text| text.parse())?;
    let pool = Pool::new(threads);
    let exec = Exec::new(&pool, Isa::from_environment()?)?;
    let bandwidth = limits::read_bandwidth(exec);
    println!("{} × {threads} threads, memory {bandwidth:.1} GB/s", exec.isa());
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(filter)) {
        let mut line = format!("{:10} {:5} {:5} {:5}", shape.name, shape.m, shape.k, shape.n);
        for role in ROLES {
            let before = limits::fma_peak(exec);
            let speed = measure(exec, *shape, role, time);
            let peak = before.max(limits::fma_peak(exec));
            line += &format!("  {speed:6.1} ({:4.1} %)", 100.0 * speed / peak);
        }
        println!("{line}");
    }
    println!("peak {:.1} GFLOP/s", limits::fma_peak(exec));
    Ok(())
}
