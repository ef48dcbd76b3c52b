//! Reference of the normalisations: rows are reduced in sixteen lanes, the gradients of gain and bias are
//! chains over ascending rows that continue from what the buffers hold.

use super::{lane_dot, lane_sum};
use crate::Heads;
use crate::kernels::{LayerNorm, LayerNormGradients, NormGradients, QkGains, QkNormGradients};

/// y = x / sqrt(mean(x²) + eps) · gain, for `x` and `y` of shape (rows, width).
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let width = gain.len();
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let inverse = inverse_rms(x, eps);
        for (index, y) in y.iter_mut().enumerate() {
            *y = (x[index] * inverse) * gain[index];
        }
    }
}

/// sum = x + residual, y = norm(sum).
pub fn add_rms_norm(
    (x, residual): (&[f32], &[f32]),
    (gain, eps): (&[f32], f32),
    sum: &mut [f32],
    y: &mut [f32],
) {
    for (index, sum) in sum.iter_mut().enumerate() {
        *sum = x[index] + residual[index];
    }
    rms_norm(sum, gain, eps, y);
}

/// Adds the gradients of [`rms_norm`] to `gradients`.
pub fn rms_norm_backward(x: &[f32], (gain, eps): (&[f32], f32), dy: &[f32], gradients: NormGradients<'_>) {
    let width = gain.len();
    for (row, x) in x.chunks_exact(width).enumerate() {
        let dy = &dy[row * width..][..width];
        let dx = &mut gradients.dx[row * width..][..width];
        let inverse = inverse_rms(x, eps);
        let mean = lane_dot((0..width).map(|i| (dy[i] * gain[i], x[i] * inverse))) / width as f32;
        for i in 0..width {
            let normalised = x[i] * inverse;
            let upstream = dy[i] * gain[i];
            dx[i] = inverse.mul_add(normalised.mul_add(-mean, upstream), dx[i]);
            gradients.dgain[i] = dy[i].mul_add(normalised, gradients.dgain[i]);
        }
    }
}

/// y = (x − mean(x)) / sqrt(variance(x) + eps) · gain + bias, for `x` and `y` of shape (rows, width).
pub fn layer_norm(x: &[f32], norm: LayerNorm<'_>, y: &mut [f32]) {
    let width = norm.gain.len();
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let (mean, inverse) = moments(x, norm.eps);
        for (index, y) in y.iter_mut().enumerate() {
            *y = ((x[index] - mean) * inverse).mul_add(norm.gain[index], norm.bias[index]);
        }
    }
}

/// Adds the gradients of [`layer_norm`] to `gradients`.
pub fn layer_norm_backward(x: &[f32], norm: LayerNorm<'_>, dy: &[f32], gradients: LayerNormGradients<'_>) {
    let width = norm.gain.len();
    for (row, x) in x.chunks_exact(width).enumerate() {
        let dy = &dy[row * width..][..width];
        let dx = &mut gradients.dx[row * width..][..width];
        let (mean, inverse) = moments(x, norm.eps);
        let upstream_mean = lane_sum((0..width).map(|index| dy[index] * norm.gain[index])) / width as f32;
        let products = (0..width).map(|index| (dy[index] * norm.gain[index], (x[index] - mean) * inverse));
        let product_mean = lane_dot(products) / width as f32;
        for index in 0..width {
            let normalised = (x[index] - mean) * inverse;
            let centred = dy[index] * norm.gain[index] - upstream_mean;
            dx[index] = inverse.mul_add(normalised.mul_add(-product_mean, centred), dx[index]);
            gradients.dgain[index] = dy[index].mul_add(normalised, gradients.dgain[index]);
            gradients.dbias[index] += dy[index];
        }
    }
}

/// Root-mean-square norm of each query head and key head of the fused rows `x`; value heads are copied.
/// `x` and `y` have shape (tokens, (heads + 2·kv_heads)·head_dim).
pub fn qk_norm(x: &[f32], gains: QkGains<'_>, heads: Heads, y: &mut [f32]) {
    let query_width = heads.heads * heads.head_dim;
    let key_width = heads.kv_heads * heads.head_dim;
    for (x, y) in x.chunks_exact(heads.fused_width()).zip(y.chunks_exact_mut(heads.fused_width())) {
        let (x_query, x_rest) = x.split_at(query_width);
        let (y_query, y_rest) = y.split_at_mut(query_width);
        rms_norm(x_query, gains.query, gains.eps, y_query);
        rms_norm(&x_rest[..key_width], gains.key, gains.eps, &mut y_rest[..key_width]);
        y_rest[key_width..].copy_from_slice(&x_rest[key_width..]);
    }
}

/// Backward of [`qk_norm`]: overwrites `gradients.dx`, and continues the gains' gradients, which are chains
/// over ascending tokens and, within a token, ascending heads.
pub fn qk_norm_backward(
    x: &[f32],
    (gains, heads): (QkGains<'_>, Heads),
    dy: &[f32],
    gradients: QkNormGradients<'_>,
) {
    let query_width = heads.heads * heads.head_dim;
    let key_width = heads.kv_heads * heads.head_dim;
    gradients.dx.copy_from_slice(dy);
    for (row, x) in x.chunks_exact(heads.fused_width()).enumerate() {
        let dy = &dy[row * heads.fused_width()..][..heads.fused_width()];
        let dx = &mut gradients.dx[row * heads.fused_width()..][..query_width + key_width];
        dx.fill(0.0);
        let (dx_query, dx_key) = dx.split_at_mut(query_width);
        let query = NormGradients { dx: dx_query, dgain: gradients.dquery };
        rms_norm_backward(&x[..query_width], (gains.query, gains.eps), &dy[..query_width], query);
        let (x, dy) = (&x[query_width..][..key_width], &dy[query_width..][..key_width]);
        let key = NormGradients { dx: dx_key, dgain: gradients.dkey };
        rms_norm_backward(x, (gains.key, gains.eps), dy, key);
    }
}

/// 1 / sqrt(mean(x²) + eps).
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mean = lane_dot(x.iter().map(|&value| (value, value))) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

/// The mean, and 1 / sqrt(variance + eps) with the variance about that mean.
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = lane_sum(x.iter().copied()) / x.len() as f32;
    let variance = lane_dot(x.iter().map(|&value| (value - mean, value - mean))) / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}
