//! The trainer's matrix products as a benchmark: their shapes, and how fast they go on this machine.

use super::{HalfMatrix, Into, MatMut, MatRef, PackedMatrix, PanelType, gemm, gemm_packed};
use crate::{AlignedBuffer, Exec};
use std::time::{Duration, Instant};

/// What a product is for in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// y (M, N) = x (M, K) · W (N, K)ᵀ.
    Forward,
    /// dx (M, K) = dy (M, N) · W (N, K).
    InputGradient,
    /// dW (N, K) += dy (M, N)ᵀ · x (M, K).
    WeightGradient,
}

/// A linear layer's products: M tokens, K inputs, N outputs.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Which model and layer.
    pub name: &'static str,
    /// Tokens.
    pub m: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
}

/// The linear layers of the benchmark models S (width 256, batch 16 × 256) and M (width 768, batch 4 × 512).
pub const SHAPES: [Shape; 10] = [
    Shape { name: "S qkv", m: 4096, k: 256, n: 768 },
    Shape { name: "S out", m: 4096, k: 256, n: 256 },
    Shape { name: "S gate|up", m: 4096, k: 256, n: 1376 },
    Shape { name: "S down", m: 4096, k: 688, n: 256 },
    Shape { name: "S head", m: 512, k: 256, n: 8192 },
    Shape { name: "M qkv", m: 2048, k: 768, n: 2304 },
    Shape { name: "M out", m: 2048, k: 768, n: 768 },
    Shape { name: "M gate|up", m: 2048, k: 768, n: 4096 },
    Shape { name: "M down", m: 2048, k: 2048, n: 768 },
    Shape { name: "M head", m: 512, k: 768, n: 32000 },
];

/// The three products of every layer.
pub const ROLES: [Role; 3] = [Role::Forward, Role::InputGradient, Role::WeightGradient];

/// The speed of one product in GFLOP/s (2 · M · K · N operations): the best of as many runs as fit into about `time`,
/// as the limits are the best of theirs.
pub fn measure(exec: Exec<'_>, shape: Shape, role: Role, time: Duration) -> f64 {
    let Shape { m, k, n, .. } = shape;
    let x = filled(m * k);
    let w = filled(n * k);
    let y = filled(m * n);
    let mut c = filled(match role {
        Role::Forward => m * n,
        Role::InputGradient => m * k,
        Role::WeightGradient => n * k,
    });
    let mut once = || {
        let begun = Instant::now();
        let (x, w, y) = (MatRef::new(&x, m, k), MatRef::new(&w, n, k), MatRef::new(&y, m, n));
        match role {
            Role::Forward => gemm(exec, x, w.t(), MatMut::new(&mut c, m, n), Into::Overwrite),
            Role::InputGradient => gemm(exec, y, w, MatMut::new(&mut c, m, k), Into::Overwrite),
            Role::WeightGradient => gemm(exec, y.t(), x, MatMut::new(&mut c, n, k), Into::Accumulate),
        }
        begun.elapsed().as_secs_f64()
    };
    once();
    let begun = Instant::now();
    let mut best = once();
    while begun.elapsed() < time {
        best = best.min(once());
    }
    (2 * m * k * n) as f64 / best / 1e9
}

/// The speed of `m` rows times packed weights of (K, N), in GFLOP/s and in GB/s of weights, each read once: the median.
pub fn measure_packed(exec: Exec<'_>, shape: Shape, panel_type: PanelType, time: Duration) -> (f64, f64) {
    let Shape { m, k, n, .. } = shape;
    let (x, mut y) = (filled(m * k), filled(m * n));
    let packed = match panel_type {
        PanelType::F32 => PackedMatrix::pack(exec, MatRef::new(&filled(n * k), n, k).t()),
        half => {
            let bytes: Vec<u8> = (0..2 * n * k).map(|i| if i % 2 == 0 { i as u8 } else { 0x3C }).collect();
            PackedMatrix::pack_half(exec, HalfMatrix { bytes: &bytes, half, outputs: n, inputs: k })
        }
    };
    let mut once = || {
        let begun = Instant::now();
        gemm_packed(exec, MatRef::new(&x, m, k), &packed, MatMut::new(&mut y, m, n), Into::Overwrite);
        begun.elapsed().as_secs_f64()
    };
    once();
    let begun = Instant::now();
    let mut times = vec![once()];
    while begun.elapsed() < time {
        times.push(once());
    }
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    ((2 * m * k * n) as f64 / seconds / 1e9, (n * k * panel_type.bytes()) as f64 / seconds / 1e9)
}

fn filled(length: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(length);
    for (i, value) in buffer.iter_mut().enumerate() {
        *value = ((i * 7919) % 1000) as f32 * 1e-3 - 0.5;
    }
    buffer
}
