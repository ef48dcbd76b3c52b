//! Elementwise arithmetic, biases, gathering and scattering of rows.

use crate::{Exec, reference};

pub use gather_rows as embedding;
pub use scatter_add_rows as embedding_backward;

/// y = a + b.
pub fn add(exec: Exec<'_>, a: &[f32], b: &[f32], y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::add(a, b, y);
}

/// y += x.
pub fn add_into(exec: Exec<'_>, x: &[f32], y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::add_into(x, y);
}

/// y += factor · x, as one fused multiply-add.
pub fn scaled_add(exec: Exec<'_>, factor: f32, x: &[f32], y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::scaled_add(factor, x, y);
}

/// y *= factor.
pub fn scale(exec: Exec<'_>, factor: f32, y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::scale(factor, y);
}

/// y = a · b.
pub fn multiply(exec: Exec<'_>, a: &[f32], b: &[f32], y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::multiply(a, b, y);
}

/// Adds `bias` (width) to every row of `y` (rows, width).
pub fn add_bias(exec: Exec<'_>, y: &mut [f32], bias: &[f32]) {
    let _ = exec;
    reference::elementwise::add_bias(y, bias);
}

/// Adds the rows of `x` (rows, width) to `sums` (width), ascending: the gradient of a bias.
pub fn column_sums(exec: Exec<'_>, x: &[f32], sums: &mut [f32]) {
    let _ = exec;
    reference::elementwise::column_sums(x, sums);
}

/// Row i of `y` (ids, width) = row `ids[i]` of `table` (entries, width): the embedding.
pub fn gather_rows(exec: Exec<'_>, table: &[f32], ids: &[u32], y: &mut [f32]) {
    let _ = exec;
    reference::elementwise::gather_rows(table, ids, y);
}

/// Row `ids[i]` of `table` (entries, width) += row i of `x` (ids, width), in ascending i: the gradient of the
/// embedding.
pub fn scatter_add_rows(exec: Exec<'_>, ids: &[u32], x: &[f32], table: &mut [f32]) {
    let _ = exec;
    reference::elementwise::scatter_add_rows(ids, x, table);
}
