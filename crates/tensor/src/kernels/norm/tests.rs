//! Bits against the reference, over shapes, instruction sets and threads; finite differences.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernels::testing::{assert_same_bits, check_gradient, each_exec, inner, random};
use crate::reference::norm as reference;

const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 7), (5, 16), (70, 300), (2, 20_001), (600, 64)];

#[test]
fn rms_norm_has_the_bits_of_the_reference() {
    for (rows, width) in SHAPES {
        let [x, dy, start] = [1, 2, 3].map(|seed| random(seed, rows * width));
        let (gain, dgain) = (random(4, width), random(5, width));
        let (mut y, mut sum, mut y_of_sum) = (start.clone(), start.clone(), start.clone());
        let (mut dx, mut expected_dgain) = (start.clone(), dgain.clone());
        reference::rms_norm(&x, &gain, 1e-5, &mut y);
        reference::add_rms_norm((&x, &dy), (&gain, 1e-5), &mut sum, &mut y_of_sum);
        let gradients = NormGradients { dx: &mut dx, dgain: &mut expected_dgain };
        reference::rms_norm_backward(&x, (&gain, 1e-5), &dy, gradients);
        each_exec(|exec| {
            let (mut found, mut found_sum) = (start.clone(), start.clone());
            rms_norm(exec, &x, &gain, 1e-5, &mut found);
            assert_same_bits("rms_norm", exec, &found, &y);
            add_rms_norm(exec, (&x, &dy), (&gain, 1e-5), &mut found_sum, &mut found);
            assert_same_bits("residual", exec, &found_sum, &sum);
            assert_same_bits("norm of the residual", exec, &found, &y_of_sum);
            let (mut found, mut found_dgain) = (start.clone(), dgain.clone());
            let gradients = NormGradients { dx: &mut found, dgain: &mut found_dgain };
            rms_norm_backward(exec, &x, (&gain, 1e-5), &dy, gradients);
            assert_same_bits("gradient of rms_norm", exec, &found, &dx);
            assert_same_bits("gradient of its gain", exec, &found_dgain, &expected_dgain);
        });
    }
}

#[test]
fn layer_norm_has_the_bits_of_the_reference() {
    for (rows, width) in SHAPES {
        let [x, dy, start] = [1, 2, 3].map(|seed| random(seed, rows * width));
        let [gain, bias, dgain, dbias] = [4, 5, 6, 7].map(|seed| random(seed, width));
        let norm = LayerNorm { gain: &gain, bias: &bias, eps: 1e-5 };
        let (mut y, mut expected) = (start.clone(), [start.clone(), dgain.clone(), dbias.clone()]);
        reference::layer_norm(&x, norm, &mut y);
        let [dx, expected_dgain, expected_dbias] = &mut expected;
        let gradients = LayerNormGradients { dx, dgain: expected_dgain, dbias: expected_dbias };
        reference::layer_norm_backward(&x, norm, &dy, gradients);
        each_exec(|exec| {
            let mut found = start.clone();
            layer_norm(exec, &x, norm, &mut found);
            assert_same_bits("layer_norm", exec, &found, &y);
            let mut found = [start.clone(), dgain.clone(), dbias.clone()];
            let [dx, dgain, dbias] = &mut found;
            layer_norm_backward(exec, &x, norm, &dy, LayerNormGradients { dx, dgain, dbias });
            for (found, expected) in found.iter().zip(&expected) {
                assert_same_bits("gradient of layer_norm", exec, found, expected);
            }
        });
    }
}

#[test]
fn qk_norm_has_the_bits_of_the_reference() {
    for (heads, kv_heads, head_dim, tokens) in [(2, 1, 12, 5), (3, 3, 64, 33), (4, 2, 80, 40)] {
        let heads = Heads { heads, kv_heads, head_dim };
        let [x, dy, start] = [1, 2, 3].map(|seed| random(seed, tokens * heads.fused_width()));
        let [query, key, dquery, dkey] = [4, 5, 6, 7].map(|seed| random(seed, head_dim));
        let gains = QkGains { query: &query, key: &key, eps: 1e-6 };
        let (mut y, mut expected) = (start.clone(), [start.clone(), dquery.clone(), dkey.clone()]);
        reference::qk_norm(&x, gains, heads, &mut y);
        let [dx, expected_dquery, expected_dkey] = &mut expected;
        let gradients = QkNormGradients { dx, dquery: expected_dquery, dkey: expected_dkey };
        reference::qk_norm_backward(&x, (gains, heads), &dy, gradients);
        each_exec(|exec| {
            let mut found = start.clone();
            qk_norm(exec, &x, gains, heads, &mut found);
            assert_same_bits("qk_norm", exec, &found, &y);
            let mut found = [start.clone(), dquery.clone(), dkey.clone()];
            let [dx, dquery, dkey] = &mut found;
            qk_norm_backward(exec, &x, (gains, heads), &dy, QkNormGradients { dx, dquery, dkey });
            for (found, expected) in found.iter().zip(&expected) {
                assert_same_bits("gradient of qk_norm", exec, found, expected);
            }
        });
    }
}

/// Packs an input and parameters into one vector, so that one check covers all derivatives.
#[test]
fn gradients_agree_with_finite_differences() {
    let (rows, width) = (3, 5);
    let count = rows * width;
    let arguments = random(8, count + 2 * width);
    let dy = random(9, count);
    let mut gradient = vec![0.0; count + width];
    let (dx, dgain) = gradient.split_at_mut(count);
    let (x, parameters) = arguments.split_at(count);
    let gradients = NormGradients { dx, dgain };
    reference::rms_norm_backward(x, (&parameters[..width], 1e-5), &dy, gradients);
    check_gradient("rms_norm", &arguments[..count + width], &gradient, |arguments| {
        let mut y = vec![0.0; count];
        reference::rms_norm(&arguments[..count], &arguments[count..], 1e-5, &mut y);
        inner(&y, &dy)
    });
    let mut gradient = vec![0.0; count + 2 * width];
    let (dx, rest) = gradient.split_at_mut(count);
    let (dgain, dbias) = rest.split_at_mut(width);
    let norm = LayerNorm { gain: &parameters[..width], bias: &parameters[width..], eps: 1e-5 };
    reference::layer_norm_backward(x, norm, &dy, LayerNormGradients { dx, dgain, dbias });
    check_gradient("layer_norm", &arguments, &gradient, |arguments| {
        let mut y = vec![0.0; count];
        let (gain, bias) = arguments[count..].split_at(width);
        reference::layer_norm(&arguments[..count], LayerNorm { gain, bias, eps: 1e-5 }, &mut y);
        inner(&y, &dy)
    });
}
