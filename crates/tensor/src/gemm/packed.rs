//! A right-hand matrix packed once and used for many products: weights, in f32 or in half precision, owned or lent from
//! a file in memory.
#![allow(unsafe_code)]

use super::matrix::{Into, MatMut, MatRef};
use super::pack::{Part, pack_b};
use super::panels::{PanelType, Panels};
use super::tile::kernels;
use super::{Operand, multiply};
use crate::{AlignedBuffer, Exec, Isa};

/// B of a product, in the panels that the kernels read. Holds K · N weights, N rounded up to a whole panel.
pub struct PackedMatrix {
    /// The bytes of the panels, rounded up to whole floats.
    buffer: AlignedBuffer,
    panel_type: PanelType,
    rows: usize,
    columns: usize,
    /// Columns of a panel: two registers of the instruction set that it was packed for.
    width: usize,
}

/// A packed matrix that somebody else holds.
#[derive(Clone, Copy)]
pub struct PackedRef<'a> {
    panels: Panels<'a>,
    rows: usize,
    columns: usize,
    width: usize,
}

/// Weights in half precision as files hold them: outputs in rows, (N, K), each weight two little-endian bytes.
#[derive(Clone, Copy)]
pub struct HalfMatrix<'a> {
    /// 2 · `outputs` · `inputs` bytes, at any address.
    pub bytes: &'a [u8],
    /// [`PanelType::F16`] or [`PanelType::Bf16`].
    pub half: PanelType,
    /// N.
    pub outputs: usize,
    /// K.
    pub inputs: usize,
}

/// Bytes that a packed (K, N) matrix takes with an instruction set.
pub fn packed_bytes(isa: Isa, panel_type: PanelType, (rows, columns): (usize, usize)) -> usize {
    rows * columns.next_multiple_of(kernels(isa).columns) * panel_type.bytes()
}

impl PackedMatrix {
    /// Packs `b` (K, N) for the instruction set of `exec`.
    pub fn pack(exec: Exec<'_>, b: MatRef<'_>) -> PackedMatrix {
        let mut packed = PackedMatrix::zeroed(exec.isa, PanelType::F32, (b.rows, b.columns));
        packed.refill(exec, b);
        packed
    }

    /// Packs weights in half precision as they are: (inputs, outputs) in two bytes each.
    ///
    /// # Panics
    /// As [`pack_half`].
    pub fn pack_half(exec: Exec<'_>, weights: HalfMatrix<'_>) -> PackedMatrix {
        let shape = (weights.inputs, weights.outputs);
        let mut packed = PackedMatrix::zeroed(exec.isa, weights.half, shape);
        let length = packed_bytes(exec.isa, weights.half, shape);
        pack_half(exec, weights, &mut packed.buffer.as_bytes_mut()[..length]);
        packed
    }

    fn zeroed(isa: Isa, panel_type: PanelType, (rows, columns): (usize, usize)) -> PackedMatrix {
        let floats = packed_bytes(isa, panel_type, (rows, columns)).div_ceil(size_of::<f32>());
        let (buffer, width) = (AlignedBuffer::zeroed(floats), kernels(isa).columns);
        PackedMatrix { buffer, panel_type, rows, columns, width }
    }

    /// Packs another matrix of the same shape in place, allocating nothing.
    ///
    /// # Panics
    /// The shape or the instruction set is another one, or the weights are not f32.
    pub fn refill(&mut self, exec: Exec<'_>, b: MatRef<'_>) {
        let PackedMatrix { rows, columns, width, panel_type, .. } = *self;
        assert!(
            (b.rows, b.columns, kernels(exec.isa).columns, PanelType::F32)
                == (rows, columns, width, panel_type),
            "a packed {rows} × {columns} matrix takes no other shape, type or instruction set"
        );
        let panel_length = rows * width;
        if panel_length == 0 {
            return;
        }
        exec.pool.run_slices(&mut self.buffer, panel_length, &|first, panel, _| {
            let first = first / panel_length * width;
            let part = Part { depth: 0..rows, columns: first..columns.min(first + width), width };
            pack_b(exec.isa, b, &part, panel_length, panel);
        });
    }

    /// A view of all of it.
    pub fn view(&self) -> PackedRef<'_> {
        let length = self.rows * self.columns.next_multiple_of(self.width);
        // SAFETY: the buffer holds that many weights of the type, every bit pattern of which is valid.
        let halves = || unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast::<u16>(), length) };
        let panels = match self.panel_type {
            PanelType::F32 => Panels::F32(&self.buffer),
            PanelType::F16 => Panels::F16(halves()),
            PanelType::Bf16 => Panels::Bf16(halves()),
        };
        PackedRef { panels, rows: self.rows, columns: self.columns, width: self.width }
    }

    /// The buffer of the panels: [`packed_bytes`] bytes, rounded up to whole floats.
    pub fn into_buffer(self) -> AlignedBuffer {
        self.buffer
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
        self.buffer.len() * size_of::<f32>()
    }
}

impl<'a> PackedRef<'a> {
    /// The (K, N) matrix whose panels, packed by [`pack_half`] or copied from [`PackedRef::bytes`] for the same instruction
    /// set, are `bytes`. `None` where their number is not [`packed_bytes`] or their address is not a multiple of four.
    pub fn from_bytes(
        isa: Isa,
        panel_type: PanelType,
        (rows, columns): (usize, usize),
        bytes: &'a [u8],
    ) -> Option<PackedRef<'a>> {
        let fits = bytes.len() == packed_bytes(isa, panel_type, (rows, columns));
        if !fits || !bytes.as_ptr().addr().is_multiple_of(align_of::<f32>()) {
            return None;
        }
        // SAFETY: the address is aligned, the length is that of the bytes, and every bit pattern is a value.
        let panels = unsafe {
            let halves = || std::slice::from_raw_parts(bytes.as_ptr().cast::<u16>(), bytes.len() / 2);
            match panel_type {
                PanelType::F32 => {
                    Panels::F32(std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), bytes.len() / 4))
                }
                PanelType::F16 => Panels::F16(halves()),
                PanelType::Bf16 => Panels::Bf16(halves()),
            }
        };
        Some(PackedRef { panels, rows, columns, width: kernels(isa).columns })
    }

    /// The bytes of the panels, for [`PackedRef::from_bytes`].
    pub fn bytes(&self) -> &'a [u8] {
        // SAFETY: the bytes of numbers.
        unsafe {
            match self.panels {
                Panels::F32(panels) => {
                    std::slice::from_raw_parts(panels.as_ptr().cast(), size_of_val(panels))
                }
                Panels::F16(panels) | Panels::Bf16(panels) => {
                    std::slice::from_raw_parts(panels.as_ptr().cast(), size_of_val(panels))
                }
            }
        }
    }

    /// How the weights are stored.
    pub fn panel_type(&self) -> PanelType {
        self.panels.panel_type()
    }

    /// K: rows of B.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// N: columns of B.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

impl<'a> From<&'a PackedMatrix> for PackedRef<'a> {
    fn from(matrix: &'a PackedMatrix) -> PackedRef<'a> {
        matrix.view()
    }
}

/// Writes the panels of (inputs, outputs) for the instruction set of `exec`: [`packed_bytes`] bytes.
///
/// # Panics
/// The type is not a half, or a length is not what the shape needs.
pub fn pack_half(exec: Exec<'_>, weights: HalfMatrix<'_>, to: &mut [u8]) {
    let HalfMatrix { bytes, half, outputs, inputs } = weights;
    assert!(half != PanelType::F32, "weights in half precision are F16 or Bf16");
    assert_eq!(bytes.len(), 2 * outputs * inputs, "two bytes for each of {outputs} × {inputs} weights");
    assert_eq!(to.len(), packed_bytes(exec.isa, half, (inputs, outputs)), "room for the panels");
    let width = kernels(exec.isa).columns;
    if to.is_empty() {
        return;
    }
    exec.pool.run_slices(to, 2 * inputs * width, &|first, panel, _| {
        let first = first / (2 * inputs);
        pack_panel(weights, (first, width), panel);
    });
}

/// Inputs that are taken across at a time: a cache line of each row.
const INPUTS_AT_ONCE: usize = 32;

/// Writes one panel, `[k][width]`, of the outputs from `first` on; zero beyond the last.
fn pack_panel(weights: HalfMatrix<'_>, (first, width): (usize, usize), panel: &mut [u8]) {
    let row_bytes = 2 * weights.inputs;
    let columns = width.min(weights.outputs - first);
    panel.fill(0);
    for (block, lines) in panel.chunks_mut(INPUTS_AT_ONCE * 2 * width).enumerate() {
        let count = lines.len() / (2 * width);
        for column in 0..columns {
            let start = (first + column) * row_bytes + block * INPUTS_AT_ONCE * 2;
            let row = weights.bytes[start..][..2 * count].chunks_exact(2);
            for (weight, line) in row.zip(lines.chunks_exact_mut(2 * width)) {
                line[2 * column..2 * column + 2].copy_from_slice(weight);
            }
        }
    }
}

/// [`gemm`](super::gemm) with B packed beforehand: the same bits, also with B in half precision.
///
/// # Panics
/// The shapes do not fit each other, or B was packed for another width of vector.
pub fn gemm_packed<'b>(
    exec: Exec<'_>,
    a: MatRef<'_>,
    b: impl std::convert::Into<PackedRef<'b>>,
    c: MatMut<'_>,
    into: Into,
) {
    let b = b.into();
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
    multiply(exec, a, Operand::Packed(b.panels), c, into);
}
