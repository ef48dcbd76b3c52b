//! Speeds of products with packed weights, few rows and many, beside the machine's limits: `packed_bench [milliseconds]`,
//! instruction set by `TAOYE_ISA`, threads by `THREADS`.

use std::time::Duration;
use tensor::gemm::PanelType;
use tensor::gemm::bench::{Shape, measure_packed};
use tensor::{Exec, Isa, Pool, limits};

/// Inputs and outputs of a layer's products: an output projection, a gated pair, a vocabulary.
const SHAPES: [(&str, usize, usize); 3] =
    [("gate|up of 4B", 2560, 19456), ("down of 0.6B", 3072, 1024), ("head of 0.6B", 1024, 151_936)];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let time = Duration::from_millis(std::env::args().nth(1).map_or(Ok(150), |text| text.parse())?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("THREADS").map_or(Ok(cores), |text| text.parse())?;
    let pool = Pool::new(threads);
    let exec = Exec::new(&pool, Isa::from_environment()?)?;
    println!("{} × {threads} threads", exec.isa());
    for (name, k, n) in SHAPES {
        for panel_type in [PanelType::F32, PanelType::F16, PanelType::Bf16] {
            for m in [1, 2, 4, 16, 512] {
                if m == 512 && n > 100_000 {
                    continue;
                }
                let limit = || match m {
                    512 => limits::fma_peak(exec),
                    _ => limits::read_bandwidth(exec),
                };
                let before = limit();
                let (gflops, gb) = measure_packed(exec, Shape { name, m, k, n }, panel_type, time);
                let limit = before.max(limit());
                let share = 100.0 * if m == 512 { gflops } else { gb } / limit;
                println!(
                    "{name:14} {panel_type:?} {m:4} rows {gflops:7.1} GFLOP/s {gb:6.1} GB/s {share:5.1} % of {limit:.1}"
                );
            }
        }
    }
    Ok(())
}
