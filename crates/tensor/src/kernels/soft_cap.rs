//! Soft caps: c · tanh(x / c) (Gemma 2, arXiv:2408.00118, section 2).

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::math;
use super::sweep::{Place, flat_grain, sweep};
use crate::simd::Vector;
use crate::{Exec, dispatch};

/// x becomes cap · tanh(x / cap), elementwise.
pub fn soft_cap(exec: Exec<'_>, cap: f32, x: &mut [f32]) {
    let grain = flat_grain(exec.pool, x.len());
    exec.pool.run_slices(x, grain, &|_, x, _| {
        // SAFETY: an `Exec` has an available instruction set.
        unsafe { cap_all(exec.isa, cap, x) };
    });
}

/// Turns the gradient of [`soft_cap`]'s result `y`, given as (cap, y), into that of its argument: times
/// 1 − (y / cap)².
pub fn soft_cap_backward(exec: Exec<'_>, (cap, y): (f32, &[f32]), gradient: &mut [f32]) {
    assert_eq!(y.len(), gradient.len(), "as many gradients as results");
    let grain = flat_grain(exec.pool, y.len());
    exec.pool.run_slices(gradient, grain, &|first, gradient, _| {
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { cap_all_backward(exec.isa, cap, &y[first..first + gradient.len()], gradient) };
    });
}

dispatch! { fn cap_all(cap: f32, x: &mut [f32]) = cap_all_generic; }
dispatch! { fn cap_all_backward(cap: f32, y: &[f32], gradient: &mut [f32]) = cap_all_backward_generic; }

#[inline(always)]
unsafe fn cap_all_generic<V: Vector>(cap: f32, x: &mut [f32]) {
    let (len, x) = (x.len(), x.as_mut_ptr());
    sweep!(V, len, at => unsafe {
        let capped = math::tanh(at.load::<V>(x).div(V::splat(cap))).mul(V::splat(cap));
        at.store(capped, x);
    });
}

#[inline(always)]
unsafe fn cap_all_backward_generic<V: Vector>(cap: f32, y: &[f32], gradient: &mut [f32]) {
    let (y, len, gradient) = (y.as_ptr(), gradient.len(), gradient.as_mut_ptr());
    sweep!(V, len, at => unsafe {
        let bent = at.load::<V>(y).div(V::splat(cap));
        let slope = bent.fma(bent.neg(), V::splat(1.0));
        at.store(at.load::<V>(gradient).mul(slope), gradient);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, check_gradient, each_exec, inner, random};
    use crate::reference::soft_cap as reference;

    #[test]
    fn caps_have_the_bits_of_the_reference() {
        for len in [1, 15, 64, 1003, 40_001] {
            let x: Vec<f32> = random(1, len).iter().map(|x| 40.0 * x).collect();
            let mut y = x.clone();
            reference::soft_cap(30.0, &mut y);
            assert!(y.iter().all(|y| y.abs() <= 30.0));
            let mut dx = random(2, len);
            let dy = dx.clone();
            reference::soft_cap_backward((30.0, &y), &mut dx);
            each_exec(|exec| {
                let mut found = x.clone();
                soft_cap(exec, 30.0, &mut found);
                assert_same_bits("soft cap", exec, &found, &y);
                let mut found = dy.clone();
                soft_cap_backward(exec, (30.0, &y), &mut found);
                assert_same_bits("gradient of the soft cap", exec, &found, &dx);
            });
        }
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let x: Vec<f32> = random(3, 24).iter().map(|x| 2.0 * x).collect();
        let dy = random(4, 24);
        let capped = |x: &[f32]| {
            let mut y = x.to_vec();
            reference::soft_cap(3.0, &mut y);
            y
        };
        let mut dx = dy.clone();
        reference::soft_cap_backward((3.0, &capped(&x)), &mut dx);
        check_gradient("soft cap", &x, &dx, |x| inner(&capped(x), &dy));
    }
}
