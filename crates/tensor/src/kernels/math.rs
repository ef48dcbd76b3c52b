//! Elementary functions over vectors: the same operations as [`crate::reference::math`], hence the same bits
//! in every lane. Must not know any kernel.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Vector`.

use crate::reference::math::{
    ERF_HIGHEST, ERF_POLYNOMIAL, ERF_SWITCH, ERFC_POLYNOMIAL, EXP_HIGHEST, EXP_LOWEST, EXP_POLYNOMIAL,
    LN_2_HIGH, LN_2_LOW, LOG2_E, ROUNDING_MAGIC, TANH_POLYNOMIAL, TANH_SWITCH,
};
use crate::simd::Vector;

/// e^x; see [`crate::reference::math::exp`].
#[inline(always)]
pub(crate) unsafe fn exp<V: Vector>(x: V) -> V {
    unsafe {
        let scaled = exp_unbounded(x);
        let scaled = V::select(V::splat(EXP_HIGHEST).less(x), V::splat(f32::INFINITY), scaled);
        V::select(x.less(V::splat(EXP_LOWEST)), V::zero(), scaled)
    }
}

/// e^x for x that is not above 0, where it has the bits of [`exp`].
#[inline(always)]
pub(crate) unsafe fn exp_not_positive<V: Vector>(x: V) -> V {
    unsafe { V::select(x.less(V::splat(EXP_LOWEST)), V::zero(), exp_unbounded(x)) }
}

#[inline(always)]
unsafe fn exp_unbounded<V: Vector>(x: V) -> V {
    unsafe {
        let magic = V::splat(ROUNDING_MAGIC);
        let shifted = x.fma(V::splat(LOG2_E), magic);
        let exponent = shifted.sub(magic);
        let remainder = exponent.fma(V::splat(-LN_2_HIGH), x);
        let remainder = exponent.fma(V::splat(-LN_2_LOW), remainder);
        let quadratic = polynomial(&EXP_POLYNOMIAL, remainder).mul(remainder);
        let fraction = quadratic.fma(remainder, remainder).add(V::splat(1.0));
        let exponent_bits = V::integer_shift_left::<23>(shifted.to_bits());
        V::from_bits(V::integer_add(fraction.to_bits(), exponent_bits))
    }
}

/// The hyperbolic tangent; see [`crate::reference::math::tanh`].
#[inline(always)]
pub(crate) unsafe fn tanh<V: Vector>(x: V) -> V {
    unsafe {
        let magnitude = x.abs();
        let square = x.mul(x);
        let small = polynomial(&TANH_POLYNOMIAL, square).mul(square).fma(magnitude, magnitude);
        let denominator = exp(magnitude.add(magnitude)).add(V::splat(1.0));
        let large = V::splat(1.0).sub(V::splat(2.0).div(denominator));
        copy_sign(V::select(magnitude.less(V::splat(TANH_SWITCH)), small, large), x)
    }
}

/// The logistic function 1 / (1 + e^−x).
#[inline(always)]
pub(crate) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    unsafe { V::splat(1.0).div(exp(x.neg()).add(V::splat(1.0))) }
}

/// The error function; see [`crate::reference::math::erf`].
#[inline(always)]
pub(crate) unsafe fn erf<V: Vector>(x: V) -> V {
    unsafe {
        let magnitude = x.abs();
        let small = polynomial(&ERF_POLYNOMIAL, x.mul(x)).fma(magnitude, magnitude);
        let clamped = magnitude.min(V::splat(ERF_HIGHEST));
        let large = V::splat(1.0).sub(exp(polynomial(&ERFC_POLYNOMIAL, clamped).neg()));
        copy_sign(V::select(magnitude.less(V::splat(ERF_SWITCH)), small, large), x)
    }
}

/// Horner's rule with fused multiply-adds, highest power first.
#[inline(always)]
unsafe fn polynomial<V: Vector, const N: usize>(coefficients: &[f32; N], x: V) -> V {
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        let mut index = 1;
        while index < N {
            sum = sum.fma(x, V::splat(coefficients[index]));
            index += 1;
        }
        sum
    }
}

/// `magnitude` (not negative) with the sign bit of `sign`.
#[inline(always)]
unsafe fn copy_sign<V: Vector>(magnitude: V, sign: V) -> V {
    unsafe {
        let bit = V::integer_and(sign.to_bits(), V::integer_splat(i32::MIN));
        V::from_bits(V::integer_or(magnitude.to_bits(), bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, dispatch, reference::math as reference};

    macro_rules! mapped {
        ($name:ident, $kernel:ident, $function:ident) => {
            #[inline(always)]
            unsafe fn $kernel<V: Vector>(x: &mut [f32]) {
                let mut index = 0;
                while index < x.len() {
                    unsafe {
                        let at = x.as_mut_ptr().add(index);
                        let count = (x.len() - index).min(V::LANES);
                        $function(V::load_partial(at, count)).store_partial(at, count);
                    }
                    index += V::LANES;
                }
            }
            dispatch! { fn $name(x: &mut [f32]) = $kernel; }
        };
    }
    mapped!(exp_all, exp_all_generic, exp);
    mapped!(tanh_all, tanh_all_generic, tanh);
    mapped!(sigmoid_all, sigmoid_all_generic, sigmoid);
    mapped!(erf_all, erf_all_generic, erf);

    /// Every 4,099th bit pattern and a dense range of ordinary values.
    fn arguments() -> Vec<f32> {
        let patterns = (0..u32::MAX / 4099).map(|index| f32::from_bits(index * 4099));
        let ordinary = (-120_000..120_000).map(|index| index as f32 * 0.000_917);
        patterns.filter(|x| !x.is_nan()).chain(ordinary).chain([f32::NEG_INFINITY, f32::INFINITY]).collect()
    }

    fn check_bits(name: &str, vector: unsafe fn(Isa, &mut [f32]), scalar: fn(f32) -> f32) {
        let arguments = arguments();
        for isa in Isa::available() {
            let mut results = arguments.clone();
            // SAFETY: `isa` is available.
            unsafe { vector(isa, &mut results) };
            for (x, result) in arguments.iter().zip(results) {
                assert_eq!(result.to_bits(), scalar(*x).to_bits(), "{name}({x}) with {isa}");
            }
        }
    }

    #[test]
    fn vectors_give_the_bits_of_the_scalar_functions() {
        check_bits("exp", exp_all, reference::exp);
        check_bits("tanh", tanh_all, reference::tanh);
        check_bits("sigmoid", sigmoid_all, reference::sigmoid);
        check_bits("erf", erf_all, reference::erf);
    }

    /// The greatest error in units of the last place of the true value, over arguments in a range.
    fn check_accuracy(
        name: &str,
        function: fn(f32) -> f32,
        truth: fn(f64) -> f64,
        range: (f32, f32),
        ulps: f64,
    ) {
        for x in arguments().into_iter().filter(|x| (range.0..=range.1).contains(x)) {
            let expected = truth(f64::from(x));
            let ulp = f64::from(f32::EPSILON) * 2.0_f64.powi(expected.abs().log2().floor() as i32);
            let error = (f64::from(function(x)) - expected).abs() / ulp.max(f64::from(f32::MIN_POSITIVE));
            assert!(error <= ulps, "{name}({x}) = {} is {error:.2} ulp from {expected}", function(x));
        }
    }

    #[test]
    fn scalar_functions_are_accurate() {
        check_accuracy("exp", reference::exp, f64::exp, (-87.3, 88.7), 1.5);
        check_accuracy("ln", reference::ln, f64::ln, (f32::MIN_POSITIVE / 1024.0, f32::MAX), 1.5);
        check_accuracy("tanh", reference::tanh, f64::tanh, (-50.0, 50.0), 2.0);
        check_accuracy("sigmoid", reference::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), (-80.0, 80.0), 2.5);
        check_accuracy("erf", reference::erf, erf_f64, (-6.0, 6.0), 3.0);
    }

    /// erf by its Maclaurin series, good to 1e-10 where it is not 1 to f32.
    fn erf_f64(x: f64) -> f64 {
        if x.abs() > 4.5 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for step in 1..120 {
            term *= -x * x / f64::from(step);
            sum += term / f64::from(2 * step + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(reference::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(reference::exp(-88.0), 0.0);
        assert_eq!(reference::exp(0.0), 1.0);
        assert_eq!(reference::exp(89.0), f32::INFINITY);
        assert!(reference::exp(f32::NAN).is_nan() && reference::ln(f32::NAN).is_nan());
        assert_eq!(reference::ln(0.0), f32::NEG_INFINITY);
        assert!(reference::ln(-1.0).is_nan());
        assert_eq!((reference::ln(1.0), reference::ln(f32::INFINITY)), (0.0, f32::INFINITY));
        assert_eq!((reference::tanh(30.0), reference::tanh(-30.0)), (1.0, -1.0));
        assert_eq!((reference::erf(9.0), reference::erf(-9.0)), (1.0, -1.0));
        assert_eq!((reference::sigmoid(-200.0), reference::sigmoid(200.0)), (0.0, 1.0));
    }
}
