//! Row-wise softmax losses.

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::math::exp;
use super::sweep::{Place, grain, run_rows, sweep, sweep_lanes};
use crate::reference::math::ln;
use crate::simd::{Vector, Virtual16};
use crate::{Disjoint, Exec, dispatch};

/// What each row of logits should predict.
#[derive(Clone, Copy, Debug)]
pub struct RowTargets<'a> {
    /// The target of each row, (rows).
    pub ids: &'a [u32],
    /// The weight of each row's loss, (rows); a row of weight 0 takes no part.
    pub weights: &'a [f32],
    /// What every gradient is multiplied with.
    pub scale: f32,
}

/// Cross-entropy in nats (the negated log-probability of the target) of each row of `logits` (rows,
/// vocabulary).
///
/// # Panics
/// When a target is outside the vocabulary.
pub fn cross_entropy(exec: Exec<'_>, logits: &[f32], ids: &[u32], losses: &mut [f32]) {
    let vocabulary = logits.len() / ids.len().max(1);
    check_shapes(logits.len(), vocabulary, ids, losses.len());
    exec.pool.run_slices(losses, grain(exec.pool, ids.len(), vocabulary), &|first, losses, _| {
        for (index, loss) in losses.iter_mut().enumerate() {
            let row = &logits[(first + index) * vocabulary..][..vocabulary];
            let target = row[ids[first + index] as usize];
            // SAFETY: an `Exec` has an available instruction set.
            let (greatest, sum) = unsafe { softmax_moments(exec.isa, row) };
            *loss = ln(sum) - (target - greatest);
        }
    });
}

/// As [`cross_entropy`] with the same bits, and replaces the logits by their gradient: weight · scale ·
/// (softmax − one-hot). Rows of weight 0 take no part: their loss is 0 and their gradient is 0.
///
/// # Panics
/// When a target is outside the vocabulary.
pub fn cross_entropy_backward(
    exec: Exec<'_>,
    logits: &mut [f32],
    targets: RowTargets<'_>,
    losses: &mut [f32],
) {
    let rows = targets.ids.len();
    let vocabulary = logits.len() / rows.max(1);
    check_shapes(logits.len(), vocabulary, targets.ids, losses.len());
    assert_eq!(targets.weights.len(), rows, "one weight a row");
    let (logits, losses) = (Disjoint::new(logits), Disjoint::new(losses));
    run_rows(exec, rows, 2 * vocabulary, &|range| {
        for row in range {
            // SAFETY: each row is visited once.
            let (logits, loss) = unsafe {
                (logits.range(row * vocabulary..(row + 1) * vocabulary), losses.range(row..row + 1))
            };
            if targets.weights[row] == 0.0 {
                logits.fill(0.0);
                loss[0] = 0.0;
                continue;
            }
            let target = targets.ids[row] as usize;
            let factor = targets.weights[row] * targets.scale;
            let target_logit = logits[target];
            // SAFETY: an `Exec` has an available instruction set.
            let (greatest, sum) = unsafe { softmax_gradient(exec.isa, logits, factor) };
            loss[0] = ln(sum) - (target_logit - greatest);
            logits[target] -= factor;
        }
    });
}

/// Replaces each row of `logits` (rows, vocabulary) by its log-probabilities; a target's equals the negated
/// [`cross_entropy`] bit for bit.
pub fn log_softmax(exec: Exec<'_>, vocabulary: usize, logits: &mut [f32]) {
    let rows = logits.len() / vocabulary.max(1);
    assert_eq!(logits.len(), rows * vocabulary, "whole rows");
    let logits = Disjoint::new(logits);
    run_rows(exec, rows, 2 * vocabulary, &|range| {
        for row in range {
            // SAFETY: each row is visited once; an `Exec` has an available instruction set.
            unsafe {
                let row = logits.range(row * vocabulary..(row + 1) * vocabulary);
                let (greatest, sum) = softmax_moments(exec.isa, row);
                shift_row(exec.isa, row, greatest, ln(sum));
            }
        }
    });
}

fn check_shapes(logits: usize, vocabulary: usize, ids: &[u32], losses: usize) {
    assert_eq!(
        (logits, losses),
        (ids.len() * vocabulary, ids.len()),
        "one row of logits and one loss for each target"
    );
}

dispatch! {
    /// The greatest logit and the sum of exponentials.
    fn softmax_moments(row: &[f32]) -> (f32, f32) = softmax_moments_generic;
}
dispatch! {
    /// The same, and replaces the logits by factor · softmax.
    fn softmax_gradient(row: &mut [f32], factor: f32) -> (f32, f32) = softmax_gradient_generic;
}
dispatch! {
    /// row = (row − greatest) − log_sum.
    fn shift_row(row: &mut [f32], greatest: f32, log_sum: f32) = shift_row_generic;
}

#[inline(always)]
unsafe fn softmax_moments_generic<V: Vector>(row: &[f32]) -> (f32, f32) {
    unsafe {
        let greatest = maximum::<V>(row);
        let (at, shift) = (row.as_ptr(), V::splat(greatest));
        let mut sums = Virtual16::<V>::splat(0.0);
        // Lanes beyond the row must add nothing, so the last registers are filled up with −∞.
        let whole = row.len() / 16 * 16;
        sweep_lanes!(V, whole, (place, register) => {
            let exponential = exp(place.load::<V>(at).sub(shift));
            sums.set_register(register, sums.register(register).add(exponential));
        });
        if whole < row.len() {
            let rest = Virtual16::<V>::load_partial(at.add(whole), row.len() - whole, f32::NEG_INFINITY);
            let mut register = 0;
            while register < 16 / V::LANES {
                let exponential = exp(rest.register(register).sub(shift));
                sums.set_register(register, sums.register(register).add(exponential));
                register += 1;
            }
        }
        (greatest, sums.reduce_add())
    }
}

#[inline(always)]
unsafe fn softmax_gradient_generic<V: Vector>(row: &mut [f32], factor: f32) -> (f32, f32) {
    unsafe {
        let greatest = maximum::<V>(row);
        let (at, shift) = (row.as_mut_ptr(), V::splat(greatest));
        let mut sums = Virtual16::<V>::splat(0.0);
        let whole = row.len() / 16 * 16;
        sweep_lanes!(V, whole, (place, register) => {
            let exponential = exp(place.load::<V>(at).sub(shift));
            place.store(exponential, at);
            sums.set_register(register, sums.register(register).add(exponential));
        });
        if whole < row.len() {
            let mut rest = Virtual16::<V>::load_partial(at.add(whole), row.len() - whole, f32::NEG_INFINITY);
            let mut register = 0;
            while register < 16 / V::LANES {
                let exponential = exp(rest.register(register).sub(shift));
                rest.set_register(register, exponential);
                sums.set_register(register, sums.register(register).add(exponential));
                register += 1;
            }
            rest.store_partial(at.add(whole), row.len() - whole);
        }
        let sum = sums.reduce_add();
        let factor_over_sum = V::splat(factor / sum);
        sweep!(V, row.len(), place => place.store(place.load::<V>(at).mul(factor_over_sum), at));
        (greatest, sum)
    }
}

#[inline(always)]
unsafe fn shift_row_generic<V: Vector>(row: &mut [f32], greatest: f32, log_sum: f32) {
    let at = row.as_mut_ptr();
    sweep!(V, row.len(), place => unsafe {
        let shifted = place.load::<V>(at).sub(V::splat(greatest)).sub(V::splat(log_sum));
        place.store(shifted, at);
    });
}

/// The greatest element; four registers at once, since the order does not matter.
#[inline(always)]
unsafe fn maximum<V: Vector>(row: &[f32]) -> f32 {
    unsafe {
        let at = row.as_ptr();
        let mut greatest = [V::splat(f32::NEG_INFINITY); 4];
        let mut offset = 0;
        while offset + 4 * V::LANES <= row.len() {
            let mut index = 0;
            while index < 4 {
                greatest[index] = V::load(at.add(offset + index * V::LANES)).max(greatest[index]);
                index += 1;
            }
            offset += 4 * V::LANES;
        }
        let mut lanes = [f32::NEG_INFINITY; 16];
        greatest[0].max(greatest[1]).max(greatest[2].max(greatest[3])).store(lanes.as_mut_ptr());
        let mut result = f32::NEG_INFINITY;
        for value in lanes.iter().chain(&row[offset..]) {
            result = if *value > result { *value } else { result };
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, check_gradient, each_exec, random};
    use crate::reference::loss as reference;

    #[test]
    fn kernels_have_the_bits_of_the_reference() {
        for (rows, vocabulary) in [(1, 1), (4, 5), (3, 64), (37, 1003)] {
            let logits: Vec<f32> = random(5, rows * vocabulary).iter().map(|x| 20.0 * x).collect();
            let ids: Vec<u32> = (0..rows).map(|row| (row * 7 % vocabulary) as u32).collect();
            let weights: Vec<f32> = (0..rows).map(|row| [1.0, 0.0, 0.5][row % 3]).collect();
            let targets = RowTargets { ids: &ids, weights: &weights, scale: 0.01 };
            let (mut losses, mut weighted) = (vec![0.0; rows], vec![0.0; rows]);
            let (mut gradient, mut log_probs) = (logits.clone(), logits.clone());
            reference::cross_entropy(&logits, &ids, &mut losses);
            reference::cross_entropy_backward(&mut gradient, targets, &mut weighted);
            reference::log_softmax(vocabulary, &mut log_probs);
            for row in 0..rows {
                let log_prob = log_probs[row * vocabulary + ids[row] as usize];
                assert!(weights[row] == 0.0 || weighted[row].to_bits() == losses[row].to_bits());
                assert_eq!(log_prob, -losses[row]);
            }
            each_exec(|exec| {
                let mut found = vec![9.0; rows];
                cross_entropy(exec, &logits, &ids, &mut found);
                assert_same_bits("loss", exec, &found, &losses);
                let mut found_gradient = logits.clone();
                cross_entropy_backward(exec, &mut found_gradient, targets, &mut found);
                assert_same_bits("weighted loss", exec, &found, &weighted);
                assert_same_bits("gradient of logits", exec, &found_gradient, &gradient);
                let mut found = logits.clone();
                log_softmax(exec, vocabulary, &mut found);
                assert_same_bits("log-probabilities", exec, &found, &log_probs);
            });
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let logits: Vec<f32> = random(6, 3 * 7).iter().map(|x| 3.0 * x).collect();
        let (ids, weights) = ([2, 0, 6], [1.0, 0.25, 0.0]);
        let mut gradient = logits.clone();
        let targets = RowTargets { ids: &ids, weights: &weights, scale: 2.0 };
        reference::cross_entropy_backward(&mut gradient, targets, &mut [0.0; 3]);
        check_gradient("cross-entropy", &logits, &gradient, |logits| {
            let mut losses = [0.0; 3];
            reference::cross_entropy(logits, &ids, &mut losses);
            losses.iter().zip(weights).map(|(loss, weight)| 2.0 * f64::from(loss * weight)).sum()
        });
    }
}
