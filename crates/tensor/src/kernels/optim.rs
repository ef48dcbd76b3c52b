//! The optimisers' elementwise updates over flat buffers, one pass each.

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::sweep::{Place, flat_grain, sweep};
use crate::simd::Vector;
use crate::{Disjoint, Exec, dispatch};

/// Settings of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; 0 for ranges that do not decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// What the gradient is multiplied with first (clipping, averaging).
    pub gradient_scale: f32,
}

/// The factors of one AdamW step as the kernel uses them.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConstants {
    /// 1 − learning rate · weight decay.
    pub decay: f32,
    /// 1 − beta1.
    pub first_weight: f32,
    /// beta2.
    pub beta2: f32,
    /// 1 − beta2.
    pub second_weight: f32,
    /// sqrt(1 − beta2^step).
    pub second_correction_sqrt: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// learning rate / (1 − beta1^step).
    pub step_size: f32,
    /// What the gradient is multiplied with first.
    pub gradient_scale: f32,
}

/// The moments of AdamW, each as long as the weights.
pub struct AdamWState<'a> {
    /// Running mean of the gradient.
    pub first_moment: &'a mut [f32],
    /// Running mean of the squared gradient.
    pub second_moment: &'a mut [f32],
}

/// Settings of [`momentum_step`].
#[derive(Clone, Copy, Debug)]
pub struct Momentum {
    /// Decay of the momentum.
    pub beta: f32,
    /// Whether the update looks one step ahead.
    pub nesterov: bool,
    /// What the gradient is multiplied with first (clipping, averaging).
    pub gradient_scale: f32,
}

impl AdamW {
    /// The step's factors, computed in f64 and rounded once.
    pub fn constants(&self) -> AdamWConstants {
        let first_correction = 1.0 - power(self.beta1, self.step);
        let second_correction = 1.0 - power(self.beta2, self.step);
        AdamWConstants {
            decay: (1.0 - self.learning_rate * self.weight_decay) as f32,
            first_weight: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            second_weight: (1.0 - self.beta2) as f32,
            second_correction_sqrt: second_correction.sqrt() as f32,
            eps: self.eps as f32,
            step_size: (self.learning_rate / first_correction) as f32,
            gradient_scale: self.gradient_scale,
        }
    }
}

/// One AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) in PyTorch's order of
/// operations. All slices have the same length.
pub fn adamw_step(
    exec: Exec<'_>,
    adamw: AdamW,
    weights: &mut [f32],
    gradient: &[f32],
    state: AdamWState<'_>,
) {
    let len = weights.len();
    let lengths = (gradient.len(), state.first_moment.len(), state.second_moment.len());
    assert_eq!(lengths, (len, len, len), "gradient and moments are as long as the weights");
    let constants = adamw.constants();
    let (first, second) = (Disjoint::new(state.first_moment), Disjoint::new(state.second_moment));
    exec.pool.run_slices(weights, flat_grain(exec.pool, len), &|start, weights, _| {
        let range = start..start + weights.len();
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let moments = (first.range(range.clone()), second.range(range.clone()));
            adamw_range(exec.isa, constants, weights, &gradient[range], moments);
        }
    });
}

/// Muon's momentum (Jordan et al. 2024): moves `momentum` towards the gradient, and writes the `update` that
/// is to be orthogonalised.
pub fn momentum_step(
    exec: Exec<'_>,
    settings: Momentum,
    gradient: &[f32],
    momentum: &mut [f32],
    update: &mut [f32],
) {
    let len = gradient.len();
    assert_eq!((momentum.len(), update.len()), (len, len), "momentum and update are as long as the gradient");
    let update = Disjoint::new(update);
    exec.pool.run_slices(momentum, flat_grain(exec.pool, len), &|start, momentum, _| {
        let range = start..start + momentum.len();
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            momentum_range(exec.isa, settings, &gradient[range.clone()], momentum, update.range(range))
        };
    });
}

/// weights = weights · decay − step · update.
pub fn decayed_step(exec: Exec<'_>, decay: f32, step: f32, update: &[f32], weights: &mut [f32]) {
    assert_eq!(update.len(), weights.len(), "the update is as long as the weights");
    exec.pool.run_slices(weights, flat_grain(exec.pool, update.len()), &|start, weights, _| {
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { decayed_range(exec.isa, (decay, step), &update[start..start + weights.len()], weights) };
    });
}

type Moments<'a> = (&'a mut [f32], &'a mut [f32]);

dispatch! {
    fn adamw_range(c: AdamWConstants, weights: &mut [f32], gradient: &[f32], moments: Moments<'_>) =
        adamw_range_generic;
}
dispatch! {
    fn momentum_range(settings: Momentum, gradient: &[f32], momentum: &mut [f32], update: &mut [f32]) =
        momentum_range_generic;
}
dispatch! {
    fn decayed_range(factors: (f32, f32), update: &[f32], weights: &mut [f32]) = decayed_range_generic;
}

#[inline(always)]
unsafe fn adamw_range_generic<V: Vector>(
    c: AdamWConstants,
    weights: &mut [f32],
    gradient: &[f32],
    (first, second): Moments<'_>,
) {
    let (weights_at, gradient) = (weights.as_mut_ptr(), gradient.as_ptr());
    let (first_at, second_at) = (first.as_mut_ptr(), second.as_mut_ptr());
    sweep!(V, weights.len(), at => unsafe {
        let gradient = at.load::<V>(gradient).mul(V::splat(c.gradient_scale));
        let first = at.load::<V>(first_at);
        let first = V::splat(c.first_weight).fma(gradient.sub(first), first);
        let decayed = at.load::<V>(second_at).mul(V::splat(c.beta2));
        let second = V::splat(c.second_weight).mul(gradient).fma(gradient, decayed);
        let denominator = second.sqrt().div(V::splat(c.second_correction_sqrt)).add(V::splat(c.eps));
        let weight = at.load::<V>(weights_at).mul(V::splat(c.decay));
        at.store(first, first_at);
        at.store(second, second_at);
        at.store(first.div(denominator).fma(V::splat(-c.step_size), weight), weights_at);
    });
}

#[inline(always)]
unsafe fn momentum_range_generic<V: Vector>(
    settings: Momentum,
    gradient: &[f32],
    momentum: &mut [f32],
    update: &mut [f32],
) {
    let (gradient_at, momentum_at, update_at) =
        (gradient.as_ptr(), momentum.as_mut_ptr(), update.as_mut_ptr());
    sweep!(V, gradient.len(), at => unsafe {
        let weight = V::splat(1.0 - settings.beta);
        let gradient = at.load::<V>(gradient_at).mul(V::splat(settings.gradient_scale));
        let momentum = at.load::<V>(momentum_at);
        let moved = weight.fma(gradient.sub(momentum), momentum);
        at.store(moved, momentum_at);
        let update = if settings.nesterov { weight.fma(gradient.sub(moved), moved) } else { moved };
        at.store(update, update_at);
    });
}

#[inline(always)]
unsafe fn decayed_range_generic<V: Vector>((decay, step): (f32, f32), update: &[f32], weights: &mut [f32]) {
    let (update_at, weights_at) = (update.as_ptr(), weights.as_mut_ptr());
    sweep!(V, update.len(), at => unsafe {
        let weight = at.load::<V>(weights_at).mul(V::splat(decay));
        at.store(at.load::<V>(update_at).fma(V::splat(-step), weight), weights_at);
    });
}

/// base^exponent by repeated squaring: the same bits on every platform, unlike the system's `pow`.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};
    use crate::reference::optim as reference;

    #[test]
    fn steps_have_the_bits_of_the_reference() {
        for len in [1, 33, 50_001] {
            let gradient = random(1, len);
            let adamw = AdamW {
                learning_rate: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                step: 3,
                gradient_scale: 0.5,
            };
            let momentum = Momentum { beta: 0.95, nesterov: true, gradient_scale: 0.5 };
            let plain = Momentum { nesterov: false, ..momentum };
            let start = [random(2, len), random(3, len), random(4, len).iter().map(|x| x * x).collect()];
            let mut expected = start.clone();
            let [weights, first_moment, second_moment] = &mut expected;
            reference::adamw_step(adamw, weights, &gradient, AdamWState { first_moment, second_moment });
            reference::momentum_step(momentum, &gradient, first_moment, second_moment);
            reference::decayed_step(0.9, 0.1, second_moment, weights);
            reference::momentum_step(plain, &gradient, second_moment, first_moment);
            each_exec(|exec| {
                let mut found = start.clone();
                let [weights, first_moment, second_moment] = &mut found;
                adamw_step(exec, adamw, weights, &gradient, AdamWState { first_moment, second_moment });
                momentum_step(exec, momentum, &gradient, first_moment, second_moment);
                decayed_step(exec, 0.9, 0.1, second_moment, weights);
                momentum_step(exec, plain, &gradient, second_moment, first_moment);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_same_bits("optimiser", exec, found, expected);
                }
            });
        }
    }

    #[test]
    fn first_adamw_step_moves_each_weight_by_the_learning_rate() {
        let adamw = AdamW {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.5,
            step: 1,
            gradient_scale: 1.0,
        };
        let (mut weights, mut first, mut second) = ([1.0, 2.0, -3.0], [0.0; 3], [0.0; 3]);
        let state = AdamWState { first_moment: &mut first, second_moment: &mut second };
        reference::adamw_step(adamw, &mut weights, &[5.0, -0.01, 3e-3], state);
        for (weight, expected) in weights.iter().zip([1.0 * 0.95 - 0.1, 2.0 * 0.95 + 0.1, -3.0 * 0.95 - 0.1])
        {
            assert!((weight - expected).abs() < 1e-5, "{weight} is not {expected}");
        }
    }
}
