//! Views of matrices in slices: what a product reads and writes. Must not know how it is computed.

use std::ops::Range;

/// A matrix that is read: element (r, c) is `data[r · row_stride + c · column_stride]`; one of the strides is 1.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `data` as `rows` × `columns`, row after row without gaps.
    ///
    /// # Panics
    /// `data` is shorter than `rows · columns`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> MatRef<'a> {
        MatRef::with_row_stride(data, rows, columns, columns)
    }

    /// `data` as `rows` × `columns`, each row `row_stride` ≥ `columns` elements after the one before.
    ///
    /// # Panics
    /// `data` is too short, or the rows overlap.
    pub fn with_row_stride(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> MatRef<'a> {
        check(data.len(), rows, columns, row_stride);
        MatRef { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose: the same data, `columns` × `rows`.
    pub fn t(self) -> MatRef<'a> {
        MatRef {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The part `rows` × `columns`; an empty part holds no data.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> MatRef<'a> {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "a part lies within its matrix");
        let first = rows.start * self.row_stride + columns.start * self.column_stride;
        let data = self.data.get(first..).unwrap_or_default();
        MatRef { data, rows: rows.len(), columns: columns.len(), ..self }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Element (`row`, `column`).
    ///
    /// # Panics
    /// Outside the matrix.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        assert!(row < self.rows && column < self.columns, "an element lies within its matrix");
        self.data[row * self.row_stride + column * self.column_stride]
    }
}

/// A matrix that is written: element (r, c) is `data[r · row_stride + c]`.
pub struct MatMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `data` as `rows` × `columns`, row after row without gaps.
    ///
    /// # Panics
    /// `data` is shorter than `rows · columns`.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> MatMut<'a> {
        MatMut::with_row_stride(data, rows, columns, columns)
    }

    /// `data` as `rows` × `columns`, each row `row_stride` ≥ `columns` elements after the one before; the elements
    /// between are left alone.
    ///
    /// # Panics
    /// `data` is too short, or the rows overlap.
    pub fn with_row_stride(
        data: &'a mut [f32],
        rows: usize,
        columns: usize,
        row_stride: usize,
    ) -> MatMut<'a> {
        check(data.len(), rows, columns, row_stride);
        MatMut { data, rows, columns, row_stride }
    }
}

/// What the chains of a product start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// C = A · B; what C held is ignored.
    Overwrite,
    /// C = C + A · B: each chain continues from what C holds.
    Accumulate,
}

fn check(length: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(row_stride >= columns, "rows of {columns} overlap at a stride of {row_stride}");
    let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns };
    assert!(
        length >= needed,
        "{rows} × {columns} at stride {row_stride} needs {needed} elements, not {length}"
    );
}
