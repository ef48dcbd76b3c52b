//! Every operation of every instance against scalar Rust, bit for bit, through the same dispatch as the kernels.
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks)]

use super::{AlignedBuffer, Vector, Virtual16};
use crate::Isa;

/// Lanes of input and of every operation's output (the widest instance's).
const WIDTH: usize = 16;
const OPERATIONS: usize = 25;

#[inline(always)]
unsafe fn operations_generic<V: Vector>(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) {
    let mut first = 0;
    while first < WIDTH {
        let mut slot = 0;
        macro_rules! emit {
            ($value:expr) => {{
                V::store($value, out.as_mut_ptr().add(slot * WIDTH + first));
                slot += 1;
            }};
        }
        unsafe {
            let x = V::load(a.as_ptr().add(first));
            let y = V::load(b.as_ptr().add(first));
            let z = V::load(c.as_ptr().add(first));
            let (i, j) = (x.to_bits(), y.to_bits());
            emit!(x.add(y));
            emit!(x.sub(y));
            emit!(x.mul(y));
            emit!(x.div(y));
            emit!(x.fma(y, z));
            emit!(x.neg());
            emit!(x.abs());
            emit!(x.min(y));
            emit!(x.max(y));
            emit!(x.abs().sqrt());
            emit!(x.floor());
            emit!(x.round());
            emit!(V::select(x.less(y), y, z));
            emit!(V::select(x.less_equal(y), y, z));
            emit!(V::select(x.equal(y), y, z));
            emit!(V::from_integers(x.to_integers()));
            emit!(V::from_bits(V::integer_add(i, j)));
            emit!(V::from_bits(V::integer_sub(i, j)));
            emit!(V::from_bits(V::integer_and(i, j)));
            emit!(V::from_bits(V::integer_or(i, j)));
            emit!(V::from_bits(V::integer_xor(i, V::integer_splat(0x5555))));
            emit!(V::from_bits(V::integer_shift_left::<23>(i)));
            emit!(V::from_bits(V::integer_shift_right::<23>(i)));
            emit!(V::select(V::integer_equal(i, j), x, z));
            emit!(V::zero().add(V::splat(1.5)));
        }
        assert!(slot == OPERATIONS);
        first += V::LANES;
    }
}

fn expected(x: f32, y: f32, z: f32) -> [f32; OPERATIONS] {
    let (i, j) = (x.to_bits() as i32, y.to_bits() as i32);
    let bits = |value: i32| f32::from_bits(value as u32);
    [
        x + y,
        x - y,
        x * y,
        x / y,
        x.mul_add(y, z),
        -x,
        x.abs(),
        if x < y { x } else { y },
        if x > y { x } else { y },
        x.abs().sqrt(),
        x.floor(),
        x.round_ties_even(),
        if x < y { y } else { z },
        if x <= y { y } else { z },
        if x == y { y } else { z },
        x as i32 as f32,
        bits(i.wrapping_add(j)),
        bits(i.wrapping_sub(j)),
        bits(i & j),
        bits(i | j),
        bits(i ^ 0x5555),
        bits(i << 23),
        bits(i >> 23),
        if i == j { x } else { z },
        1.5,
    ]
}

crate::dispatch! {
    fn operations(a: &[f32], b: &[f32], c: &[f32], out: &mut [f32]) = operations_generic;
}

#[inline(always)]
unsafe fn partial_generic<V: Vector>(from: &[f32], to: &mut [f32], count: usize) {
    let mut done = 0;
    while done < count {
        let some = V::LANES.min(count - done);
        unsafe {
            let part = V::load_partial(from.as_ptr().add(done), some);
            let mut whole = [7.0_f32; WIDTH];
            part.store(whole.as_mut_ptr());
            assert!(whole[some..V::LANES].iter().all(|x| *x == 0.0));
            part.store_partial(to.as_mut_ptr().add(done), some);
        }
        done += some;
    }
}

crate::dispatch! {
    fn partial(from: &[f32], to: &mut [f32], count: usize) = partial_generic;
}

#[inline(always)]
unsafe fn sums_generic<V: Vector>(row: &[f32]) -> (f32, f32) {
    unsafe {
        let mut sum = Virtual16::<V>::splat(0.0);
        let mut largest = Virtual16::<V>::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i + 16 <= row.len() {
            let x = Virtual16::<V>::load(row.as_ptr().add(i));
            sum = x.fma(x, sum);
            largest = largest.max(x);
            i += 16;
        }
        let x = Virtual16::<V>::load_partial(row.as_ptr().add(i), row.len() - i, 0.0);
        sum = x.fma(x, sum);
        let x = Virtual16::<V>::load_partial(row.as_ptr().add(i), row.len() - i, f32::NEG_INFINITY);
        (sum.reduce_add(), largest.max(x).reduce_max())
    }
}

crate::dispatch! {
    fn sums(row: &[f32]) -> (f32, f32) = sums_generic;
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn every_operation_equals_scalar_rust() {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        2.5,
        3.5,
        -2.5,
        0.1,
        1e-40,
        -1e-40,
        1e30,
        -7.25,
        123456.78,
        f32::INFINITY,
        f32::NAN,
        -0.5,
    ];
    for isa in Isa::available() {
        for shift in 0..16 {
            let a: Vec<f32> = specials.to_vec();
            let b: Vec<f32> = (0..16).map(|i| specials[(i + shift) % 16]).collect();
            let c: Vec<f32> = (0..16).map(|i| specials[(i * 5 + 3) % 16]).collect();
            let mut out = vec![0.0; OPERATIONS * WIDTH];
            unsafe { operations(isa, &a, &b, &c, &mut out) };
            for lane in 0..WIDTH {
                for (slot, want) in expected(a[lane], b[lane], c[lane]).into_iter().enumerate() {
                    // Integers of values outside their range are left open by the contract.
                    let in_range = a[lane].abs() < 2e9;
                    if slot == 15 && !in_range {
                        continue;
                    }
                    let got = out[slot * WIDTH + lane];
                    assert!(
                        same(got, want),
                        "{isa} operation {slot} of {:?}: {got} != {want}",
                        (a[lane], b[lane])
                    );
                }
            }
        }
    }
}

#[test]
fn partial_accesses_touch_nothing_else() {
    for isa in Isa::available() {
        for count in 0..=40 {
            let from: Vec<f32> = (0..count).map(|i| i as f32 + 1.0).collect();
            let mut to = vec![-1.0; count + 16];
            unsafe { partial(isa, &from, &mut to, count) };
            assert_eq!(to[..count], from[..], "{isa}");
            assert!(to[count..].iter().all(|x| *x == -1.0), "{isa}");
        }
    }
}

#[test]
fn row_reductions_have_the_fixed_order() {
    for length in 0..70 {
        let row: Vec<f32> = (0..length).map(|i| ((i * 37 + 11) % 97) as f32 * 0.013 - 0.5).collect();
        let mut lanes = [0.0_f32; 16];
        for (i, x) in row.iter().enumerate() {
            lanes[i % 16] = x.mul_add(*x, lanes[i % 16]);
        }
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for isa in Isa::available() {
            let (sum, max) = unsafe { sums(isa, &row) };
            assert!(same(sum, lanes[0]) && same(max, largest), "{isa}, {length} values");
        }
    }
}

#[test]
fn buffers_are_aligned_zero_and_independent() {
    for length in [0, 1, 15, 16, 1000, (2 << 20) / 4 - 1, (2 << 20) / 4, (5 << 20) / 4 + 3] {
        let mut buffer = AlignedBuffer::zeroed(length);
        assert_eq!(buffer.len(), length);
        assert!(buffer.iter().all(|x| *x == 0.0));
        assert!(length == 0 || buffer.as_ptr().addr().is_multiple_of(64));
        buffer.fill(2.0);
        let copy = buffer.clone();
        buffer.fill(3.0);
        assert!(copy.iter().all(|x| *x == 2.0));
    }
}

#[inline(always)]
unsafe fn widen_generic<V: Vector>(halves: &[u16], bytes: &[i8], out: [&mut [f32]; 3]) {
    let [f16, bf16, i8] = out;
    let mut i = 0;
    while i < halves.len() {
        unsafe {
            V::load_f16(halves.as_ptr().add(i)).store(f16.as_mut_ptr().add(i));
            V::load_bf16(halves.as_ptr().add(i)).store(bf16.as_mut_ptr().add(i));
            V::load_i8(bytes.as_ptr().add(i)).store(i8.as_mut_ptr().add(i));
        }
        i += V::LANES;
    }
}

crate::dispatch! {
    fn widen(halves: &[u16], bytes: &[i8], out: [&mut [f32]; 3]) = widen_generic;
}

#[inline(always)]
unsafe fn narrow_generic<V: Vector>(from: &[f32], to: &mut [u16]) {
    let mut i = 0;
    while i < from.len() {
        unsafe { V::load(from.as_ptr().add(i)).store_f16(to.as_mut_ptr().add(i)) };
        i += V::LANES;
    }
}

crate::dispatch! {
    fn narrow(from: &[f32], to: &mut [u16]) = narrow_generic;
}

#[test]
fn every_half_and_byte_is_widened() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<i8> = halves.iter().map(|half| *half as i8).collect();
    for isa in Isa::available() {
        let (mut f16, mut bf16, mut i8) = (vec![0.0; 65536], vec![0.0; 65536], vec![0.0; 65536]);
        unsafe { widen(isa, &halves, &bytes, [&mut f16, &mut bf16, &mut i8]) };
        for (index, bits) in halves.iter().enumerate() {
            assert!(same(f16[index], super::f16_to_f32(*bits)), "{isa}: f16 {bits:#x} is {}", f16[index]);
            assert!(same(bf16[index], super::bf16_to_f32(*bits)), "{isa}: bf16 {bits:#x} is {}", bf16[index]);
            assert_eq!(i8[index], f32::from(bytes[index]), "{isa}");
        }
    }
}

#[test]
fn numbers_are_rounded_to_f16_alike() {
    // Around every f16 and around the middle between two, and a coarse sweep of all bits.
    let near = (0..0x7C01_u16).flat_map(|bits| {
        let (here, next) = (super::f16_to_f32(bits), super::f16_to_f32(bits + u16::from(bits < 0x7C00)));
        let middle = if next.is_finite() { 0.5 * (here + next) } else { 65520.0 };
        [here, middle.next_down(), middle, -middle.next_up()]
    });
    let sweep = (0..1 << 16).map(|index| f32::from_bits(index * 65_521));
    let from: Vec<f32> = near.chain(sweep).take(190_000).collect();
    let from = &from[..from.len() / 16 * 16];
    for isa in Isa::available() {
        let mut to = vec![0; from.len()];
        unsafe { narrow(isa, from, &mut to) };
        for (x, half) in from.iter().zip(&to) {
            let expected = super::f32_to_f16(*x);
            assert!(x.is_nan() || *half == expected, "{isa}: {x:e} is {half:#x}, not {expected:#x}");
        }
    }
}
