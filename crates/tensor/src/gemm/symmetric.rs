//! Products that are symmetric: half of the outputs are computed, the others are their mirror images. The chain of output
//! (i, j) multiplies the same pairs in the same order as that of (j, i), so the bits are those of the whole product.
#![allow(unsafe_code)]

use super::{Into, MatMut, MatRef, gemm};
use crate::Exec;
use std::ops::Range;

/// Rows that are multiplied at once: enough to make good use of a packed panel, few enough to leave out nearly half.
const BLOCK_ROWS: usize = 128;
/// Rows that are mirrored at once: a cache line of columns.
const MIRROR_ROWS: usize = 16;

/// C = A · B, (side, side), of which the caller knows that it is symmetric: B = Aᵀ, or A = B = Aᵀ.
///
/// # Panics
/// When the sizes do not agree.
pub fn gemm_symmetric(exec: Exec<'_>, a: MatRef<'_>, b: MatRef<'_>, c: &mut [f32]) {
    let side = a.rows();
    assert_eq!((a.columns(), b.columns(), c.len()), (b.rows(), side, side * side), "A · B is (side, side)");
    for start in (0..side).step_by(BLOCK_ROWS) {
        let end = side.min(start + BLOCK_ROWS);
        let (left, right) = (a.part(start..end, 0..a.columns()), b.part(0..b.rows(), 0..end));
        let block = MatMut::with_row_stride(&mut c[start * side..], end - start, end, side);
        gemm(exec, left, right, block, Into::Overwrite);
    }
    mirror(exec, side, c);
}

/// Copies what lies below the diagonal of `c` (side, side) to above it.
fn mirror(exec: Exec<'_>, side: usize, c: &mut [f32]) {
    /// The address of a matrix whose parts several threads write.
    struct Shared(*mut f32);
    // SAFETY: threads write different elements, and read only such as nobody writes (see below).
    unsafe impl Sync for Shared {}
    impl Shared {
        fn at(&self, element: usize) -> *mut f32 {
            self.0.wrapping_add(element)
        }
    }
    assert_eq!(c.len(), side * side, "a square matrix");
    let c = Shared(c.as_mut_ptr());
    exec.pool().run_ranges(side, MIRROR_ROWS, &|rows: Range<usize>, _| {
        for from in rows.start..side {
            for to in rows.start..rows.end.min(from) {
                // SAFETY: `to` < `from` < `side`, so both elements lie within the matrix; the one that is read lies
                // below the diagonal, where nobody writes, and the one that is written in row `to`, which is of this
                // task's alone.
                unsafe { *c.at(to * side + from) = *c.at(from * side + to) };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};

    #[test]
    fn half_a_product_has_the_bits_of_the_whole() {
        for (side, inner) in [(1, 1), (15, 40), (129, 33), (300, 7)] {
            let x = random(1, side * inner);
            let (wide, tall) = (MatRef::new(&x, side, inner), MatRef::new(&x, inner, side));
            each_exec(|exec| {
                for (a, b) in [(wide, wide.t()), (tall.t(), tall)] {
                    let (mut expected, mut found) = (vec![9.0; side * side], vec![8.0; side * side]);
                    gemm(exec, a, b, MatMut::new(&mut expected, side, side), Into::Overwrite);
                    gemm_symmetric(exec, a, b, &mut found);
                    assert_same_bits("product with its transpose", exec, &found, &expected);
                    let gram = MatRef::new(&found, side, side);
                    let mut square = vec![7.0; side * side];
                    gemm(exec, gram, gram, MatMut::new(&mut expected, side, side), Into::Overwrite);
                    gemm_symmetric(exec, gram, gram, &mut square);
                    assert_same_bits("square", exec, &square, &expected);
                }
            });
        }
    }
}
