//! Products with block-quantised weights as a benchmark: how fast they go on this machine.

use super::{BlockType, QuantMatrix, QuantRows, multiply};
use crate::gemm::{Into, MatMut};
use crate::{AlignedBuffer, Exec, limits};
use std::time::{Duration, Instant};

/// Packed bytes that decoding passes over, several times a third-level cache's share.
const DECODE_BYTES: usize = 192 << 20;

/// A product to measure.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The weights' type.
    pub kind: BlockType,
    /// Rows of activations.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Outputs.
    pub outputs: usize,
}

/// What was measured; the best of all runs.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Seconds of the product.
    pub product_s: f64,
    /// Seconds that quantising the activations takes.
    pub quantize_s: f64,
    /// 10⁹ operations a second of the product: 2 · rows · columns · outputs.
    pub gops: f64,
    /// 10⁹ bytes of packed weights a second.
    pub gb_per_s: f64,
    /// The rate at which the same memory is merely read, between the products: the limit of few rows.
    pub read_gb_per_s: f64,
}

/// Measures a product for about `time`. Few rows meet as many copies of the weights as no cache holds.
///
/// # Panics
/// The type is not supported, or the columns are no whole number of its blocks.
pub fn measure(exec: Exec<'_>, shape: Shape, time: Duration) -> Speed {
    let Shape { kind, rows, columns, outputs } = shape;
    let bytes = QuantMatrix::packed_bytes(kind, outputs, columns).expect("the type has an integer product");
    let copies = if rows <= 16 { DECODE_BYTES.div_ceil(bytes) } else { 1 };
    let mut packed = AlignedBuffer::zeroed(copies * bytes / size_of::<f32>());
    // Codes of any kind, and scales that are finite in every format.
    exec.pool.run_slices(&mut packed, 1 << 16, &|first, piece, _| {
        for (i, value) in piece.iter_mut().enumerate() {
            *value = f32::from_bits(((first + i) as u32).wrapping_mul(0x9e37_79b9) & 0x2f7f_2f7f);
        }
    });
    let floats = packed;
    let packed = bytes_of(&floats);
    let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect();
    let mut quantized = QuantRows::new();
    let mut c = vec![0.0; rows * outputs];
    quantized.quantize(exec, &x, rows, columns);
    let begun = Instant::now();
    let (mut product_s, mut quantize_s, mut read_s) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    while product_s.is_infinite() || begun.elapsed() < time {
        read_s = read_s.min(limits::read_seconds(exec, &floats) / copies as f64);
        let start = Instant::now();
        quantized.quantize(exec, &x, rows, columns);
        quantize_s = quantize_s.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for bytes in packed.chunks_exact(bytes) {
            let matrix = QuantMatrix::new(kind, outputs, columns, bytes);
            multiply(exec, &mut quantized, &[matrix], MatMut::new(&mut c, rows, outputs), Into::Overwrite);
        }
        product_s = product_s.min(start.elapsed().as_secs_f64() / copies as f64);
    }
    let gops = (2 * rows * columns * outputs) as f64 / product_s / 1e9;
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    Speed { product_s, quantize_s, gops, gb_per_s: rate(product_s), read_gb_per_s: rate(read_s) }
}

#[allow(unsafe_code)]
fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: every byte of an f32 is a u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
