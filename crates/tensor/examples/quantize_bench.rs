//! How fast each block type is encoded and decoded: `cargo run --release -p tensor --example quantize_bench [THREADS]`.
//! Must not know files.

use std::time::Instant;
use tensor::Pool;
use tensor::quant::{BlockType, Rows, can_quantize, dequantize, quantize_on};

const COLUMNS: usize = 4096;
const ROWS: usize = 256;

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |threads| threads.parse().expect("a number of threads"));
    let pool = Pool::new(threads);
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|i| normal(i as u64) * 0.02).collect();
    let mut decoded = vec![0.0; values.len()];
    println!("type      encode ns/element ({threads} threads)  decode ns/element (1 thread)");
    for kind in BlockType::all().filter(|&kind| can_quantize(kind)) {
        let mut bytes = vec![0; kind.row_bytes(values.len()).expect("whole blocks")];
        let rows = Rows { values: &values, columns: COLUMNS, importance: None };
        let start = Instant::now();
        quantize_on(&pool, kind, rows, &mut bytes).expect("the values are finite");
        let encode_s = start.elapsed().as_secs_f64();
        let start = Instant::now();
        dequantize(kind, &bytes, &mut decoded);
        let decode_s = start.elapsed().as_secs_f64();
        let each = 1e9 / values.len() as f64;
        println!("{:<8}  {:>8.2}  {:>8.2}", kind.name(), encode_s * each, decode_s * each);
    }
}

/// The sum of twelve uniform numbers less six: normal but for its tails.
fn normal(index: u64) -> f32 {
    let uniform = |n: u64| {
        let mixed = (n.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..12).map(|k| uniform(12 * index + k)).sum::<f32>() - 6.0
}
