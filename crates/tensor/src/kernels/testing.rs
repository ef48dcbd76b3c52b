//! What the kernels' tests share: random data, every instruction set and several pools, comparison of bits,
//! and finite differences.
#![allow(clippy::unwrap_used)]

use crate::{Exec, Isa, Pool};

/// `len` values in (−1, 1), the same for the same seed.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Calls `body` with every available instruction set on one, two and three threads.
pub fn each_exec(body: impl Fn(Exec<'_>)) {
    for threads in 1..=3 {
        let pool = Pool::new(threads);
        for isa in Isa::available() {
            body(Exec::new(&pool, isa).unwrap());
        }
    }
}

/// Panics unless both have the same bits.
pub fn assert_same_bits(name: &str, exec: Exec<'_>, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let different =
        found.iter().zip(expected).position(|(found, expected)| found.to_bits() != expected.to_bits());
    if let Some(index) = different {
        let (found, expected, threads) = (found[index], expected[index], exec.pool.threads());
        panic!(
            "{name} with {} on {threads} threads: element {index} is {found:e}, not {expected:e}",
            exec.isa
        );
    }
}

/// Compares `gradient` of a scalar function with central differences at `x`, in relative terms of the
/// largest.
pub fn check_gradient(name: &str, x: &[f32], gradient: &[f32], function: impl Fn(&[f32]) -> f64) {
    const STEP: f32 = 1.0 / 256.0;
    let largest = gradient.iter().fold(1e-3_f32, |largest, value| largest.max(value.abs()));
    let mut moved = x.to_vec();
    for index in 0..x.len() {
        moved[index] = x[index] + STEP;
        let above = function(&moved);
        moved[index] = x[index] - STEP;
        let below = function(&moved);
        moved[index] = x[index];
        let difference = (above - below) / f64::from(2.0 * STEP);
        let error = (difference - f64::from(gradient[index])).abs() / f64::from(largest);
        assert!(
            error < 2e-3,
            "{name}: derivative {index} is {}, differences say {difference}",
            gradient[index]
        );
    }
}

/// Σ a · b in f64.
pub fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
