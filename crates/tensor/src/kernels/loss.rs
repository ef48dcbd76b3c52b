//! Row-wise softmax losses.

use crate::{Exec, reference};

/// What each row of logits should predict.
#[derive(Clone, Copy, Debug)]
pub struct RowTargets<'a> {
    /// The target of each row, (rows).
    pub ids: &'a [u32],
    /// The weight of each row's loss, (rows); a row of weight 0 takes no part.
    pub weights: &'a [f32],
    /// What every gradient is multiplied with.
    pub scale: f32,
}

/// Cross-entropy in nats (the negated log-probability of the target) of each row of `logits` (rows, vocabulary).
pub fn cross_entropy(exec: Exec<'_>, logits: &[f32], ids: &[u32], losses: &mut [f32]) {
    let _ = exec;
    reference::loss::cross_entropy(logits, ids, losses);
}

/// As [`cross_entropy`] with the same bits, and replaces the logits by their gradient:
/// weight · scale · (softmax − one-hot). Rows of weight 0 take no part: their loss is 0 and their gradient is 0.
pub fn cross_entropy_backward(
    exec: Exec<'_>,
    logits: &mut [f32],
    targets: RowTargets<'_>,
    losses: &mut [f32],
) {
    let _ = exec;
    reference::loss::cross_entropy_backward(logits, targets, losses);
}

/// Replaces each row of `logits` (rows, vocabulary) by its log-probabilities; a target's equals the negated
/// [`cross_entropy`] bit for bit.
pub fn log_softmax(exec: Exec<'_>, vocabulary: usize, logits: &mut [f32]) {
    let _ = exec;
    reference::loss::log_softmax(vocabulary, logits);
}
