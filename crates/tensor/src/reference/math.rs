//! Elementary functions on one `f32`, built only from add, multiply, fused multiply-add, division and bit
//! operations, so that every instruction set gives the same bits. The constants are shared with the vector
//! versions in `kernels::math`.

/// 1.5 · 2^23: adding it rounds a float to the nearest integer and leaves that integer in the low bits.
pub const ROUNDING_MAGIC: f32 = 12_582_912.0;
/// log2(e).
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The leading bits of ln 2 (its product with any exponent is exact).
pub const LN_2_HIGH: f32 = 0.693_359_4;
/// ln 2 − `LN_2_HIGH`.
pub const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Below it `exp` is 0 (the result would be subnormal).
pub const EXP_LOWEST: f32 = -87.336_54;
/// Above it `exp` is infinite.
pub const EXP_HIGHEST: f32 = 88.722_83;
/// (e^r − 1 − r) / r² on |r| ≤ ln(2)/2, highest power first; Chebyshev fit, error 8e-9 of e^r.
pub const EXP_POLYNOMIAL: [f32; 5] = [0.001_392_625_1, 0.008_363_233, 0.041_666_556, 0.166_665_77, 0.5];
/// Σ 2/(2k+1) s^(2k−2): the series of (2·atanh(s)/s − 2)/s², highest power first.
pub const LN_POLYNOMIAL: [f32; 4] = [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0];
/// (tanh(x) − x) / x³ as a polynomial in x² on |x| ≤ `TANH_SWITCH`; Chebyshev fit, error 2e-8.
pub const TANH_POLYNOMIAL: [f32; 5] =
    [-0.006_045_165, 0.020_961_309, -0.053_843_263, 0.133_327_19, -0.333_333_28];
/// Up to here `tanh` takes its polynomial, beyond it the exponential.
pub const TANH_SWITCH: f32 = 0.625;
/// erf(x)/x − 1 as a polynomial in x² on |x| ≤ `ERF_SWITCH`; Chebyshev fit, error 4e-10.
pub const ERF_POLYNOMIAL: [f32; 7] =
    [8.387_075e-5, -8.147_081e-4, 5.201_456e-3, -0.026_859_589, 0.112_836_994, -0.376_126_34, 0.128_379_17];
/// −ln(1 − erf(x)) on `ERF_SWITCH` ≤ x ≤ `ERF_HIGHEST`; Chebyshev fit, error 2e-8.
pub const ERFC_POLYNOMIAL: [f32; 9] = [
    -1.643_569_7e-6,
    4.617_791_4e-5,
    -5.977_435e-4,
    4.763_575e-3,
    -0.026_431_018,
    0.110_094_48,
    0.631_814_5,
    1.130_237_6,
    -3.204_415_3e-4,
];
/// Up to here `erf` takes its polynomial, beyond it the exponential.
pub const ERF_SWITCH: f32 = 0.92;
/// From here on erf(x) rounds to 1.
pub const ERF_HIGHEST: f32 = 4.0;

/// e^x, relative error at most 2 ulp; 0 where the result would be subnormal, infinite where it overflows.
pub fn exp(x: f32) -> f32 {
    let shifted = x.mul_add(LOG2_E, ROUNDING_MAGIC);
    let exponent = shifted - ROUNDING_MAGIC;
    let remainder = exponent.mul_add(-LN_2_HIGH, x);
    let remainder = exponent.mul_add(-LN_2_LOW, remainder);
    let quadratic = polynomial(&EXP_POLYNOMIAL, remainder) * remainder;
    let fraction = quadratic.mul_add(remainder, remainder) + 1.0;
    let scaled = f32::from_bits(fraction.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < EXP_LOWEST {
        0.0
    } else if x > EXP_HIGHEST {
        f32::INFINITY
    } else {
        scaled
    }
}

/// The natural logarithm, relative error at most 2 ulp; −∞ at 0, not a number below.
pub fn ln(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x == f32::INFINITY {
        return x;
    }
    let (normal, bias) = if x < f32::MIN_POSITIVE { (x * 8_388_608.0, 23.0) } else { (x, 0.0) };
    // The mantissa m lies in [√½, √2), so that m − 1 is exact and small.
    let offset = normal.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = ((offset as i32) >> 23) as f32 - bias;
    let mantissa = f32::from_bits((offset & 0x007f_ffff) + SQRT_HALF_BITS);
    let f = mantissa - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = polynomial(&LN_POLYNOMIAL, z) * z;
    let half_square = 0.5 * f * f;
    // ln(1 + f) = f − (f²/2 − s·(f²/2 + series)), as in FreeBSD's msun.
    let tail = s.mul_add(half_square + series, exponent * LN_2_LOW);
    exponent.mul_add(LN_2_HIGH, f - (half_square - tail))
}

/// The hyperbolic tangent.
pub fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let square = x * x;
    let small = (polynomial(&TANH_POLYNOMIAL, square) * square).mul_add(magnitude, magnitude);
    let large = 1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0);
    let result = if magnitude < TANH_SWITCH { small } else { large };
    copy_sign(result, x)
}

/// The logistic function 1 / (1 + e^−x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (exp(-x) + 1.0)
}

/// The error function.
pub fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let square = x * x;
    let small = polynomial(&ERF_POLYNOMIAL, square).mul_add(magnitude, magnitude);
    let clamped = if magnitude < ERF_HIGHEST { magnitude } else { ERF_HIGHEST };
    let large = 1.0 - exp(-polynomial(&ERFC_POLYNOMIAL, clamped));
    let result = if magnitude < ERF_SWITCH { small } else { large };
    copy_sign(result, x)
}

/// Horner's rule with fused multiply-adds, highest power first.
pub fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |sum, &coefficient| sum.mul_add(x, coefficient))
}

/// `magnitude` (not negative) with the sign bit of `sign`.
pub fn copy_sign(magnitude: f32, sign: f32) -> f32 {
    f32::from_bits(magnitude.to_bits() | (sign.to_bits() & 0x8000_0000))
}
