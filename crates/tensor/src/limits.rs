//! The machine's own limits, measured: fused multiply-adds from registers and reads from memory. Speeds of kernels are
//! stated as shares of these, measured in the same run. The same for graphics processors, in [`cuda`].
#![allow(unsafe_code)]

pub mod cuda;

use crate::quant::{Instance, PEAK_CHAINS};
use crate::simd::Vector;
use crate::{AlignedBuffer, Exec, dispatch};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// Independent chains: enough to cover the latency of two to four multiply-add units, few enough for sixteen registers.
const CHAINS: usize = 12;
/// Steps of every chain in one measurement: 2 to 20 ms.
const STEPS: usize = 1 << 19;
/// Bytes read in one pass: several times a third-level cache's share.
const READ_BYTES: usize = 128 << 20;
/// Streams that each thread reads side by side; some memory controllers give one stream less than their all.
const STREAMS: usize = 4;
/// Measurements, of which the best counts: a limit is what nothing disturbed.
const ROUNDS: usize = 9;

/// The peak of single-precision fused multiply-adds of all threads in GFLOP/s (a multiply-add counts as two), with the
/// instruction set of `exec`. Takes about 0.1 s (much longer with `portable` on a processor that has to emulate).
pub fn fma_peak(exec: Exec<'_>) -> f64 {
    let threads = exec.pool.threads();
    // The arrays of the portable instances may end up as calls for each lane: fewer steps tell as much.
    let steps = if exec.isa.is_vector() { STEPS } else { STEPS / 64 };
    let flops = (threads * steps * CHAINS * exec.isa.lanes() * 2) as f64;
    let best = best_seconds(|| {
        exec.pool.run(threads, &|_, _| {
            // SAFETY: the Isa of an Exec is available.
            black_box(unsafe { chains(exec.isa, black_box(steps), black_box(0.999)) });
        });
    });
    flops / best / 1e9
}

/// The peak of exact products of bytes (unsigned × signed, summed in 32 bits) of all threads in 10⁹ operations a second
/// (a multiply-add counts as two), in the form that `exec`'s instruction set has: `vpdpbusd` with VNNI, else
/// `vpmaddubsw`, `vpmaddwd` and `vpaddd`. Takes as long as [`fma_peak`].
pub fn integer_peak(exec: Exec<'_>) -> f64 {
    let threads = exec.pool.threads();
    let steps = if exec.isa.is_vector() { STEPS } else { STEPS / 64 };
    let instance = Instance::of(exec.isa);
    let operations = (threads * steps * PEAK_CHAINS * instance.lanes() * 8) as f64;
    let function = instance.peak();
    let bytes = [3; 512];
    let best = best_seconds(|| {
        exec.pool.run(threads, &|_, _| {
            // SAFETY: the Isa of an Exec is available, and so is the instance for it.
            black_box(unsafe { function(black_box(steps), black_box(&bytes)) });
        });
    });
    operations / best / 1e9
}

/// The rate at which all threads together read memory, in GB/s (10⁹ bytes). Takes about 0.1 s and 128 MiB.
pub fn read_bandwidth(exec: Exec<'_>) -> f64 {
    let mut buffer = AlignedBuffer::zeroed(READ_BYTES / size_of::<f32>());
    // Untouched memory would all be one page of zeros.
    exec.pool.run_slices(&mut buffer, 1 << 18, &|_, piece, _| piece.fill(1.0));
    let best = (0..=ROUNDS).map(|_| read_seconds(exec, &buffer)).fold(f64::INFINITY, f64::min);
    size_of_val(&*buffer) as f64 / best / 1e9
}

/// The seconds that all threads together take to read `data` once, each several streams side by side.
pub fn read_seconds(exec: Exec<'_>, data: &[f32]) -> f64 {
    let threads = exec.pool.threads();
    let share = data.len() / threads / (STREAMS * 64) * (STREAMS * 64);
    let sink = AtomicU32::new(0);
    let begun = Instant::now();
    exec.pool.run(threads, &|task, _| {
        // SAFETY: the Isa of an Exec is available.
        let sum = unsafe { read(exec.isa, &data[task * share..][..share]) };
        sink.fetch_xor(sum.to_bits(), Ordering::Relaxed);
    });
    black_box(sink);
    begun.elapsed().as_secs_f64()
}

/// The shortest of `ROUNDS` runs, after one that wakes the threads.
fn best_seconds(body: impl Fn()) -> f64 {
    body();
    let once = || {
        let begun = Instant::now();
        body();
        begun.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| once()).fold(f64::INFINITY, f64::min)
}

dispatch! {
    /// Runs the chains of multiply-adds and returns something that depends on all of them.
    fn chains(steps: usize, factor: f32) -> f32 = chains_generic;
}

#[inline(always)]
unsafe fn chains_generic<V: Vector>(steps: usize, factor: f32) -> f32 {
    // SAFETY: within a dispatched function.
    unsafe {
        let factor = V::splat(factor);
        let addend = V::splat(1e-3);
        let mut sums = [V::zero(); CHAINS];
        for _ in 0..steps {
            let mut chain = 0;
            while chain < CHAINS {
                sums[chain] = sums[chain].fma(factor, addend);
                chain += 1;
            }
        }
        let mut total = V::zero();
        let mut chain = 0;
        while chain < CHAINS {
            total = total.add(sums[chain]);
            chain += 1;
        }
        let mut lanes = [0.0_f32; 16];
        total.store(lanes.as_mut_ptr());
        lanes.iter().sum()
    }
}

dispatch! {
    /// Reads all of `data` (a multiple of `STREAMS` · 64 floats), several streams side by side.
    fn read(data: &[f32]) -> f32 = read_generic;
}

#[inline(always)]
unsafe fn read_generic<V: Vector>(data: &[f32]) -> f32 {
    let stream = data.len() / STREAMS;
    // SAFETY: within a dispatched function; every load lies within its stream.
    unsafe {
        let mut sums = [V::zero(); STREAMS];
        let mut i = 0;
        while i + V::LANES <= stream {
            let mut s = 0;
            while s < STREAMS {
                sums[s] = sums[s].add(V::load(data.as_ptr().add(s * stream + i)));
                s += 1;
            }
            i += V::LANES;
        }
        let mut lanes = [0.0_f32; 16];
        let mut total = V::zero();
        let mut s = 0;
        while s < STREAMS {
            total = total.add(sums[s]);
            s += 1;
        }
        total.store(lanes.as_mut_ptr());
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Isa, Pool};

    #[test]
    fn limits_are_plausible() {
        let pool = Pool::new(1);
        for isa in Isa::available() {
            let exec = Exec::new(&pool, isa).unwrap();
            let peak = fma_peak(exec);
            assert!(peak > 0.01 && peak < 10_000.0, "{isa}: {peak} GFLOP/s");
            let peak = integer_peak(exec);
            assert!(peak > 0.01 && peak < 100_000.0, "{isa}: {peak} GOP/s");
        }
        let bandwidth = read_bandwidth(Exec::new(&pool, Isa::detect()).unwrap());
        assert!(bandwidth > 0.1 && bandwidth < 10_000.0, "{bandwidth} GB/s");
    }
}
