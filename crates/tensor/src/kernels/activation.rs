//! Activations and gated units, forward and backward.

use crate::{Exec, reference};

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
    let _ = exec;
    reference::activation::activate(x, activation, y);
}

/// dx = dy · activation'(x), elementwise; overwrites `dx`.
pub fn activate_backward(exec: Exec<'_>, x: &[f32], activation: Activation, dy: &[f32], dx: &mut [f32]) {
    let _ = exec;
    reference::activation::activate_backward(x, activation, dy, dx);
}

/// y = activation(gate) · up, for `gate_up` (rows, [gate | up]) and `y` (rows, width).
pub fn gated(exec: Exec<'_>, gate_up: &[f32], activation: Activation, rows: usize, y: &mut [f32]) {
    let _ = exec;
    reference::activation::gated(gate_up, activation, rows, y);
}

/// Gradient of [`gated`] with respect to `gate_up`, overwriting `d_gate_up`; `inputs` are `gate_up` (rows, 2·width)
/// and `dy` (rows, width).
pub fn gated_backward(
    exec: Exec<'_>,
    (gate_up, dy): (&[f32], &[f32]),
    activation: Activation,
    rows: usize,
    d_gate_up: &mut [f32],
) {
    let _ = exec;
    reference::activation::gated_backward(gate_up, dy, activation, rows, d_gate_up);
}

/// y = silu(gate) · up, for `gate_up` (rows, [gate | up]) and `y` (rows, width).
pub fn swiglu(exec: Exec<'_>, gate_up: &[f32], rows: usize, y: &mut [f32]) {
    gated(exec, gate_up, Activation::Silu, rows, y);
}

/// Gradient of [`swiglu`] with respect to `gate_up`, overwriting `d_gate_up`.
pub fn swiglu_backward(exec: Exec<'_>, gate_up: &[f32], dy: &[f32], rows: usize, d_gate_up: &mut [f32]) {
    gated_backward(exec, (gate_up, dy), Activation::Silu, rows, d_gate_up);
}
