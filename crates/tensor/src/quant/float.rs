//! Half-width floats ↔ f32, exact one way and rounded to nearest even the other. Must not know blocks.

use half::slice::HalfFloatSliceExt;

/// The f32 of an IEEE half; exact.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

/// The nearest IEEE half, ties to even; beyond 65,504 (and a half step) infinite.
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    half::f16::from_f32(value).to_bits()
}

/// The f32 of a bfloat16; exact.
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bfloat16, ties to even; a NaN stays one.
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    half::bf16::from_f32(value).to_bits()
}

/// Widens as many little-endian halves as `out` has places, with the processor's own instruction where it has one.
///
/// # Panics
/// `bytes` are not two for each place of `out`.
pub fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "two bytes for each half");
    let mut halves = [half::f16::ZERO; 256];
    for (bytes, out) in bytes.chunks(2 * halves.len()).zip(out.chunks_mut(halves.len())) {
        let halves = &mut halves[..out.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = half::f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(out);
    }
}

/// Widens as many little-endian bfloat16 as `out` has places.
///
/// # Panics
/// `bytes` are not two for each place of `out`.
pub fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), 2 * out.len(), "two bytes for each bfloat16");
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = bf16_to_f32(u16::from_le_bytes(*bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_there_and_back() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut wide = vec![0.0; 1 << 16];
        widen_f16(&bytes, &mut wide);
        for (bits, &value) in (0..=u16::MAX).zip(&wide) {
            let (single, brain) = (f16_to_f32(bits), bf16_to_f32(bits));
            if single.is_nan() {
                assert!(value.is_nan() && f16_to_f32(f32_to_f16(single)).is_nan());
            } else {
                assert_eq!((value.to_bits(), f32_to_f16(single)), (single.to_bits(), bits));
            }
            assert!(if brain.is_nan() {
                bf16_to_f32(f32_to_bf16(brain)).is_nan()
            } else {
                f32_to_bf16(brain) == bits
            });
        }
        widen_bf16(&bytes, &mut wide);
        assert!((0..=u16::MAX).zip(&wide).all(|(bits, value)| value.to_bits() == u32::from(bits) << 16));
    }

    #[test]
    fn narrowing_rounds_to_nearest_even() {
        // Halfway between neighbours, and a little to either side.
        for (value, bits) in [
            (1.0 + 1.0 / 2048.0, 0x3C00),
            (1.0 + 1.0 / 2048.0 + 1e-6, 0x3C01),
            (1.0 + 3.0 / 2048.0, 0x3C02),
            (65_519.0, 0x7BFF),
            (65_520.0, 0x7C00),
            (2f32.powi(-25), 0),
            (2f32.powi(-25) * 1.01, 1),
            (-3.0 * 2f32.powi(-25), 0x8002),
        ] {
            assert_eq!(f32_to_f16(value), bits, "{value}");
        }
        for (value, bits) in
            [(1.0 + 1.0 / 256.0, 0x3F80), (1.0 + 1.1 / 256.0, 0x3F81), (1.0 + 3.0 / 256.0, 0x3F82)]
        {
            assert_eq!(f32_to_bf16(value), bits, "{value}");
        }
    }
}
