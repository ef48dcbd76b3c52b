//! The optimisers' elementwise updates over flat buffers, one pass each.

use crate::{Exec, reference};

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

/// One AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) in PyTorch's order of operations.
/// All slices have the same length.
pub fn adamw_step(
    exec: Exec<'_>,
    adamw: AdamW,
    weights: &mut [f32],
    gradient: &[f32],
    state: AdamWState<'_>,
) {
    let _ = exec;
    reference::optim::adamw_step(adamw, weights, gradient, state);
}

/// Muon's momentum (Jordan et al. 2024): moves `momentum` towards the gradient, and writes the `update` that is
/// to be orthogonalised.
pub fn momentum_step(
    exec: Exec<'_>,
    settings: Momentum,
    gradient: &[f32],
    momentum: &mut [f32],
    update: &mut [f32],
) {
    let _ = exec;
    reference::optim::momentum_step(settings, gradient, momentum, update);
}

/// weights = weights · decay − step · update.
pub fn decayed_step(exec: Exec<'_>, decay: f32, step: f32, update: &[f32], weights: &mut [f32]) {
    let _ = exec;
    reference::optim::decayed_step(decay, step, update, weights);
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
