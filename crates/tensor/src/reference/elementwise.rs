//! Reference of the elementwise, bias, gather and scatter kernels.

/// y = a + b.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    for (index, y) in y.iter_mut().enumerate() {
        *y = a[index] + b[index];
    }
}

/// y += x.
pub fn add_into(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// y += factor · x, as one fused multiply-add.
pub fn scaled_add(factor: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = factor.mul_add(x, *y);
    }
}

/// y *= factor.
pub fn scale(factor: f32, y: &mut [f32]) {
    for y in y.iter_mut() {
        *y *= factor;
    }
}

/// y = a · b.
pub fn multiply(a: &[f32], b: &[f32], y: &mut [f32]) {
    for (index, y) in y.iter_mut().enumerate() {
        *y = a[index] * b[index];
    }
}

/// Adds `bias` (width) to every row of `y` (rows, width).
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        add_into(bias, row);
    }
}

/// Adds the rows of `x` (rows, width) to `sums` (width), ascending: the gradient of a bias.
pub fn column_sums(x: &[f32], sums: &mut [f32]) {
    for row in x.chunks_exact(sums.len()) {
        add_into(row, sums);
    }
}

/// Row i of `y` (ids, width) = row `ids[i]` of `table` (entries, width).
pub fn gather_rows(table: &[f32], ids: &[u32], y: &mut [f32]) {
    let width = y.len() / ids.len().max(1);
    for (index, &id) in ids.iter().enumerate() {
        y[index * width..][..width].copy_from_slice(&table[id as usize * width..][..width]);
    }
}

/// Row `ids[i]` of `table` (entries, width) += row i of `x` (ids, width), in ascending i.
pub fn scatter_add_rows(ids: &[u32], x: &[f32], table: &mut [f32]) {
    let width = x.len() / ids.len().max(1);
    for (index, &id) in ids.iter().enumerate() {
        add_into(&x[index * width..][..width], &mut table[id as usize * width..][..width]);
    }
}
