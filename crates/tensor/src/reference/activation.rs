//! Reference of the activations and gated units.

use super::math;
use crate::kernels::Activation;

/// √(2/π), Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
pub const GELU_LINEAR: f32 = 0.797_884_6;
/// √(2/π) · 0.044715, same source.
pub const GELU_CUBIC: f32 = 0.035_677_407;
/// 1/√2.
pub const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1/√(2π).
pub const NORMAL_DENSITY: f32 = 0.398_942_3;

/// The activation's value at `x`.
pub fn value(activation: Activation, x: f32) -> f32 {
    value_and_slope(activation, x).0
}

/// The activation's value and derivative at `x`.
pub fn value_and_slope(activation: Activation, x: f32) -> (f32, f32) {
    match activation {
        Activation::Silu => {
            let gate = math::sigmoid(x);
            let value = x * gate;
            (value, value.mul_add(1.0 - gate, gate))
        }
        Activation::GeluTanh => {
            let square = x * x;
            let tanh = math::tanh(x * square.mul_add(GELU_CUBIC, GELU_LINEAR));
            let gate = tanh.mul_add(0.5, 0.5);
            let inner_slope = square.mul_add(3.0 * GELU_CUBIC, GELU_LINEAR);
            let gate_slope = (0.5 * inner_slope) * tanh.mul_add(-tanh, 1.0);
            (x * gate, x.mul_add(gate_slope, gate))
        }
        Activation::GeluErf => {
            let gate = math::erf(x * SQRT_HALF).mul_add(0.5, 0.5);
            let density = math::exp((x * x) * -0.5) * NORMAL_DENSITY;
            (x * gate, x.mul_add(density, gate))
        }
    }
}

/// y = activation(x), elementwise.
pub fn activate(x: &[f32], activation: Activation, y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = value(activation, x);
    }
}

/// dx = dy · activation'(x), elementwise.
pub fn activate_backward(x: &[f32], activation: Activation, dy: &[f32], dx: &mut [f32]) {
    for (index, dx) in dx.iter_mut().enumerate() {
        *dx = dy[index] * value_and_slope(activation, x[index]).1;
    }
}

/// y = activation(gate) · up, for `gate_up` (rows, [gate | up] of 2·width) and `y` (rows, width).
pub fn gated(gate_up: &[f32], activation: Activation, rows: usize, y: &mut [f32]) {
    let width = y.len() / rows.max(1);
    for (row, y) in y.chunks_exact_mut(width.max(1)).enumerate() {
        let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
        for (index, y) in y.iter_mut().enumerate() {
            *y = value(activation, gate[index]) * up[index];
        }
    }
}

/// Gradient of [`gated`] with respect to `gate_up`, overwriting `d_gate_up` (rows, 2·width).
pub fn gated_backward(
    gate_up: &[f32],
    dy: &[f32],
    activation: Activation,
    rows: usize,
    d_gate_up: &mut [f32],
) {
    let width = dy.len() / rows.max(1);
    for (row, dy) in dy.chunks_exact(width.max(1)).enumerate() {
        let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
        let (d_gate, d_up) = d_gate_up[row * 2 * width..][..2 * width].split_at_mut(width);
        for index in 0..width {
            let (value, slope) = value_and_slope(activation, gate[index]);
            d_gate[index] = (dy[index] * up[index]) * slope;
            d_up[index] = dy[index] * value;
        }
    }
}
