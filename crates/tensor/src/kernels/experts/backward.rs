//! The backward pass of a layer of experts. Of the forward pass it needs the rows and the router's products with them; what
//! an expert computed between its two projections is computed again, expert by expert.
//!
//! With weights p of a row's chosen experts and results y, out = Σ p·y, so that the gradient of a weight is g = y · dout. The
//! weights are shares s of a softmax, whose gradient is s·(g − Σ s·g) (g is 0 for an expert that was not chosen).

use super::{ExpertRows, Routes};
use crate::kernels::elementwise::{scale_rows, scatter_scaled_rows};
use crate::kernels::reduce::row_dots;
use crate::kernels::{gated, gated_backward, gather_rows, log_softmax};
use crate::reference::math::exp;
use crate::{Exec, ExpertWeighting, Experts, Weight};

/// How a product with a weight, `y = x · wᵀ`, is made and differentiated.
pub trait ExpertProducts {
    /// `x · wᵀ`: (rows, w.cols) → (rows, w.rows).
    fn product(&mut self, x: &[f32], w: Weight, y: &mut [f32]);
    /// `dy · w`: (rows, w.rows) → (rows, w.cols).
    fn input_gradient(&mut self, dy: &[f32], w: Weight, dx: &mut [f32]);
    /// Adds `dyᵀ · x` to the gradient of `w`.
    fn add_weight_gradient(&mut self, dy: &[f32], w: Weight, x: &[f32]);
}

/// The gradients that the backward pass of a layer of experts makes.
pub struct ExpertGradients<'a> {
    /// Of the rows, by way of the experts alone: (rows, width), added to.
    pub dx: &'a mut [f32],
    /// Of the router's products, (rows, experts), overwritten.
    pub dlogits: &'a mut [f32],
}

/// The backward pass of [`super::experts`]: `dy` is the gradient of its output, (rows, width). Each expert's gradients are
/// chains over its ascending rows, a row's over its ascending experts.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn experts_backward(
    exec: Exec<'_>,
    experts: Experts,
    rows: ExpertRows<'_>,
    (dy, products): (&[f32], &mut dyn ExpertProducts),
    gradients: ExpertGradients<'_>,
) {
    let ExpertGradients { dx, dlogits } = gradients;
    let lengths = (dy.len(), dx.len(), dlogits.len());
    assert_eq!(lengths, (rows.x.len(), rows.x.len(), rows.logits.len()), "one shape of rows");
    let routes = Routes::new(exec, experts, rows.logits);
    let mut room = exec.pool.scratch().take(routes.most() * Part::floats(experts));
    dlogits.fill(0.0);
    for expert in 0..experts.count() {
        let here = routes.of(expert);
        if here.is_empty() {
            continue;
        }
        let chosen: Vec<u32> = here.iter().map(|route| route.row).collect();
        let weight = |index: usize| here[index].weight;
        let mut part = Part::new(experts, here.len(), &mut room);
        part.gather(exec, (rows.x, dy), &chosen);
        part.differentiate(exec, (experts, expert), &weight, products);
        for (row, slope) in chosen.iter().zip(&*part.slopes) {
            dlogits[*row as usize * experts.count() + expert] = *slope;
        }
        scatter_scaled_rows(exec, (&chosen, &|_| 1.0), part.dx, dx);
    }
    through_softmax(exec, experts, (rows.logits, &routes), dlogits);
}

/// What is at hand while one expert is differentiated, for each of its rows.
struct Part<'a> {
    rows: usize,
    /// (rows, width).
    x: &'a mut [f32],
    dy: &'a mut [f32],
    dx: &'a mut [f32],
    /// (rows, 2 · ffn).
    gate_up: &'a mut [f32],
    d_gate_up: &'a mut [f32],
    /// (rows, ffn).
    hidden: &'a mut [f32],
    d_hidden: &'a mut [f32],
    /// The gradient of each row's weight, (rows).
    slopes: &'a mut [f32],
}

impl<'a> Part<'a> {
    /// Floats for each row.
    fn floats(experts: Experts) -> usize {
        3 * experts.router.cols + 6 * experts.down.cols + 1
    }

    fn new(experts: Experts, rows: usize, mut room: &'a mut [f32]) -> Part<'a> {
        let mut part = |width: usize| {
            let (part, rest) = std::mem::take(&mut room).split_at_mut(rows * width);
            room = rest;
            part
        };
        let (width, inner) = (experts.router.cols, experts.down.cols);
        Part {
            rows,
            x: part(width),
            dy: part(width),
            dx: part(width),
            gate_up: part(2 * inner),
            d_gate_up: part(2 * inner),
            hidden: part(inner),
            d_hidden: part(inner),
            slopes: part(1),
        }
    }

    fn gather(&mut self, exec: Exec<'_>, (x, dy): (&[f32], &[f32]), chosen: &[u32]) {
        gather_rows(exec, x, chosen, self.x);
        gather_rows(exec, dy, chosen, self.dy);
    }

    /// The gradients of an expert's weights, of its rows and of their weights.
    fn differentiate(
        &mut self,
        exec: Exec<'_>,
        (experts, expert): (Experts, usize),
        weight: &(dyn Fn(usize) -> f32 + Sync),
        products: &mut dyn ExpertProducts,
    ) {
        let (gate_up, down) = (experts.gate_up_of(expert), experts.down_of(expert));
        products.product(self.x, gate_up, self.gate_up);
        gated(exec, self.gate_up, experts.activation, self.rows, self.hidden);
        // y · dy = hidden · (dy · down), so y itself is not needed.
        products.input_gradient(self.dy, down, self.d_hidden);
        row_dots(exec, self.d_hidden, self.hidden, self.slopes);
        scale_rows(exec, down.rows, weight, self.dy);
        scale_rows(exec, down.cols, weight, self.d_hidden);
        products.add_weight_gradient(self.dy, down, self.hidden);
        let inputs = (&*self.gate_up, &*self.d_hidden);
        gated_backward(exec, inputs, experts.activation, self.rows, self.d_gate_up);
        products.add_weight_gradient(self.d_gate_up, gate_up, self.x);
        products.input_gradient(self.d_gate_up, gate_up, self.dx);
    }
}

/// Turns the gradients of the chosen experts' weights into those of the router's products.
fn through_softmax(
    exec: Exec<'_>,
    experts: Experts,
    (logits, routes): (&[f32], &Routes),
    gradients: &mut [f32],
) {
    let count = experts.count();
    let mut shares = exec.pool.scratch().take(logits.len());
    let shares = &mut shares[..logits.len()];
    match experts.weighting {
        ExpertWeighting::OfAll => {
            shares.copy_from_slice(logits);
            log_softmax(exec, count, shares);
            shares.iter_mut().for_each(|share| *share = exp(*share));
        }
        ExpertWeighting::OfChosen => {
            shares.fill(0.0);
            for expert in 0..count {
                for route in routes.of(expert) {
                    shares[route.row as usize * count + expert] = route.weight;
                }
            }
        }
    }
    for (gradients, shares) in gradients.chunks_exact_mut(count).zip(shares.chunks_exact(count)) {
        let mean: f32 = gradients.iter().zip(shares).map(|(gradient, share)| gradient * share).sum();
        gradients.iter_mut().zip(shares).for_each(|(gradient, share)| *gradient = share * (*gradient - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::super::experts;
    use super::super::tests::{COUNT, WIDTH, layer, multiply};
    use super::*;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};

    /// Plain sums, and the gradients of all weights in one buffer.
    struct Plain<'a> {
        flat: &'a [f32],
        gradients: Vec<f32>,
    }

    impl ExpertProducts for Plain<'_> {
        fn product(&mut self, x: &[f32], w: Weight, y: &mut [f32]) {
            multiply(self.flat, x, w, y);
        }
        fn input_gradient(&mut self, dy: &[f32], w: Weight, dx: &mut [f32]) {
            dx.fill(0.0);
            for (dy, dx) in dy.chunks_exact(w.rows).zip(dx.chunks_exact_mut(w.cols)) {
                for (dy, row) in dy.iter().zip(w.of(self.flat).chunks_exact(w.cols)) {
                    dx.iter_mut().zip(row).for_each(|(dx, w)| *dx += dy * w);
                }
            }
        }
        fn add_weight_gradient(&mut self, dy: &[f32], w: Weight, x: &[f32]) {
            let gradient = w.of_mut(&mut self.gradients);
            for (dy, x) in dy.chunks_exact(w.rows).zip(x.chunks_exact(w.cols)) {
                for (dy, row) in dy.iter().zip(gradient.chunks_exact_mut(w.cols)) {
                    row.iter_mut().zip(x).for_each(|(gradient, x)| *gradient += dy * x);
                }
            }
        }
    }

    /// Σ dy · out in f64, with another x, other logits or other weights.
    fn value(exec: Exec<'_>, layer: Experts, flat: &[f32], rows: ExpertRows<'_>, dy: &[f32]) -> f64 {
        let mut out = vec![0.0; rows.x.len()];
        let mut product = |x: &[f32], w: Weight, out: &mut [f32]| multiply(flat, x, w, out);
        experts(exec, layer, rows, &mut product, &mut out);
        out.iter().zip(dy).map(|(out, dy)| f64::from(*out) * f64::from(*dy)).sum()
    }

    fn moved(values: &[f32], direction: &[f32], step: f32) -> Vec<f32> {
        values.iter().zip(direction).map(|(value, direction)| value + step * direction).collect()
    }

    #[test]
    fn gradients_are_slopes_and_depend_on_no_threads() {
        const STEP: f32 = 1e-3;
        let rows = 19;
        let flat: Vec<f32> = random(1, layer(1, ExpertWeighting::OfAll).stride * COUNT + COUNT * WIDTH);
        let (x, dy) = (random(2, rows * WIDTH), random(4, rows * WIDTH));
        let logits: Vec<f32> = random(3, rows * COUNT).iter().map(|x| 3.0 * x).collect();
        for (top_k, weighting) in
            [(1, ExpertWeighting::OfAll), (3, ExpertWeighting::OfAll), (2, ExpertWeighting::OfChosen)]
        {
            let layer = layer(top_k, weighting);
            let first = std::cell::OnceCell::new();
            each_exec(|exec| {
                let read = ExpertRows { x: &x, logits: &logits };
                let mut products = Plain { flat: &flat, gradients: vec![0.0; flat.len()] };
                let (mut dx, mut dlogits) = (vec![0.0; x.len()], vec![7.0; logits.len()]);
                let gradients = ExpertGradients { dx: &mut dx, dlogits: &mut dlogits };
                experts_backward(exec, layer, read, (&dy, &mut products), gradients);
                let found = [dx, dlogits, products.gradients];
                let expected: &[Vec<f32>; 3] = first.get_or_init(|| found.clone());
                for (found, expected) in found.iter().zip(expected.iter()) {
                    assert_same_bits("gradients of experts", exec, found, expected);
                }
                for (seed, which) in (5..).zip(0..3) {
                    let along = random(seed, found[which].len());
                    let slope: f64 =
                        found[which].iter().zip(&along).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let at = |step: f32| match which {
                        0 => {
                            value(exec, layer, &flat, ExpertRows { x: &moved(&x, &along, step), ..read }, &dy)
                        }
                        1 => {
                            let logits = moved(&logits, &along, step);
                            value(exec, layer, &flat, ExpertRows { logits: &logits, ..read }, &dy)
                        }
                        _ => value(exec, layer, &moved(&flat, &along, step), read, &dy),
                    };
                    let measured = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
                    let close = (slope - measured).abs() <= 2e-3 * measured.abs().max(1.0);
                    assert!(
                        close,
                        "{top_k} chosen, {weighting:?}, part {which}: {slope}, measured {measured}"
                    );
                }
            });
        }
    }
}
