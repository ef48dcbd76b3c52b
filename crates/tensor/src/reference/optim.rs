//! Reference of the optimisers' elementwise updates.

use crate::kernels::{AdamW, AdamWState, Momentum};

/// One AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) in PyTorch's order of
/// operations.
pub fn adamw_step(adamw: AdamW, weights: &mut [f32], gradient: &[f32], state: AdamWState<'_>) {
    let c = adamw.constants();
    for (index, weight) in weights.iter_mut().enumerate() {
        let gradient = gradient[index] * c.gradient_scale;
        let (first, second) = (&mut state.first_moment[index], &mut state.second_moment[index]);
        *first = c.first_weight.mul_add(gradient - *first, *first);
        *second = (c.second_weight * gradient).mul_add(gradient, *second * c.beta2);
        let denominator = second.sqrt() / c.second_correction_sqrt + c.eps;
        *weight = (*first / denominator).mul_add(-c.step_size, *weight * c.decay);
    }
}

/// Muon's momentum (Jordan et al. 2024): moves `momentum` towards the gradient, and writes the update that is
/// to be orthogonalised.
pub fn momentum_step(settings: Momentum, gradient: &[f32], momentum: &mut [f32], update: &mut [f32]) {
    let weight = 1.0 - settings.beta;
    for (index, update) in update.iter_mut().enumerate() {
        let gradient = gradient[index] * settings.gradient_scale;
        let moved = weight.mul_add(gradient - momentum[index], momentum[index]);
        momentum[index] = moved;
        *update = if settings.nesterov { weight.mul_add(gradient - moved, moved) } else { moved };
    }
}

/// weights = weights · decay − step · update.
pub fn decayed_step(decay: f32, step: f32, update: &[f32], weights: &mut [f32]) {
    for (weight, &update) in weights.iter_mut().zip(update) {
        *weight = update.mul_add(-step, *weight * decay);
    }
}
