//! Reference of the reductions over a flat buffer: blocks of 4,096 elements in sixteen lanes, the block sums
//! added in ascending order as `f64`.

use super::{lane_dot, lane_sum};
use crate::kernels::SUM_BLOCK;

/// Σ x.
pub fn sum(x: &[f32]) -> f64 {
    x.chunks(SUM_BLOCK).map(|block| f64::from(lane_sum(block.iter().copied()))).sum()
}

/// Σ x².
pub fn sum_squares(x: &[f32]) -> f64 {
    x.chunks(SUM_BLOCK).map(|block| f64::from(lane_dot(block.iter().map(|&v| (v, v))))).sum()
}

/// max |x|, 0 for an empty buffer. Elements that are not numbers are passed over.
pub fn max_abs(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |greatest, value| if value.abs() > greatest { value.abs() } else { greatest })
}

/// Whether no element is infinite or not a number.
pub fn all_finite(x: &[f32]) -> bool {
    x.iter().all(|value| value.is_finite())
}
