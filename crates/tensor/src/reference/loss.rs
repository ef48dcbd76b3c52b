//! Reference of the row-wise softmax losses.

use super::math::{exp, ln};
use super::{lane_sum, maximum};
use crate::kernels::RowTargets;

/// Cross-entropy in nats (the negated log-probability of the target) of each row of `logits` (rows,
/// vocabulary).
pub fn cross_entropy(logits: &[f32], ids: &[u32], losses: &mut [f32]) {
    let vocabulary = logits.len() / ids.len().max(1);
    for (row, loss) in losses.iter_mut().enumerate() {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let greatest = maximum(logits.iter().copied());
        let sum = lane_sum(logits.iter().map(|&logit| exp(logit - greatest)));
        *loss = ln(sum) - (logits[ids[row] as usize] - greatest);
    }
}

/// As [`cross_entropy`], and replaces the logits by their gradient: weight · scale · (softmax − one-hot).
/// Rows of weight 0 take no part: their loss is 0 and their gradient is 0.
pub fn cross_entropy_backward(logits: &mut [f32], targets: RowTargets<'_>, losses: &mut [f32]) {
    let vocabulary = logits.len() / targets.ids.len().max(1);
    for (row, loss) in losses.iter_mut().enumerate() {
        let logits = &mut logits[row * vocabulary..][..vocabulary];
        if targets.weights[row] == 0.0 {
            logits.fill(0.0);
            *loss = 0.0;
            continue;
        }
        let target = targets.ids[row] as usize;
        let greatest = maximum(logits.iter().copied());
        let shifted = logits[target] - greatest;
        logits.iter_mut().for_each(|logit| *logit = exp(*logit - greatest));
        let sum = lane_sum(logits.iter().copied());
        *loss = ln(sum) - shifted;
        let factor = targets.weights[row] * targets.scale;
        let factor_over_sum = factor / sum;
        logits.iter_mut().for_each(|logit| *logit *= factor_over_sum);
        logits[target] -= factor;
    }
}

/// Replaces each row of `logits` (rows, vocabulary) by its log-probabilities.
pub fn log_softmax(vocabulary: usize, logits: &mut [f32]) {
    for row in logits.chunks_exact_mut(vocabulary) {
        let greatest = maximum(row.iter().copied());
        let log_sum = ln(lane_sum(row.iter().map(|&logit| exp(logit - greatest))));
        row.iter_mut().for_each(|logit| *logit = (*logit - greatest) - log_sum);
    }
}
