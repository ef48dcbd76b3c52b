//! A right-hand matrix packed once and used for many products: weights.

use super::matrix::{Into, MatMut, MatRef};
use super::pack::{Part, pack_b};
use super::tile::kernels;
use super::{Operand, multiply};
use crate::{AlignedBuffer, Exec};

/// B of a product, in the panels that the kernels read. Holds K · N floats, N rounded up to a whole panel.
pub struct PackedMatrix {
    panels: AlignedBuffer,
    rows: usize,
    columns: usize,
    /// Columns of a panel: two registers of the instruction set that it was packed for.
    width: usize,
}

impl PackedMatrix {
    /// Packs `b` (K, N) for the instruction set of `exec`.
    pub fn pack(exec: Exec<'_>, b: MatRef<'_>) -> PackedMatrix {
        let width = kernels(exec.isa).columns;
        let length = b.rows * b.columns.next_multiple_of(width);
        let mut packed =
            PackedMatrix { panels: AlignedBuffer::zeroed(length), rows: b.rows, columns: b.columns, width };
        packed.refill(exec, b);
        packed
    }

    /// Packs another matrix of the same shape in place, allocating nothing.
    ///
    /// # Panics
    /// The shape or the instruction set is another one.
    pub fn refill(&mut self, exec: Exec<'_>, b: MatRef<'_>) {
        let PackedMatrix { rows, columns, width, .. } = *self;
        assert!(
            (b.rows, b.columns, kernels(exec.isa).columns) == (rows, columns, width),
            "a packed {rows} × {columns} matrix takes no other shape or instruction set"
        );
        let panel_length = rows * width;
        if panel_length == 0 {
            return;
        }
        exec.pool.run_slices(&mut self.panels, panel_length, &|first, panel, _| {
            let first = first / panel_length * width;
            let part = Part { depth: 0..rows, columns: first..columns.min(first + width), width };
            pack_b(exec.isa, b, &part, panel_length, panel);
        });
    }

    /// K: rows of B.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// N: columns of B.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory that it holds.
    pub fn bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }
}

/// [`gemm`](super::gemm) with B packed beforehand: the same bits.
///
/// # Panics
/// The shapes do not fit each other, or B was packed for another width of vector.
pub fn gemm_packed(exec: Exec<'_>, a: MatRef<'_>, b: &PackedMatrix, c: MatMut<'_>, into: Into) {
    assert!(
        a.columns == b.rows && a.rows == c.rows && b.columns == c.columns,
        "a product of {} × {} and packed {} × {} does not fit {} × {}",
        a.rows,
        a.columns,
        b.rows,
        b.columns,
        c.rows,
        c.columns
    );
    assert!(b.width == kernels(exec.isa).columns, "B was packed for another instruction set");
    multiply(exec, a, Operand::Packed(&b.panels), c, into);
}
