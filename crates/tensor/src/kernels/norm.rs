//! Root-mean-square and layer normalisation of rows, and of each head in fused rows.

use crate::{Exec, Heads, reference};

/// Where [`rms_norm_backward`] adds its gradients.
pub struct NormGradients<'a> {
    /// Of the input, (rows, width).
    pub dx: &'a mut [f32],
    /// Of the gain, (width).
    pub dgain: &'a mut [f32],
}

/// Parameters of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// (width).
    pub gain: &'a [f32],
    /// (width).
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Where [`layer_norm_backward`] adds its gradients.
pub struct LayerNormGradients<'a> {
    /// Of the input, (rows, width).
    pub dx: &'a mut [f32],
    /// Of the gain, (width).
    pub dgain: &'a mut [f32],
    /// Of the bias, (width).
    pub dbias: &'a mut [f32],
}

/// Parameters of the norms of query and key heads.
#[derive(Clone, Copy, Debug)]
pub struct QkGains<'a> {
    /// Gain of the query heads, (head_dim).
    pub query: &'a [f32],
    /// Gain of the key heads, (head_dim).
    pub key: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Where [`qk_norm_backward`] puts its gradients.
pub struct QkNormGradients<'a> {
    /// Of the input, overwritten, (tokens, fused width).
    pub dx: &'a mut [f32],
    /// Of the query gain, added to, (head_dim).
    pub dquery: &'a mut [f32],
    /// Of the key gain, added to, (head_dim).
    pub dkey: &'a mut [f32],
}

/// y = x / sqrt(mean(x²) + eps) · gain, for `x` and `y` of shape (rows, width) and `gain` of (width)
/// (Zhang and Sennrich 2019, arXiv:1910.07467).
pub fn rms_norm(exec: Exec<'_>, x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let _ = exec;
    reference::norm::rms_norm(x, gain, eps, y);
}

/// sum = x + residual and y = rms_norm(sum) in one pass, with the same bits as the two.
pub fn add_rms_norm(
    exec: Exec<'_>,
    inputs: (&[f32], &[f32]),
    norm: (&[f32], f32),
    sum: &mut [f32],
    y: &mut [f32],
) {
    let _ = exec;
    reference::norm::add_rms_norm(inputs, norm, sum, y);
}

/// Adds the gradients of [`rms_norm`], whose `norm` is (gain, eps), to `gradients`. The gain's is a chain over
/// ascending rows that continues from what the buffer holds.
pub fn rms_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    norm: (&[f32], f32),
    dy: &[f32],
    gradients: NormGradients<'_>,
) {
    let _ = exec;
    reference::norm::rms_norm_backward(x, norm, dy, gradients);
}

/// y = (x − mean(x)) / sqrt(variance(x) + eps) · gain + bias, for `x` and `y` of shape (rows, width)
/// (Ba et al. 2016, arXiv:1607.06450).
pub fn layer_norm(exec: Exec<'_>, x: &[f32], norm: LayerNorm<'_>, y: &mut [f32]) {
    let _ = exec;
    reference::norm::layer_norm(x, norm, y);
}

/// Adds the gradients of [`layer_norm`] to `gradients`.
pub fn layer_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    norm: LayerNorm<'_>,
    dy: &[f32],
    gradients: LayerNormGradients<'_>,
) {
    let _ = exec;
    reference::norm::layer_norm_backward(x, norm, dy, gradients);
}

/// [`rms_norm`] of each query head and key head of the fused rows `x`; value heads are copied.
/// `x` and `y` have shape (tokens, (heads + 2·kv_heads)·head_dim).
pub fn qk_norm(exec: Exec<'_>, x: &[f32], gains: QkGains<'_>, heads: Heads, y: &mut [f32]) {
    let _ = exec;
    reference::norm::qk_norm(x, gains, heads, y);
}

/// Backward of [`qk_norm`]: overwrites `gradients.dx`, and continues the gains' gradients, which are chains
/// over ascending tokens and, within a token, ascending heads.
pub fn qk_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    norm: (QkGains<'_>, Heads),
    dy: &[f32],
    gradients: QkNormGradients<'_>,
) {
    let _ = exec;
    reference::norm::qk_norm_backward(x, norm, dy, gradients);
}
