//! Layers of experts: which rows go to which expert with what weight, and the sum of what the experts make of them.
//!
//! Rows are grouped by expert, so that each expert's weights are read once and no row is padded. A row's sum runs over
//! its experts in ascending order, whatever rows are beside it. How a product with a weight is made is the caller's
//! business.

mod backward;

pub use backward::{ExpertGradients, ExpertProducts, experts_backward};

use super::elementwise::scatter_scaled_rows;
use super::{gated, gather_rows, log_softmax};
use crate::reference::math::exp;
use crate::{Exec, ExpertWeighting, Experts, Weight};

/// What a layer of experts reads.
#[derive(Clone, Copy, Debug)]
pub struct ExpertRows<'a> {
    /// (rows, width).
    pub x: &'a [f32],
    /// The router's products with the rows, (rows, experts).
    pub logits: &'a [f32],
}

/// `x · wᵀ` of rows `x` (rows, w.cols) into (rows, w.rows).
pub type Product<'a> = &'a mut dyn FnMut(&[f32], Weight, &mut [f32]);

/// Adds to `out` (rows, width) what each row's experts make of it, weighted.
///
/// # Panics
/// When the lengths do not fit each other, or more experts are to be chosen than there are.
pub fn experts(
    exec: Exec<'_>,
    experts: Experts,
    rows: ExpertRows<'_>,
    product: Product<'_>,
    out: &mut [f32],
) {
    let (width, inner) = (experts.router.cols, experts.down.cols);
    let count = rows.x.len() / width;
    assert_eq!((rows.logits.len(), out.len()), (count * experts.count(), count * width), "one shape of rows");
    let routes = Routes::new(exec, experts, rows.logits);
    let most = routes.most();
    let mut work = exec.pool.scratch().take(most * (2 * width + 3 * inner));
    let mut chosen = Vec::with_capacity(most);
    for expert in 0..experts.count() {
        let routes = routes.of(expert);
        if routes.is_empty() {
            continue;
        }
        chosen.clear();
        chosen.extend(routes.iter().map(|route| route.row));
        let here = routes.len();
        let (x, rest) = work.split_at_mut(here * width);
        let (gate_up, rest) = rest.split_at_mut(here * 2 * inner);
        let (hidden, rest) = rest.split_at_mut(here * inner);
        let y = &mut rest[..here * width];
        gather_rows(exec, rows.x, &chosen, x);
        product(x, experts.gate_up_of(expert), gate_up);
        gated(exec, gate_up, experts.activation, here, hidden);
        product(hidden, experts.down_of(expert), y);
        scatter_scaled_rows(exec, (&chosen, &|index| routes[index].weight), y, out);
    }
}

/// That a row goes to an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Route {
    row: u32,
    weight: f32,
}

/// All routes, those of one expert side by side.
struct Routes {
    routes: Vec<Route>,
    /// Where each expert's routes begin, and the end of the last one's.
    starts: Vec<usize>,
}

impl Routes {
    fn new(exec: Exec<'_>, experts: Experts, logits: &[f32]) -> Routes {
        let (count, top_k) = (experts.count(), experts.top_k);
        assert!((1..=count).contains(&top_k), "{top_k} of {count} experts cannot be chosen");
        let mut shares = exec.pool.scratch().take(logits.len());
        let shares = &mut shares[..logits.len()];
        shares.copy_from_slice(logits);
        if experts.weighting == ExpertWeighting::OfAll {
            log_softmax(exec, count, shares);
        }
        // (expert, route), in ascending order of rows.
        let mut found = Vec::with_capacity(logits.len() / count * top_k);
        let mut chosen = vec![false; count];
        for (row, logits) in shares.chunks_exact(count).enumerate() {
            choose(logits, top_k, &mut chosen);
            let picked =
                || (0..count).filter(|expert| chosen[*expert]).map(|expert| (expert, logits[expert]));
            let (greatest, total) = match experts.weighting {
                ExpertWeighting::OfAll => (0.0, 1.0),
                ExpertWeighting::OfChosen => {
                    let greatest = picked().map(|(_, logit)| logit).fold(f32::MIN, f32::max);
                    (greatest, picked().map(|(_, logit)| exp(logit - greatest)).sum())
                }
            };
            let weight = |logit: f32| exp(logit - greatest) / total;
            found.extend(
                picked().map(|(expert, logit)| (expert, Route { row: row as u32, weight: weight(logit) })),
            );
        }
        found.sort_by_key(|(expert, _)| *expert);
        let start = |expert: usize| found.partition_point(|(other, _)| *other < expert);
        let starts = (0..=count).map(start).collect();
        Routes { starts, routes: found.into_iter().map(|(_, route)| route).collect() }
    }

    /// The most routes of an expert.
    fn most(&self) -> usize {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    fn of(&self, expert: usize) -> &[Route] {
        &self.routes[self.starts[expert]..self.starts[expert + 1]]
    }
}

/// Marks the `top_k` greatest logits; of equal ones the first.
fn choose(logits: &[f32], top_k: usize, chosen: &mut [bool]) {
    chosen.fill(false);
    for _ in 0..top_k {
        let mut best = None;
        for (expert, logit) in logits.iter().enumerate() {
            if !chosen[expert] && best.is_none_or(|best: usize| *logit > logits[best]) {
                best = Some(expert);
            }
        }
        chosen[best.expect("fewer are chosen than there are")] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};
    use crate::reference;

    pub(super) const WIDTH: usize = 6;
    const INNER: usize = 5;
    pub(super) const COUNT: usize = 7;

    pub(super) fn layer(top_k: usize, weighting: ExpertWeighting) -> Experts {
        let weight = |offset, rows, cols| Weight { offset, rows, cols };
        let start = COUNT * WIDTH;
        Experts {
            router: weight(0, COUNT, WIDTH),
            gate_up: weight(start, 2 * INNER, WIDTH),
            down: weight(start + 2 * INNER * WIDTH, WIDTH, INNER),
            stride: 3 * INNER * WIDTH,
            top_k,
            weighting,
            activation: Activation::Silu,
        }
    }

    pub(super) fn multiply(flat: &[f32], x: &[f32], w: Weight, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(w.cols).zip(out.chunks_exact_mut(w.rows)) {
            for (row, out) in w.of(flat).chunks_exact(w.cols).zip(out) {
                *out = row.iter().zip(x).fold(0.0, |sum, (w, x)| w.mul_add(*x, sum));
            }
        }
    }

    /// One row, expert by expert, by the definition.
    fn by_definition(flat: &[f32], experts: Experts, x: &[f32], logits: &[f32]) -> Vec<f32> {
        let mut order: Vec<usize> = (0..COUNT).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let mut chosen = order[..experts.top_k].to_vec();
        chosen.sort_unstable();
        let total: f64 = match experts.weighting {
            ExpertWeighting::OfAll => logits.iter().map(|logit| f64::from(*logit).exp()).sum(),
            ExpertWeighting::OfChosen => chosen.iter().map(|expert| f64::from(logits[*expert]).exp()).sum(),
        };
        let mut out = vec![0.0; WIDTH];
        for expert in chosen {
            let weight = (f64::from(logits[expert]).exp() / total) as f32;
            let (mut gate_up, mut hidden) = (vec![0.0; 2 * INNER], vec![0.0; INNER]);
            let mut y = vec![0.0; WIDTH];
            multiply(flat, x, experts.gate_up_of(expert), &mut gate_up);
            reference::activation::gated(&gate_up, Activation::Silu, 1, &mut hidden);
            multiply(flat, &hidden, experts.down_of(expert), &mut y);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
        }
        out
    }

    #[test]
    fn rows_get_what_their_experts_make_alone_and_in_company() {
        let flat = random(1, COUNT * (WIDTH + 3 * INNER * WIDTH));
        let rows = 23;
        let x = random(2, rows * WIDTH);
        let logits: Vec<f32> = random(3, rows * COUNT).iter().map(|x| 3.0 * x).collect();
        for (top_k, weighting) in [
            (1, ExpertWeighting::OfAll),
            (3, ExpertWeighting::OfAll),
            (2, ExpertWeighting::OfChosen),
            (7, ExpertWeighting::OfChosen),
        ] {
            let layer = layer(top_k, weighting);
            each_exec(|exec| {
                let mut product = |x: &[f32], w: Weight, out: &mut [f32]| multiply(&flat, x, w, out);
                let mut together = vec![0.0; x.len()];
                experts(exec, layer, ExpertRows { x: &x, logits: &logits }, &mut product, &mut together);
                for row in 0..rows {
                    let x = &x[row * WIDTH..(row + 1) * WIDTH];
                    let logits = &logits[row * COUNT..(row + 1) * COUNT];
                    let found = &together[row * WIDTH..(row + 1) * WIDTH];
                    let mut alone = vec![0.0; WIDTH];
                    experts(exec, layer, ExpertRows { x, logits }, &mut product, &mut alone);
                    assert_same_bits("experts", exec, found, &alone);
                    let expected = by_definition(&flat, layer, x, logits);
                    let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5);
                    assert!(close, "row {row}, {top_k} chosen: {found:?}, by definition {expected:?}");
                }
            });
        }
    }
}
