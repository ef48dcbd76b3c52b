//! A packed matrix of block-quantised weights as a view of bytes that somebody else owns. Must not know how a product is
//! computed.

use super::BlockType;
use super::layout::{self, Layout, PANEL, Sections};
use super::source::BLOCK;
use crate::Exec;

/// Whether there is an integer product with weights of this type.
pub fn is_supported(kind: BlockType) -> bool {
    Layout::of(kind).is_some()
}

/// Rows of one panel: where a matrix is packed in parts, each part but the last has a multiple of these.
pub const PANEL_ROWS: usize = PANEL;
/// What packed bytes must be aligned to.
pub const PACKED_ALIGNMENT_BYTES: usize = 64;

/// A matrix of weights, `rows` outputs × `columns` inputs, packed for products. The bytes are the same on every
/// processor and may lie in a mapped file.
#[derive(Clone, Copy)]
pub struct QuantMatrix<'a> {
    pub(super) kind: BlockType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) sections: Sections,
    pub(super) bytes: &'a [u8],
}

impl<'a> QuantMatrix<'a> {
    /// Bytes of a packed matrix; `None` where the type has no integer product, the columns are no whole number of blocks,
    /// or the size overflows. A part of a multiple of [`PANEL_ROWS`] rows takes up the bytes that this says, so the
    /// parts of a matrix lie one after the other.
    pub fn packed_bytes(kind: BlockType, rows: usize, columns: usize) -> Option<usize> {
        let layout = Layout::of(kind)?;
        // No packed row is longer than its plain bytes, so no product below overflows when this one does not.
        columns.checked_mul(PANEL * 16)?;
        kind.row_bytes(columns)?;
        rows.div_ceil(PANEL).checked_mul(layout.sections(columns / BLOCK).bytes)
    }

    /// Packs whole rows of blocks as they lie in a GGUF file. `packed` may be part of a larger matrix.
    ///
    /// # Panics
    /// The type is not supported, `source` is no whole number of rows, or `packed` has not the size that
    /// [`packed_bytes`](QuantMatrix::packed_bytes) says.
    pub fn pack(exec: Exec<'_>, kind: BlockType, columns: usize, source: &[u8], packed: &mut [u8]) {
        let row_bytes = kind.row_bytes(columns).filter(|bytes| *bytes > 0).expect("rows are whole blocks");
        assert!(
            source.len().is_multiple_of(row_bytes),
            "{} bytes are no whole rows of {row_bytes}",
            source.len()
        );
        let needed = QuantMatrix::packed_bytes(kind, source.len() / row_bytes, columns);
        assert_eq!(Some(packed.len()), needed, "packed bytes of {} columns of {}", columns, kind.name());
        layout::pack(exec, kind, columns, source, packed);
    }

    /// The matrix in `bytes`, which [`pack`](QuantMatrix::pack) filled.
    ///
    /// # Panics
    /// The type is not supported, or the bytes have not the size that [`packed_bytes`](QuantMatrix::packed_bytes) says or
    /// do not begin at a multiple of [`PACKED_ALIGNMENT_BYTES`].
    pub fn new(kind: BlockType, rows: usize, columns: usize, bytes: &'a [u8]) -> QuantMatrix<'a> {
        let needed = QuantMatrix::packed_bytes(kind, rows, columns);
        assert_eq!(Some(bytes.len()), needed, "packed bytes of {rows} × {columns} of {}", kind.name());
        assert!(bytes.as_ptr().addr().is_multiple_of(PACKED_ALIGNMENT_BYTES), "packed bytes are aligned");
        let layout = Layout::of(kind).expect("a size is known for supported types only");
        QuantMatrix { kind, rows, columns, sections: layout.sections(columns / BLOCK), bytes }
    }

    /// The type of the blocks.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }
}
