//! Bit equality with the three loops over odd shapes, transpositions, strides, instruction sets and thread counts.
#![allow(clippy::unwrap_used)]

use super::{
    HalfMatrix, Into, MatMut, MatRef, PackedMatrix, PackedRef, PanelType, gemm, gemm_packed, reference,
};
use crate::simd::{bf16_to_f32, f16_to_f32};
use crate::{Exec, Isa, Pool};

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    a_transposed: bool,
    b_transposed: bool,
    /// Elements between the rows of every matrix.
    gap: usize,
    into: Into,
}

/// Values of both signs whose products round, from a counter.
fn values(length: usize, seed: usize) -> Vec<f32> {
    (0..length)
        .map(|i| {
            let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed as u64 * 77);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 23) as f32
                - 1.0
        })
        .collect()
}

fn view(data: &[f32], rows: usize, columns: usize, gap: usize, transposed: bool) -> MatRef<'_> {
    if transposed {
        MatRef::with_row_stride(data, columns, rows, rows + gap).t()
    } else {
        MatRef::with_row_stride(data, rows, columns, columns + gap)
    }
}

fn check(exec: Exec<'_>, case: Case) {
    let Case { m, k, n, a_transposed, b_transposed, gap, into } = case;
    let a_data = values((m + gap) * (k + gap), 1);
    let b_data = values((k + gap) * (n + gap), 2);
    let c_data = values(m * (n + gap), 3);
    let a = view(&a_data, m, k, gap, a_transposed);
    let b = view(&b_data, k, n, gap, b_transposed);
    let mut want = c_data.clone();
    reference::gemm(a, b, MatMut::with_row_stride(&mut want, m, n, n + gap), into);
    let mut plain = c_data.clone();
    gemm(exec, a, b, MatMut::with_row_stride(&mut plain, m, n, n + gap), into);
    let mut packed = c_data;
    let b = PackedMatrix::pack(exec, b);
    gemm_packed(exec, a, &b, MatMut::with_row_stride(&mut packed, m, n, n + gap), into);
    for (path, got) in [("plain", plain), ("packed", packed)] {
        let differs = (0..want.len()).find(|i| got[*i].to_bits() != want[*i].to_bits());
        assert!(differs.is_none(), "{} {path} differs at {differs:?}: {case:?}", exec.isa());
    }
}

fn each_exec(body: impl Fn(Exec<'_>)) {
    for threads in [1, 2, 3] {
        let pool = Pool::new(threads);
        for isa in Isa::available() {
            body(Exec::new(&pool, isa).unwrap());
        }
    }
}

fn each_form(m: usize, k: usize, n: usize, body: impl Fn(Case)) {
    for a_transposed in [false, true] {
        for b_transposed in [false, true] {
            for into in [Into::Overwrite, Into::Accumulate] {
                for gap in [0, 3] {
                    body(Case { m, k, n, a_transposed, b_transposed, gap, into });
                }
            }
        }
    }
}

#[test]
fn every_edge_of_a_tile() {
    each_exec(|exec| {
        for (m, k, n) in (1..70).map(|i| (i, (i * 29) % 70 + 1, (i * 47) % 70 + 1)) {
            each_form(m, k, n, |case| check(exec, case));
        }
    });
}

#[test]
fn every_number_of_columns() {
    each_exec(|exec| {
        for n in 1..70 {
            each_form(3, 5, n, |case| check(exec, case));
        }
    });
}

#[test]
fn sums_continue_over_blocks_of_k_and_columns() {
    each_exec(|exec| {
        for (m, k, n) in [
            (17, 255, 33),
            (15, 257, 40),
            (29, 700, 31),
            (1, 1025, 65),
            (2, 3, 1100),
            (5, 300, 530),
            (4, 900, 490),
        ] {
            each_form(m, k, n, |case| check(exec, case));
        }
    });
}

#[test]
fn columns_of_a_an_aliasing_stride_apart() {
    each_exec(|exec| {
        for (m, k) in [(1, 3), (61, 9), (100, 450)] {
            for into in [Into::Overwrite, Into::Accumulate] {
                let gap = 1024 - m;
                check(exec, Case { m, k, n: 33, a_transposed: true, b_transposed: false, gap, into });
            }
        }
    });
}

#[test]
fn empty_products() {
    each_exec(|exec| {
        for (m, k, n) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
            each_form(m, k, n, |case| check(exec, case));
        }
    });
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    each_exec(|exec| {
        let (m, k, n) = (40, 300, 50);
        let (a, b) = (values(m * k, 4), values(k * n, 5));
        let mut whole = vec![0.0; m * n];
        gemm(
            exec,
            MatRef::new(&a, m, k),
            MatRef::new(&b, k, n),
            MatMut::new(&mut whole, m, n),
            Into::Overwrite,
        );
        for row in 0..m {
            let mut alone = vec![0.0; n];
            let a = MatRef::new(&a[row * k..][..k], 1, k);
            gemm(exec, a, MatRef::new(&b, k, n), MatMut::new(&mut alone, 1, n), Into::Overwrite);
            assert_eq!(alone, whole[row * n..][..n], "{} row {row}", exec.isa());
        }
    });
}

#[test]
fn a_packed_matrix_can_be_refilled() {
    let pool = Pool::new(2);
    let exec = Exec::new(&pool, Isa::detect()).unwrap();
    let (a, first, second) = (values(6, 1), values(3 * 50, 2), values(3 * 50, 3));
    let mut packed = PackedMatrix::pack(exec, MatRef::new(&first, 3, 50));
    packed.refill(exec, MatRef::new(&second, 3, 50));
    let (mut got, mut want) = (vec![0.0; 100], vec![0.0; 100]);
    let a = MatRef::new(&a, 2, 3);
    gemm_packed(exec, a, &packed, MatMut::new(&mut got, 2, 50), Into::Overwrite);
    reference::gemm(a, MatRef::new(&second, 3, 50), MatMut::new(&mut want, 2, 50), Into::Overwrite);
    assert_eq!(got, want);
}

/// Halves of ordinary size and both signs.
fn halves(length: usize, half: PanelType) -> Vec<u16> {
    let base: u16 = if half == PanelType::F16 { 0x3400 } else { 0x3E00 };
    (0..length as u64).map(|i| base ^ (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u16 & 0x81FF).collect()
}

#[test]
fn weights_in_half_precision_give_the_bits_of_the_same_in_f32() {
    let shapes =
        [(1, 300, 70), (2, 1, 65), (3, 77, 140), (4, 129, 300), (5, 700, 33), (17, 257, 530), (1, 0, 3)];
    for (half, widen) in [(PanelType::F16, f16_to_f32 as fn(u16) -> f32), (PanelType::Bf16, bf16_to_f32)] {
        for (m, k, n) in shapes {
            let weights = halves(n * k, half);
            let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
            let wide: Vec<f32> = weights.iter().map(|weight| widen(*weight)).collect();
            let (a_data, c_data) = (values(m * k, 1), values(m * n, 3));
            let a = MatRef::new(&a_data, m, k);
            for into in [Into::Overwrite, Into::Accumulate] {
                let mut want = c_data.clone();
                reference::gemm(a, MatRef::new(&wide, n, k).t(), MatMut::new(&mut want, m, n), into);
                each_exec(|exec| {
                    let packed = PackedMatrix::pack_half(
                        exec,
                        HalfMatrix { bytes: &bytes, half, outputs: n, inputs: k },
                    );
                    let mut got = c_data.clone();
                    gemm_packed(exec, a, &packed, MatMut::new(&mut got, m, n), into);
                    assert_eq!(got, want, "{} {half:?} {m} × {k} × {n} {into:?}", exec.isa());
                    let view = packed.view();
                    let again = PackedRef::from_bytes(exec.isa(), half, (k, n), view.bytes()).unwrap();
                    got.copy_from_slice(&c_data);
                    gemm_packed(exec, a, again, MatMut::new(&mut got, m, n), into);
                    assert_eq!(got, want, "from bytes");
                });
            }
        }
    }
}

#[test]
fn bytes_that_are_no_panels_are_refused() {
    let bytes = [0; 4096];
    let isa = Isa::Portable;
    let length = super::packed_bytes(isa, PanelType::F16, (3, 5));
    assert_eq!(length, 3 * 8 * 2);
    assert!(PackedRef::from_bytes(isa, PanelType::F16, (3, 5), &bytes[..length + 2]).is_none());
    let aligned = (0..4).filter(|start| {
        PackedRef::from_bytes(isa, PanelType::F16, (3, 5), &bytes[*start..][..length]).is_some()
    });
    assert_eq!(aligned.count(), 1);
}

#[test]
#[should_panic(expected = "does not fit")]
fn shapes_that_do_not_fit_are_refused() {
    let pool = Pool::new(1);
    let exec = Exec::new(&pool, Isa::Portable).unwrap();
    let data = [0.0; 12];
    let (a, b) = (MatRef::new(&data, 3, 4), MatRef::new(&data, 3, 4));
    gemm(exec, a, b, MatMut::new(&mut [0.0; 12], 3, 4), Into::Overwrite);
}
