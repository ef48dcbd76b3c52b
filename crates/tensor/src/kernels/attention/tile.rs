//! Small matrix products whose outputs stay in registers while the sum runs: each output is one chain of
//! fused multiply-adds in ascending order. Must not know what the matrices mean.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: pointers cover what callers say.

use crate::simd::Vector;

/// Rows of a full tile.
pub(super) const TILE_ROWS: usize = 6;

/// The left factor, read one value at a time: element (row, step) is at `row·row_stride + step·step_stride`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub at: *const f32,
    pub row_stride: usize,
    pub step_stride: usize,
}

/// The right factor, (depth, columns), and how many steps the sum has.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub at: *const f32,
    pub stride: usize,
    pub depth: usize,
}

/// The outputs, (rows, columns).
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub at: *mut f32,
    pub stride: usize,
    /// A multiple of sixteen.
    pub columns: usize,
}

/// What is read step by step: a right factor of some type.
pub(super) trait Factor: Copy {
    fn depth(&self) -> usize;
    /// A register of this step's elements from `column` on.
    unsafe fn load<V: Vector>(&self, column: usize) -> V;
    /// Asks the caches for what will be at the same place when the next block is read; `REGISTER` of a panel.
    unsafe fn fetch<V: Vector, const REGISTER: usize>(&self, column: usize);
    /// Goes on to the next step.
    unsafe fn advance(&mut self);
}

impl Factor for Right {
    #[inline(always)]
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(&self, column: usize) -> V {
        unsafe { V::load(self.at.add(column)) }
    }
    #[inline(always)]
    unsafe fn fetch<V: Vector, const REGISTER: usize>(&self, _column: usize) {}
    #[inline(always)]
    unsafe fn advance(&mut self) {
        self.at = self.at.wrapping_add(self.stride);
    }
}

/// `ROWS` rows of output = left · right, the chains starting from 0 or, where not `FROM_ZERO`, from what the
/// output holds.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const ROWS: usize, const FROM_ZERO: bool>(
    left: Left,
    right: Right,
    output: Output,
) {
    let mut column = 0;
    unsafe {
        if V::LANES == 8 {
            while column + 2 * V::LANES <= output.columns {
                panel::<V, Right, ROWS, 2, FROM_ZERO>(left, right, output, column);
                column += 2 * V::LANES;
            }
            return;
        }
        while column + 4 * V::LANES <= output.columns {
            panel::<V, Right, ROWS, 4, FROM_ZERO>(left, right, output, column);
            column += 4 * V::LANES;
        }
        // One register a row leaves the multipliers idle between a chain's links: take as many as are left.
        match (output.columns - column) / V::LANES {
            0 => {}
            1 => panel::<V, Right, ROWS, 1, FROM_ZERO>(left, right, output, column),
            2 => panel::<V, Right, ROWS, 2, FROM_ZERO>(left, right, output, column),
            _ => panel::<V, Right, ROWS, 3, FROM_ZERO>(left, right, output, column),
        }
    }
}

/// The same for up to [`TILE_ROWS`] rows and a right factor that comes from memory. An odd number of rows above one is
/// rounded up: the row after the last is read and written too.
#[inline(always)]
pub(super) unsafe fn product_of_few<V: Vector, F: Factor, const FROM_ZERO: bool>(
    rows: usize,
    mut left: Left,
    right: F,
    mut output: Output,
) {
    unsafe {
        if V::PLAIN {
            for _ in 0..rows {
                few::<V, F, 1, FROM_ZERO>(left, right, output);
                left.at = left.at.wrapping_add(left.row_stride);
                output.at = output.at.wrapping_add(output.stride);
            }
            return;
        }
        match rows {
            1 => few::<V, F, 1, FROM_ZERO>(left, right, output),
            2 => few::<V, F, 2, FROM_ZERO>(left, right, output),
            3 | 4 => few::<V, F, 4, FROM_ZERO>(left, right, output),
            _ => few::<V, F, 6, FROM_ZERO>(left, right, output),
        }
    }
}

#[inline(always)]
unsafe fn few<V: Vector, F: Factor, const ROWS: usize, const FROM_ZERO: bool>(
    left: Left,
    right: F,
    output: Output,
) {
    let mut column = 0;
    unsafe {
        if V::LANES == 8 {
            while column < output.columns {
                panel::<V, F, ROWS, 2, FROM_ZERO>(left, right, output, column);
                column += 2 * V::LANES;
            }
            return;
        }
        while column + 4 * V::LANES <= output.columns {
            panel::<V, F, ROWS, 4, FROM_ZERO>(left, right, output, column);
            column += 4 * V::LANES;
        }
        while column < output.columns {
            panel::<V, F, ROWS, 1, FROM_ZERO>(left, right, output, column);
            column += V::LANES;
        }
    }
}

/// Registers of a row in the widest panel.
const REGISTERS_MAX: usize = 4;

/// Writes the body out for each row of a full tile (below `$bound`), since an array whose index the compiler
/// does not know early goes to memory.
macro_rules! each_row {
    ($bound:ident, $row:ident => $body:expr) => {
        each_row!(@ $bound, $row => $body, 0 1 2 3 4 5)
    };
    (@ $bound:ident, $row:ident => $body:expr, $($index:literal)*) => {
        $({
            const $row: usize = $index;
            if $row < $bound {
                $body;
            }
        })*
    };
}

/// The same for the registers of a row.
macro_rules! each_register {
    ($bound:ident, $register:ident => $body:expr) => {
        each_row!(@ $bound, $register => $body, 0 1 2 3)
    };
}

#[inline(always)]
unsafe fn panel<V: Vector, F: Factor, const ROWS: usize, const REGISTERS: usize, const FROM_ZERO: bool>(
    left: Left,
    mut right: F,
    output: Output,
    column: usize,
) {
    unsafe {
        let mut sums = [[V::zero(); REGISTERS_MAX]; TILE_ROWS];
        let output_at = output.at.add(column);
        if !FROM_ZERO {
            each_row!(ROWS, ROW => each_register!(REGISTERS, REGISTER => {
                sums[ROW][REGISTER] = V::load(output_at.add(ROW * output.stride + REGISTER * V::LANES));
            }));
        }
        let mut step_left = left.at;
        for _ in 0..right.depth() {
            let mut factors = [V::zero(); REGISTERS_MAX];
            each_register!(REGISTERS, REGISTER => {
                factors[REGISTER] = right.load::<V>(column + REGISTER * V::LANES);
                right.fetch::<V, REGISTER>(column + REGISTER * V::LANES);
            });
            each_row!(ROWS, ROW => {
                let value = V::splat(*step_left.add(ROW * left.row_stride));
                each_register!(REGISTERS, REGISTER => {
                    sums[ROW][REGISTER] = value.fma(factors[REGISTER], sums[ROW][REGISTER]);
                });
            });
            step_left = step_left.add(left.step_stride);
            right.advance();
        }
        each_row!(ROWS, ROW => each_register!(REGISTERS, REGISTER => {
            sums[ROW][REGISTER].store(output_at.add(ROW * output.stride + REGISTER * V::LANES));
        }));
    }
}
