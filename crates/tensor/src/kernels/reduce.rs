//! Reductions over a flat buffer. A sum runs in blocks of [`SUM_BLOCK`] elements, each in sixteen lanes, the
//! block sums added in ascending order as f64.

use crate::{Exec, reference};

/// Elements of one block of a long sum.
pub const SUM_BLOCK: usize = 4096;

/// Σ x.
pub fn sum(exec: Exec<'_>, x: &[f32]) -> f64 {
    let _ = exec;
    reference::reduce::sum(x)
}

/// Σ x / length; not a number for an empty buffer.
pub fn mean(exec: Exec<'_>, x: &[f32]) -> f64 {
    sum(exec, x) / x.len() as f64
}

/// Σ x².
pub fn sum_squares(exec: Exec<'_>, x: &[f32]) -> f64 {
    let _ = exec;
    reference::reduce::sum_squares(x)
}

/// max |x|, 0 for an empty buffer. Elements that are not numbers are passed over.
pub fn max_abs(exec: Exec<'_>, x: &[f32]) -> f32 {
    let _ = exec;
    reference::reduce::max_abs(x)
}

/// Whether no element is infinite or not a number.
pub fn all_finite(exec: Exec<'_>, x: &[f32]) -> bool {
    let _ = exec;
    reference::reduce::all_finite(x)
}
