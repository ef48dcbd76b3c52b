//! Half-precision numbers by their bits: what instances without an instruction for them use, and the scalar form that
//! all others must equal. Must not know vectors.

/// The largest finite f16.
pub const F16_MAX: f32 = 65504.0;
/// 2^112: moves an exponent of f16's bias (15) to that of f32 (127).
const REBIAS: f32 = f32::from_bits((112 + 127) << 23);

/// The f32 of an f16's bits: exact, subnormals included.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7FFF) << 13;
    let finite = f32::from_bits(magnitude) * REBIAS;
    let special = f32::from_bits(magnitude | 0x7F80_0000);
    let magnitude = if magnitude >= 0x7C00 << 13 { special } else { finite };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// The nearest f16 of `x`, ties to even; beyond the largest it is infinite.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let half = if magnitude.is_nan() {
        0x7E00
    } else if bits >= (143 << 23) - (1 << 12) {
        // From half a unit below 2^16 on.
        0x7C00
    } else if bits < 113 << 23 {
        // Below 2^-14 a unit of f16 is 2^-24, which is a unit of an f32 between 1/2 and 1: that sum rounds.
        ((magnitude + 0.5).to_bits() - 0.5_f32.to_bits()) as u16
    } else {
        let odd = (bits >> 13) & 1;
        ((bits + 0xFFF + odd) >> 13).wrapping_sub(112 << 10) as u16
    };
    sign | half
}

/// The f32 of a bf16's bits.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_returns() {
        for bits in 0..=u16::MAX {
            let x = f16_to_f32(bits);
            if x.is_nan() {
                assert_eq!(f32_to_f16(x) & 0x7E00, 0x7E00);
            } else {
                assert_eq!(f32_to_f16(x), bits, "{x}");
            }
        }
    }

    #[test]
    fn known_values_and_rounding() {
        for (x, bits) in [
            (1.0, 0x3C00),
            (-2.0, 0xC000),
            (F16_MAX, 0x7BFF),
            (65519.9, 0x7BFF),
            (65520.0, 0x7C00),
            (f32::INFINITY, 0x7C00),
            (1.0 + 1.0 / 2048.0, 0x3C00),
            (1.0 + 3.0 / 2048.0, 0x3C02),
            (2.0_f32.powi(-24), 0x0001),
            (2.0_f32.powi(-25), 0x0000),
            (1.5 * 2.0_f32.powi(-24), 0x0002),
            (-0.0, 0x8000),
        ] {
            assert_eq!(f32_to_f16(x), bits, "{x}");
        }
        assert_eq!(bf16_to_f32(0x3F80), 1.0);
    }
}
