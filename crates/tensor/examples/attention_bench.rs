//! Speeds of attention over pages beside the machine's limits: `attention_bench [filter] [milliseconds]`, instruction set
//! by `TAOYE_ISA`, threads by `THREADS`. A filter is part of a line's name, such as `Llama-1B decode 4096 f16`.

use std::time::Duration;
use tensor::kernels::attention::KvType;
use tensor::kernels::attention::bench::{AttentionShape, measure};
use tensor::{Exec, Heads, Isa, Pool, limits};

/// Query heads, key/value heads, width of a head.
const MODELS: [(&str, usize, usize, usize); 5] = [
    ("Qwen3-0.6B", 16, 8, 128),
    ("Llama-1B", 32, 8, 64),
    ("Qwen3-4B", 32, 8, 128),
    ("Gemma-270M", 4, 1, 256),
    ("SmolLM2-135M", 9, 3, 64),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter: Vec<&str> = arguments.first().map_or(vec![], |filter| filter.split(' ').collect());
    let time = Duration::from_millis(arguments.get(1).map_or(Ok(150), |text| text.parse())?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("THREADS").map_or(Ok(cores), |text| text.parse())?;
    let pool = Pool::new(threads);
    let exec = Exec::new(&pool, Isa::from_environment()?)?;
    println!("{} × {threads} threads", exec.isa());
    for (phase, rows) in [("decode", 1), ("prefill", 512)] {
        for (model, heads, kv_heads, head_dim) in MODELS {
            for depth in [0, 4096, 16384] {
                for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
                    let name = format!("{model} {phase} {depth} {}", kv_type.name());
                    let chosen = filter.iter().all(|part| name.split(' ').any(|word| word.starts_with(part)));
                    if !chosen || (phase, depth) == ("decode", 0) {
                        continue;
                    }
                    let heads = Heads { heads, kv_heads, head_dim };
                    let limit = || match rows {
                        1 => limits::read_bandwidth(exec),
                        _ => limits::fma_peak(exec),
                    };
                    let before = limit();
                    let speed = measure(exec, AttentionShape { heads, depth, rows, kv_type }, time);
                    let limit = before.max(limit());
                    let (reached, unit) =
                        if rows == 1 { (speed.gb_per_s, "GB/s") } else { (speed.gflop_per_s, "GFLOP/s") };
                    let share = 100.0 * reached / limit;
                    let ms = speed.seconds * 1e3;
                    println!("{name:34} {ms:9.3} ms {reached:8.1} {unit:7} {share:5.1} % of {limit:.1}");
                }
            }
        }
    }
    Ok(())
}
