//! The matrix product in three loops: what every fast path must equal bit for bit.

use super::matrix::{Into, MatMut, MatRef};

/// C = A · B or C += A · B, each output one chain of fused multiply-adds over ascending k.
pub fn gemm(a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, into: Into) {
    for row in 0..c.rows {
        for column in 0..c.columns {
            let output = &mut c.data[row * c.row_stride + column];
            let mut sum = if into == Into::Accumulate { *output } else { 0.0 };
            for k in 0..a.columns {
                sum = a.at(row, k).mul_add(b.at(k, column), sum);
            }
            *output = sum;
        }
    }
}
