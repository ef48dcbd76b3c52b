//! Where the time of a step goes: calls, seconds and work of each operation, forward and backward apart.
//!
//! Off unless asked for: a timer that is off costs one relaxed load, one that is on two looks at the clock; neither
//! allocates once every place has been seen. It must not know any kernel, nor how figures are shown.

use crate::Weight;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Rows of the embedding table, and the sum of their gradients.
    Embed,
    /// Norm of rows.
    Norm,
    /// The matrix product with a weight.
    Product(Weight),
    /// The products with a weight's low-rank addition.
    LowRank,
    /// A bias added to rows, or its gradient.
    Bias,
    /// Norm of query and key heads.
    QkNorm,
    /// Rotary position embedding.
    Rotary,
    /// Attention over each row's document.
    Attention,
    /// Activation, gated or not.
    Activation,
    /// Rows multiplied with a number.
    Scale,
    /// Sums of activations or of their gradients, and copies of shared ones.
    Add,
    /// Cross-entropy of logits and its gradient.
    Loss,
    /// Gradients set to zero or gathered.
    Gradients,
    /// Global norm of the gradient.
    GradientNorm,
    /// AdamW's pass.
    AdamW,
    /// Muon's passes over its matrices: momentum and update.
    Muon,
    /// Muon's orthogonalisation.
    NewtonSchulz,
}

/// When in a step an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The forward pass.
    Forward,
    /// Computed once more in the backward pass, since it was not kept.
    Again,
    /// The gradient of what the operation read.
    InputGradient,
    /// The gradient of a weight.
    WeightGradient,
    /// The optimiser's step.
    Update,
}

/// How much a call does, in the unit of what limits it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Floating-point operations; a multiply-add counts as two.
    Flops(f64),
    /// Bytes that must be read and written: each array once for each time that it is read or written.
    Bytes(f64),
}

/// Sums over all calls of one operation in one phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// What was timed.
    pub operation: Operation,
    /// When.
    pub phase: Phase,
    /// How often.
    pub calls: u64,
    /// For how long, waiting for the last thread included.
    pub time: Duration,
    /// What it did.
    pub work: Work,
}

/// The timers' sums; a [`crate::Device`] owns one.
#[derive(Default)]
pub struct Profile {
    is_on: AtomicBool,
    sums: Mutex<BTreeMap<(Phase, Operation), Timed>>,
}

/// Runs until it is dropped.
#[must_use = "a timer stops when it is dropped"]
pub struct Timer<'a> {
    running: Option<(&'a Profile, (Phase, Operation), Work, Instant)>,
}

impl Profile {
    /// Forgets all sums (but keeps their places) and begins to time.
    pub fn start(&self) {
        for timed in self.lock().values_mut() {
            *timed = Timed { calls: 0, time: Duration::ZERO, work: timed.work.times(0.0), ..*timed };
        }
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Ends timing; the sums, by phase and operation.
    pub fn stop(&self) -> Vec<Timed> {
        self.is_on.store(false, Ordering::Relaxed);
        self.lock().values().filter(|timed| timed.calls > 0).copied().collect()
    }

    /// Times an operation until the returned timer is dropped. `work` is evaluated only where timing is on.
    #[inline]
    pub fn time(&self, phase: Phase, operation: Operation, work: impl FnOnce() -> Work) -> Timer<'_> {
        let is_on = self.is_on.load(Ordering::Relaxed);
        Timer { running: is_on.then(|| (self, (phase, operation), work(), Instant::now())) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Phase, Operation), Timed>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Some((profile, place, work, begun)) = self.running.take() else { return };
        let time = begun.elapsed();
        let (phase, operation) = place;
        let nothing = Timed { operation, phase, calls: 0, time: Duration::ZERO, work: work.times(0.0) };
        let mut sums = profile.lock();
        let sum = sums.entry(place).or_insert(nothing);
        *sum = sum.plus(&Timed { operation, phase, calls: 1, time, work });
    }
}

impl Timed {
    /// Both together, under the name of `self`.
    pub fn plus(&self, other: &Timed) -> Timed {
        Timed {
            calls: self.calls + other.calls,
            time: self.time + other.time,
            work: self.work.plus(other.work),
            ..*self
        }
    }
}

impl Work {
    /// The work of the product of (rows, inner) and (inner, columns).
    pub fn product(rows: usize, inner: usize, columns: usize) -> Work {
        Work::Flops(2.0 * rows as f64 * inner as f64 * columns as f64)
    }

    /// The work of `products` products over the causal pairs of documents, each for all heads: 2 · heads · head_dim a
    /// pair and product. Forward there are two (scores, output), backward five (scores again; gradients of the
    /// probabilities, values, queries and keys).
    pub fn attention(documents: &[Range<usize>], out_width: usize, products: usize) -> Work {
        let pairs = |rows: &Range<usize>| rows.len() as f64 * (rows.len() as f64 + 1.0) / 2.0;
        Work::Flops((2 * products * out_width) as f64 * documents.iter().map(pairs).sum::<f64>())
    }

    /// The work of reading or writing `floats` f32.
    pub fn floats(floats: usize) -> Work {
        Work::Bytes((floats * size_of::<f32>()) as f64)
    }

    /// In its unit.
    pub fn amount(self) -> f64 {
        match self {
            Work::Flops(amount) | Work::Bytes(amount) => amount,
        }
    }

    fn times(self, factor: f64) -> Work {
        match self {
            Work::Flops(flops) => Work::Flops(flops * factor),
            Work::Bytes(bytes) => Work::Bytes(bytes * factor),
        }
    }

    /// The sum, in the unit of `self`.
    fn plus(self, other: Work) -> Work {
        match self {
            Work::Flops(flops) => Work::Flops(flops + other.amount()),
            Work::Bytes(bytes) => Work::Bytes(bytes + other.amount()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_while_it_is_on_is_counted() {
        let profile = Profile::default();
        let call = |operation| drop(profile.time(Phase::Forward, operation, || Work::product(2, 3, 4)));
        call(Operation::Norm);
        assert_eq!(profile.stop(), []);
        profile.start();
        call(Operation::Norm);
        call(Operation::Norm);
        call(Operation::Add);
        let found = profile.stop();
        let counts: Vec<_> = found.iter().map(|timed| (timed.operation, timed.calls, timed.work)).collect();
        let expected = [(Operation::Norm, 2, Work::Flops(96.0)), (Operation::Add, 1, Work::Flops(48.0))];
        assert_eq!(counts, expected);
        profile.start();
        assert_eq!(profile.stop(), [], "the sums begin anew");
    }

    #[test]
    fn attention_is_counted_over_causal_pairs() {
        assert_eq!(Work::attention(&[0..3, 3..5], 8, 2), Work::Flops((2 * 2 * 8 * (6 + 3)) as f64));
        assert_eq!(Work::floats(3), Work::Bytes(12.0));
    }
}
