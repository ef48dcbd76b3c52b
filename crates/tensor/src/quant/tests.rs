//! Products with quantised weights: every type, instance and number of threads against the reference, bit for bit.
#![allow(clippy::unwrap_used)]

use super::instances::Instance;
use super::product::multiply_with;
use super::rows::{RowTile, TILE_ROWS};
use super::source::BLOCK;
use super::*;
use crate::gemm::{Into, MatMut};
use crate::kernels::testing::random;
use crate::{AlignedBuffer, Exec, Isa, Pool};

/// The types with integer products.
fn kinds() -> Vec<BlockType> {
    BlockType::all().filter(|kind| is_supported(*kind)).collect()
}

/// Where a type's blocks hold half-precision scales; the rest of a block may be any bytes.
fn half_fields(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::MXFP4 => &[],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => &[0, 2],
        BlockType::Q2_K => &[80, 82],
        BlockType::Q3_K => &[108],
        BlockType::Q6_K => &[208],
        _ => &[0],
    }
}

/// Rows of random blocks with finite scales of both signs; `extreme` sets all other bits.
fn blocks(kind: BlockType, rows: usize, columns: usize, extreme: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![0; rows * kind.row_bytes(columns).unwrap()];
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        block.iter_mut().for_each(|byte| *byte = extreme.unwrap_or((next() >> 11) as u8));
        for &at in half_fields(kind) {
            let half = (next() & 0x8fff) as u16 | 0x2000;
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        if kind == BlockType::MXFP4 {
            block[0] = (next() % 30) as u8 + 110;
        }
    }
    bytes
}

/// Rows of activations: plain, with outlier channels of fifty times the rest, zeros, and single values.
fn activations(rows: usize, columns: usize) -> Vec<f32> {
    let mut x = random(7, rows * columns);
    for (row, values) in x.chunks_exact_mut(columns).enumerate() {
        match row % 5 {
            1 => values.iter_mut().step_by(41).for_each(|value| *value *= 50.0),
            2 => values[..columns / 2].fill(0.0),
            3 => values
                .iter_mut()
                .enumerate()
                .for_each(|(i, value)| *value = if i % 37 == 5 { -3.0 } else { 0.0 }),
            4 => values.iter_mut().for_each(|value| *value = value.signum()),
            _ => {}
        }
    }
    x
}

fn packed(exec: Exec<'_>, kind: BlockType, columns: usize, source: &[u8]) -> AlignedBuffer {
    let rows = source.len() / kind.row_bytes(columns).unwrap();
    let bytes = QuantMatrix::packed_bytes(kind, rows, columns).unwrap();
    let mut buffer = AlignedBuffer::zeroed(bytes / 4);
    QuantMatrix::pack(exec, kind, columns, source, as_bytes_mut(&mut buffer));
    buffer
}

#[allow(unsafe_code)]
fn as_bytes_mut(buffer: &mut [f32]) -> &mut [u8] {
    // SAFETY: every bit pattern is a value of both types.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len() * 4) }
}

#[allow(unsafe_code)]
fn as_bytes(buffer: &[f32]) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), buffer.len() * 4) }
}

/// One case: several matrices of the same inputs side by side in C.
struct Case<'a> {
    kinds: &'a [BlockType],
    /// Rows of activations.
    rows: usize,
    /// Outputs of each matrix.
    outputs: usize,
    columns: usize,
    /// What fills the weights' bits; random where it is none.
    extreme: Option<u8>,
}

impl Case<'_> {
    /// Compares every instance on one, two and three threads with the reference.
    fn check(&self) {
        let x = activations(self.rows, self.columns);
        self.check_with(&x);
    }

    fn check_with(&self, x: &[f32]) {
        let Case { rows, outputs, columns, .. } = *self;
        let sources: Vec<Vec<u8>> =
            self.kinds.iter().map(|kind| blocks(*kind, outputs, columns, self.extreme)).collect();
        let width = outputs * self.kinds.len();
        let stride = width + 3;
        let start = random(3, rows * stride);
        for into in [Into::Overwrite, Into::Accumulate] {
            let mut expected = start.clone();
            for row in 0..rows {
                for output in 0..width {
                    let (matrix, line) = (output / outputs, output % outputs);
                    let kind = self.kinds[matrix];
                    let row_bytes = kind.row_bytes(columns).unwrap();
                    let weights = &sources[matrix][line * row_bytes..][..row_bytes];
                    let value = &mut expected[row * stride + output];
                    let from = if into == Into::Accumulate { *value } else { 0.0 };
                    *value = reference::dot(kind, &x[row * columns..][..columns], weights, from);
                }
            }
            for threads in 1..=3 {
                let pool = Pool::new(threads);
                let exec = Exec::new(&pool, Isa::Portable).unwrap();
                let buffers: Vec<AlignedBuffer> = self
                    .kinds
                    .iter()
                    .zip(&sources)
                    .map(|(kind, source)| packed(exec, *kind, columns, source))
                    .collect();
                let matrices: Vec<QuantMatrix<'_>> = (self.kinds.iter().zip(&buffers))
                    .map(|(kind, buffer)| QuantMatrix::new(*kind, outputs, columns, as_bytes(buffer)))
                    .collect();
                for instance in Instance::available() {
                    let mut quantized = QuantRows::new();
                    quantized.quantize_with(exec, instance, x, (rows, columns));
                    let mut found = start.clone();
                    let c = MatMut::with_row_stride(&mut found, rows, width, stride);
                    multiply_with(exec, instance, &mut quantized, &matrices, (c, into));
                    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert!(
                            found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                            "{:?} of {rows} × {columns} × {outputs}, {instance:?} on {threads} threads, {into:?}, row {} \
                             output {}: {found:e}, not {expected:e}",
                            self.kinds,
                            i / stride,
                            i % stride
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_type_matches_the_reference_over_odd_shapes() {
    for kind in kinds() {
        let step = kind.block_len();
        for (rows, outputs, blocks) in
            [(1, 70, 2), (2, 16, 1), (3, 33, 3), (4, 65, 1), (5, 40, 1), (17, 37, 19_usize)]
        {
            let columns = step * if step == 256 { blocks.div_ceil(6) } else { blocks };
            Case { kinds: &[kind], rows, outputs, columns, extreme: None }.check();
        }
    }
}

#[test]
fn extremes_stay_exact() {
    for kind in kinds() {
        for extreme in [0x00, 0x80, 0xff, 0x77, 0x88] {
            for rows in [1, 6, 13] {
                let x: Vec<f32> = (0..rows * 512)
                    .map(|i| if (i / 512 + i / 32) % 2 == 0 || i % 3 == 0 { 1.0 } else { -1.0 })
                    .collect();
                Case { kinds: &[kind], rows, outputs: 16, columns: 512, extreme: Some(extreme) }
                    .check_with(&x);
            }
        }
    }
}

#[test]
fn matrices_of_several_types_share_one_output() {
    let kinds = [BlockType::Q4_K, BlockType::Q6_K, BlockType::Q8_0];
    for rows in [1, 4, 14] {
        Case { kinds: &kinds, rows, outputs: 24, columns: 768, extreme: None }.check();
    }
}

#[test]
fn values_that_are_not_finite_poison_their_row_only() {
    for (bad, columns) in [(f32::NAN, 64), (f32::INFINITY, 64), (f32::NEG_INFINITY, 64)] {
        for rows in [6, 13] {
            let mut x = random(1, rows * columns);
            x[2 * columns + 40] = bad;
            Case { kinds: &[BlockType::Q8_0], rows, outputs: 17, columns, extreme: None }.check_with(&x);
        }
    }
}

/// What a tile of six rows holds of a row is what the row alone becomes: the instances quantise tiles in another way.
#[test]
fn rows_are_quantised_together_as_alone() {
    let least = f32::from_bits((127 - 100) << 23);
    let below = f32::from_bits(least.to_bits() - 1);
    let mut x = activations(TILE_ROWS, 64 * BLOCK);
    let odd =
        [0.0, -0.0, 1e-40, least, below, -least, f32::MAX, f32::MIN, f32::NAN, -f32::NAN, f32::INFINITY];
    for (block, values) in x.chunks_exact_mut(BLOCK).enumerate() {
        match block % 5 {
            // Alone, the largest of small ones, and one of many.
            0 => values.fill(0.0),
            1 => values.iter_mut().for_each(|value| *value *= 1e-36),
            // Halves between two quants.
            2 => (values.iter_mut().enumerate()).for_each(|(i, value)| *value = 63.5 - i as f32),
            3 => values[7] = 300.0,
            _ => {}
        }
        if block % 3 == 0 {
            values[block % BLOCK] = odd[block / 3 % odd.len()];
        }
    }
    let pool = Pool::new(1);
    for instance in Instance::available() {
        let exec = Exec::new(&pool, Isa::Portable).unwrap();
        let quantized = |x: &[f32], rows: usize| {
            let mut out = QuantRows::new();
            out.quantize_with(exec, instance, x, (rows, 64 * BLOCK));
            out
        };
        let together = quantized(&x, TILE_ROWS);
        let together = together.tile(0);
        for row in 0..TILE_ROWS {
            let alone = quantized(&x[row * 64 * BLOCK..][..64 * BLOCK], 1);
            let alone = alone.tile(0);
            for block in 0..64 {
                let entries =
                    |tile: &RowTile<'_>| tile.starts[block] as usize..tile.starts[block + 1] as usize;
                let (of_tile, of_row) = (entries(&together), entries(&alone));
                for (part, entry) in of_tile.enumerate() {
                    let place = entry * TILE_ROWS + row;
                    let found = (
                        &together.quants[place * BLOCK..][..BLOCK],
                        together.scales[place],
                        [0, 1, 2].map(|sum| together.sums[(3 * entry + sum) * TILE_ROWS + row]),
                    );
                    let one = of_row.start + part;
                    let wanted = match one < of_row.end {
                        true => {
                            let sums = [0, 1, 2].map(|sum| alone.sums[3 * one + sum]);
                            (&alone.quants[one * BLOCK..][..BLOCK], alone.scales[one], sums)
                        }
                        false => (&[0; BLOCK][..], 0.0, [0; 3]),
                    };
                    assert_eq!((found.0, found.2), (wanted.0, wanted.2), "{instance:?} {row} {block} {part}");
                    assert!(
                        found.1.to_bits() == wanted.1.to_bits() || found.1.is_nan() && wanted.1.is_nan(),
                        "{instance:?} {row} {block} {part}: {} instead of {}",
                        found.1,
                        wanted.1
                    );
                }
                assert!(entries(&together).len() >= of_row.len(), "{instance:?} {row} {block}");
            }
        }
    }
}

#[test]
fn reference_weights_are_what_dequantisation_says() {
    for kind in kinds() {
        let columns = 2 * kind.block_len();
        let source = blocks(kind, 3, columns, None);
        for row in source.chunks_exact(kind.row_bytes(columns).unwrap()) {
            let mut expected = vec![0.0; columns];
            dequantize(kind, row, &mut expected);
            for (block, expected) in reference::weights(kind, row).iter().zip(expected.chunks_exact(BLOCK)) {
                for (i, expected) in expected.iter().enumerate() {
                    let half = i / 16;
                    let value = block.quants[i] as f32 * block.scales[half];
                    let found = value + block.minima[half];
                    let bound = 1e-6 * (value.abs() + block.minima[half].abs());
                    assert!((found - expected).abs() <= bound, "{} {i}: {found} for {expected}", kind.name());
                }
            }
        }
    }
}

#[test]
fn outliers_do_not_ruin_their_block() {
    let columns = 256;
    let mut x = random(11, columns);
    x[70] = 50.0;
    let source = blocks(BlockType::Q8_0, 1, columns, None);
    let mut weights = vec![0.0; columns];
    dequantize(BlockType::Q8_0, &source, &mut weights);
    // Without the outlier's own product, which only hides what happens to the others.
    weights[70] = 0.0;
    let exact: f64 = x.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
    let mut found = 0.0_f64;
    let mut coarse = 0.0_f64;
    for (block, weights) in x.as_chunks::<BLOCK>().0.iter().zip(weights.chunks_exact(BLOCK)) {
        let (first, second) = reference::quantize_block(block);
        for (i, weight) in weights.iter().enumerate() {
            let one = f64::from(first.quants[i] as f32 * first.scale);
            let two = second.map_or(0.0, |second| f64::from(second.quants[i] as f32 * second.scale));
            coarse += one * f64::from(*weight);
            found += (one + two) * f64::from(*weight);
        }
    }
    assert!((found - exact).abs() * 4.0 < (coarse - exact).abs(), "{found} and {coarse} for {exact}");
}

#[test]
fn sizes_are_close_to_the_files() {
    for kind in kinds() {
        let packed = QuantMatrix::packed_bytes(kind, 4096, 4096).unwrap() as f64;
        let plain = (4096 * kind.row_bytes(4096).unwrap()) as f64;
        assert!(packed < 1.04 * plain, "{}: {}", kind.name(), packed / plain);
    }
    assert_eq!(QuantMatrix::packed_bytes(BlockType::Q4_K, 16, 32), None);
    assert_eq!(QuantMatrix::packed_bytes(BlockType::F16, 16, 32), None);
    assert_eq!(QuantMatrix::packed_bytes(BlockType::Q8_0, usize::MAX, 1 << 40), None);
}

#[test]
fn parts_packed_one_after_the_other_are_the_whole() {
    let (kind, columns, rows) = (BlockType::Q5_K, 256, 40);
    let source = blocks(kind, rows, columns, None);
    let pool = Pool::new(2);
    let exec = Exec::new(&pool, Isa::detect()).unwrap();
    let whole = packed(exec, kind, columns, &source);
    let split = 32 * kind.row_bytes(columns).unwrap();
    let parts =
        [packed(exec, kind, columns, &source[..split]), packed(exec, kind, columns, &source[split..])];
    assert_eq!(as_bytes(&whole), [as_bytes(&parts[0]), as_bytes(&parts[1])].concat());
}
