//! Reference of soft caps: c · tanh(x / c) (Gemma 2, arXiv:2408.00118, section 2).

use super::math::tanh;

/// x becomes cap · tanh(x / cap), elementwise.
pub fn soft_cap(cap: f32, x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = tanh(*x / cap) * cap);
}

/// Turns the gradient of [`soft_cap`]'s result `y`, given as (cap, y), into that of its argument.
pub fn soft_cap_backward((cap, y): (f32, &[f32]), gradient: &mut [f32]) {
    for (gradient, y) in gradient.iter_mut().zip(y) {
        let bent = y / cap;
        *gradient *= bent.mul_add(-bent, 1.0);
    }
}
