//! Activations and gated units, forward and backward.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::math;
use super::sweep::{Place, flat_grain, run_rows, sweep};
use crate::reference::activation::{GELU_CUBIC, GELU_LINEAR, NORMAL_DENSITY, SQRT_HALF};
use crate::simd::Vector;
use crate::{Disjoint, Exec, dispatch};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2).
    Silu,
    /// GELU in its tanh approximation (same source).
    GeluTanh,
    /// GELU, exactly: x · Φ(x).
    GeluErf,
}

/// y = activation(x), elementwise.
pub fn activate(exec: Exec<'_>, x: &[f32], activation: Activation, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "as many results as arguments");
    exec.pool.run_slices(y, flat_grain(exec.pool, x.len()), &|first, y, _| {
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { activate_row(exec.isa, activation, &x[first..first + y.len()], y) };
    });
}

/// dx = dy · activation'(x), elementwise; overwrites `dx`.
pub fn activate_backward(exec: Exec<'_>, x: &[f32], activation: Activation, dy: &[f32], dx: &mut [f32]) {
    assert_eq!((x.len(), dy.len()), (dx.len(), dx.len()), "as many gradients as arguments");
    exec.pool.run_slices(dx, flat_grain(exec.pool, x.len()), &|first, dx, _| {
        let range = first..first + dx.len();
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { activate_row_backward(exec.isa, activation, &x[range.clone()], &dy[range], dx) };
    });
}

/// y = activation(gate) · up, for `gate_up` (rows, [gate | up]) and `y` (rows, width).
pub fn gated(exec: Exec<'_>, gate_up: &[f32], activation: Activation, rows: usize, y: &mut [f32]) {
    let width = y.len() / rows.max(1);
    assert_eq!(
        (gate_up.len(), y.len()),
        (rows * 2 * width, rows * width),
        "rows [gate | up] and rows of output"
    );
    let y = Disjoint::new(y);
    run_rows(exec, rows, 3 * width, &|range| {
        let gate_up = &gate_up[range.start * 2 * width..range.end * 2 * width];
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            gated_rows(exec.isa, activation, width, gate_up, y.range(range.start * width..range.end * width))
        };
    });
}

/// Gradient of [`gated`] with respect to `gate_up`, overwriting `d_gate_up`; the inputs are `gate_up` (rows,
/// 2·width) and `dy` (rows, width).
pub fn gated_backward(
    exec: Exec<'_>,
    (gate_up, dy): (&[f32], &[f32]),
    activation: Activation,
    rows: usize,
    d_gate_up: &mut [f32],
) {
    let width = dy.len() / rows.max(1);
    assert_eq!(
        (gate_up.len(), dy.len()),
        (rows * 2 * width, rows * width),
        "rows [gate | up] and rows of gradient"
    );
    assert_eq!(gate_up.len(), d_gate_up.len(), "as many gradients as arguments");
    let d_gate_up = Disjoint::new(d_gate_up);
    run_rows(exec, rows, 5 * width, &|range| {
        let double = range.start * 2 * width..range.end * 2 * width;
        let dy = &dy[range.start * width..range.end * width];
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let d_gate_up = d_gate_up.range(double.clone());
            gated_rows_backward(exec.isa, (activation, width), &gate_up[double], dy, d_gate_up);
        }
    });
}

/// y = silu(gate) · up, for `gate_up` (rows, [gate | up]) and `y` (rows, width).
pub fn swiglu(exec: Exec<'_>, gate_up: &[f32], rows: usize, y: &mut [f32]) {
    gated(exec, gate_up, Activation::Silu, rows, y);
}

/// Gradient of [`swiglu`] with respect to `gate_up`, overwriting `d_gate_up`.
pub fn swiglu_backward(exec: Exec<'_>, gate_up: &[f32], dy: &[f32], rows: usize, d_gate_up: &mut [f32]) {
    gated_backward(exec, (gate_up, dy), Activation::Silu, rows, d_gate_up);
}

dispatch! { fn activate_row(activation: Activation, x: &[f32], y: &mut [f32]) = activate_row_generic; }
dispatch! {
    fn activate_row_backward(activation: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) =
        activate_row_backward_generic;
}
dispatch! {
    fn gated_rows(activation: Activation, width: usize, gate_up: &[f32], y: &mut [f32]) = gated_rows_generic;
}
dispatch! {
    fn gated_rows_backward(kind: (Activation, usize), gate_up: &[f32], dy: &[f32], d_gate_up: &mut [f32]) =
        gated_rows_backward_generic;
}

/// One activation over registers; see [`crate::reference::activation::value_and_slope`].
trait Function {
    unsafe fn value_and_slope<V: Vector>(x: V) -> (V, V);
}

struct Silu;
struct GeluTanh;
struct GeluErf;

impl Function for Silu {
    #[inline(always)]
    unsafe fn value_and_slope<V: Vector>(x: V) -> (V, V) {
        unsafe {
            let gate = math::sigmoid(x);
            let value = x.mul(gate);
            (value, value.fma(V::splat(1.0).sub(gate), gate))
        }
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    unsafe fn value_and_slope<V: Vector>(x: V) -> (V, V) {
        unsafe {
            let half = V::splat(0.5);
            let (linear, square) = (V::splat(GELU_LINEAR), x.mul(x));
            let tanh = math::tanh(x.mul(square.fma(V::splat(GELU_CUBIC), linear)));
            let gate = tanh.fma(half, half);
            let inner_slope = square.fma(V::splat(3.0 * GELU_CUBIC), linear);
            let gate_slope = half.mul(inner_slope).mul(tanh.fma(tanh.neg(), V::splat(1.0)));
            (x.mul(gate), x.fma(gate_slope, gate))
        }
    }
}

impl Function for GeluErf {
    #[inline(always)]
    unsafe fn value_and_slope<V: Vector>(x: V) -> (V, V) {
        unsafe {
            let half = V::splat(0.5);
            let gate = math::erf(x.mul(V::splat(SQRT_HALF))).fma(half, half);
            let density = math::exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(NORMAL_DENSITY));
            (x.mul(gate), x.fma(density, gate))
        }
    }
}

/// Chooses the function once, outside the loops.
macro_rules! with_function {
    ($activation:expr, $kernel:ident :: <$vector:ty>($($argument:expr),*)) => {
        match $activation {
            Activation::Silu => $kernel::<$vector, Silu>($($argument),*),
            Activation::GeluTanh => $kernel::<$vector, GeluTanh>($($argument),*),
            Activation::GeluErf => $kernel::<$vector, GeluErf>($($argument),*),
        }
    };
}

#[inline(always)]
unsafe fn activate_row_generic<V: Vector>(activation: Activation, x: &[f32], y: &mut [f32]) {
    unsafe { with_function!(activation, values::<V>(x, y)) }
}

#[inline(always)]
unsafe fn values<V: Vector, F: Function>(x: &[f32], y: &mut [f32]) {
    let (x_at, y_at) = (x.as_ptr(), y.as_mut_ptr());
    sweep!(V, x.len(), at => unsafe { at.store::<V>(F::value_and_slope(at.load::<V>(x_at)).0, y_at) });
}

#[inline(always)]
unsafe fn activate_row_backward_generic<V: Vector>(
    activation: Activation,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    unsafe { with_function!(activation, slopes::<V>(x, dy, dx)) }
}

#[inline(always)]
unsafe fn slopes<V: Vector, F: Function>(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (x_at, dy_at, dx_at) = (x.as_ptr(), dy.as_ptr(), dx.as_mut_ptr());
    sweep!(V, x.len(), at => unsafe {
        let slope = F::value_and_slope(at.load::<V>(x_at)).1;
        at.store(at.load::<V>(dy_at).mul(slope), dx_at);
    });
}

#[inline(always)]
unsafe fn gated_rows_generic<V: Vector>(
    activation: Activation,
    width: usize,
    gate_up: &[f32],
    y: &mut [f32],
) {
    unsafe { with_function!(activation, gated_values::<V>(width, gate_up, y)) }
}

#[inline(always)]
unsafe fn gated_values<V: Vector, F: Function>(width: usize, gate_up: &[f32], y: &mut [f32]) {
    for row in 0..y.len() / width.max(1) {
        unsafe {
            let gate = gate_up.as_ptr().add(row * 2 * width);
            let (up, y) = (gate.add(width), y.as_mut_ptr().add(row * width));
            sweep!(V, width, at => {
                let value = F::value_and_slope(at.load::<V>(gate)).0;
                at.store(value.mul(at.load(up)), y);
            });
        }
    }
}

#[inline(always)]
unsafe fn gated_rows_backward_generic<V: Vector>(
    (activation, width): (Activation, usize),
    gate_up: &[f32],
    dy: &[f32],
    d_gate_up: &mut [f32],
) {
    unsafe { with_function!(activation, gated_slopes::<V>(width, gate_up, dy, d_gate_up)) }
}

#[inline(always)]
unsafe fn gated_slopes<V: Vector, F: Function>(
    width: usize,
    gate_up: &[f32],
    dy: &[f32],
    d_gate_up: &mut [f32],
) {
    for row in 0..dy.len() / width.max(1) {
        unsafe {
            let gate = gate_up.as_ptr().add(row * 2 * width);
            let (up, dy) = (gate.add(width), dy.as_ptr().add(row * width));
            let d_gate = d_gate_up.as_mut_ptr().add(row * 2 * width);
            let d_up = d_gate.add(width);
            sweep!(V, width, at => {
                let (value, slope) = F::value_and_slope(at.load::<V>(gate));
                let dy = at.load::<V>(dy);
                at.store(dy.mul(at.load(up)).mul(slope), d_gate);
                at.store(dy.mul(value), d_up);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, check_gradient, each_exec, inner, random};
    use crate::reference::activation as reference;

    const ALL: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::GeluErf];

    #[test]
    fn kernels_have_the_bits_of_the_reference() {
        for (rows, width) in [(1, 1), (3, 7), (5, 16), (70, 300), (2, 20_001)] {
            let gate_up: Vec<f32> = random(1, rows * 2 * width).iter().map(|x| 9.0 * x).collect();
            let dy = random(2, rows * width);
            for activation in ALL {
                let (mut y, mut d_gate_up) = (vec![0.0; rows * width], vec![0.0; gate_up.len()]);
                let (mut values, mut slopes) = (vec![0.0; gate_up.len()], vec![0.0; dy.len()]);
                reference::gated(&gate_up, activation, rows, &mut y);
                reference::gated_backward(&gate_up, &dy, activation, rows, &mut d_gate_up);
                reference::activate(&gate_up, activation, &mut values);
                reference::activate_backward(&gate_up[..dy.len()], activation, &dy, &mut slopes);
                each_exec(|exec| {
                    let mut found = vec![9.0; y.len()];
                    gated(exec, &gate_up, activation, rows, &mut found);
                    assert_same_bits("gated", exec, &found, &y);
                    let mut found = vec![9.0; gate_up.len()];
                    gated_backward(exec, (&gate_up, &dy), activation, rows, &mut found);
                    assert_same_bits("gradient of gated", exec, &found, &d_gate_up);
                    activate(exec, &gate_up, activation, &mut found);
                    assert_same_bits("activation", exec, &found, &values);
                    let mut found = vec![9.0; dy.len()];
                    activate_backward(exec, &gate_up[..dy.len()], activation, &dy, &mut found);
                    assert_same_bits("gradient of activation", exec, &found, &slopes);
                });
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let gate_up: Vec<f32> = random(3, 2 * 2 * 9).iter().map(|x| 3.0 * x).collect();
        let dy = random(4, 2 * 9);
        for activation in ALL {
            let mut gradient = vec![0.0; gate_up.len()];
            reference::gated_backward(&gate_up, &dy, activation, 2, &mut gradient);
            check_gradient("gated", &gate_up, &gradient, |gate_up| {
                let mut y = vec![0.0; dy.len()];
                reference::gated(gate_up, activation, 2, &mut y);
                inner(&y, &dy)
            });
        }
    }
}
