//! What a stage remembers of its own course: whether its loss has exploded, which evaluation was the best, and how many
//! have passed since. Checkpoints hold it, so that a resumed stage decides as an unbroken one. It must not know files,
//! weights or the clock.

use crate::TrainOptions;
use serde::{Deserialize, Serialize};

/// Weight of a step in the running mean of the loss: a memory of about ten steps.
const MEAN_WEIGHT: f64 = 0.1;

/// The memory of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    /// Sum of losses, each worth less by 1 − [`MEAN_WEIGHT`] for every step since.
    sum: Exact,
    /// Sum of the same weights.
    weight: Exact,
    /// The lowest running mean so far.
    lowest: Option<Exact>,
    /// Steps in a row whose loss was far above it.
    pub(crate) steps_above: usize,
    /// The best evaluation.
    best: Option<(usize, Exact)>,
    /// Evaluations since then.
    stale: usize,
}

/// A number that survives JSON bit for bit: its bits as an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
struct Exact(f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Exact {
        Exact(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(number: Exact) -> u64 {
        number.0.to_bits()
    }
}

impl Course {
    /// Takes the loss of a step; whether it has exploded (see [`TrainOptions::explosion_nats`]).
    pub(crate) fn after_step(&mut self, loss: f64, options: &TrainOptions) -> bool {
        let is_above = self.lowest.is_some_and(|lowest| loss > lowest.0 + options.explosion_nats);
        self.steps_above = if is_above && options.explosion_nats > 0.0 { self.steps_above + 1 } else { 0 };
        let keep = 1.0 - MEAN_WEIGHT;
        self.sum = Exact(keep * self.sum.0 + loss);
        self.weight = Exact(keep * self.weight.0 + 1.0);
        let mean = self.sum.0 / self.weight.0;
        self.lowest = Some(Exact(self.lowest.map_or(mean, |lowest| lowest.0.min(mean))));
        self.steps_above > 0 && self.steps_above >= options.explosion_steps
    }

    /// Takes an evaluation; whether it is the best so far.
    pub(crate) fn after_evaluation(&mut self, step: usize, loss: f64) -> bool {
        let is_best = self.best.is_none_or(|(_, best)| loss < best.0);
        if is_best {
            self.best = Some((step, Exact(loss)));
        }
        self.stale = if is_best { 0 } else { self.stale + 1 };
        is_best
    }

    /// Whether as many evaluations as `options` allow have passed without a better one.
    pub(crate) fn is_exhausted(&self, options: &TrainOptions) -> bool {
        options.patience > 0 && self.stale >= options.patience
    }

    /// The lowest running mean of the loss, in nats.
    pub(crate) fn lowest_mean(&self) -> Option<f64> {
        Some(self.lowest?.0)
    }

    /// Step and loss of the best evaluation.
    pub(crate) fn best(&self) -> Option<(usize, f64)> {
        self.best.map(|(step, loss)| (step, loss.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options() -> TrainOptions {
        let mut options = TrainOptions::new(100, 1, 1);
        (options.explosion_nats, options.explosion_steps, options.patience) = (2.0, 3, 2);
        options
    }

    /// The number of losses after which a stage stops, if any.
    fn stops_after(losses: &[f64], options: &TrainOptions) -> Option<usize> {
        let mut course = Course::default();
        losses.iter().position(|loss| {
            // Through a checkpoint's JSON after every step.
            let text = serde_json::to_string(&course).unwrap();
            assert_eq!(serde_json::from_str::<Course>(&text).unwrap(), course);
            course.after_step(*loss, options)
        })
    }

    #[test]
    fn only_a_lasting_rise_is_an_explosion() {
        let fallen = [8.0, 6.0, 4.0, 3.1, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0];
        let then = |more: &[f64]| [&fallen, more].concat();
        let off = TrainOptions { explosion_nats: 0.0, ..options() };
        let cases = [
            (then(&[9.0, 9.0, 9.0, 9.0]), options(), Some(16)),
            (then(&[9.0, 9.0, 3.0, 9.0, 9.0, 3.0]), options(), None),
            (then(&[4.9; 20]), options(), None),
            (then(&[7.0, 8.0, 9.0]), off, None),
            (vec![8.0, 11.0, 11.0, 11.0], options(), Some(3)),
            (vec![8.0; 50], options(), None),
        ];
        for (losses, options, expected) in cases {
            assert_eq!(stops_after(&losses, &options), expected, "{losses:?}");
        }
    }

    #[test]
    fn patience_counts_evaluations_without_a_better_one() {
        let mut course = Course::default();
        let cases = [
            (10, 3.0, true, false, 10),
            (20, 2.5, true, false, 20),
            (30, 2.5, false, false, 20),
            (40, 2.4, true, false, 40),
            (50, 2.6, false, false, 40),
            (60, 2.5, false, true, 40),
        ];
        for (step, loss, is_best, is_exhausted, best) in cases {
            assert_eq!(course.after_evaluation(step, loss), is_best, "{step}");
            assert_eq!(course.is_exhausted(&options()), is_exhausted, "{step}");
            assert_eq!(course.best().unwrap().0, best, "{step}");
        }
    }
}
