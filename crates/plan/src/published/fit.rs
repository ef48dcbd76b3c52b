//! The fit of the calibration to the fitted rows: descent along one coordinate at a time. It must not see other rows.

use super::{Run, Set, runs};
use crate::calibration::Calibration;

/// The factors that a coordinate is tried with, coarse to fine.
const FACTORS: [f64; 6] = [1.3, 1.1, 1.03, 1.01, 1.003, 1.001];
/// Rounds over all coordinates at each factor.
const ROUNDS: usize = 200;

/// The sum of squared logarithmic errors of the fitted rows.
pub fn loss(calibration: &Calibration, runs: &[Run]) -> f64 {
    let fitted = runs.iter().filter(|run| run.set == Set::Fitted);
    fitted.map(|run| (run.predicted(calibration) / run.measured()).ln().powi(2)).sum()
}

/// `start` with its fitted values where the fitted rows' errors are least.
pub fn fit(start: &Calibration) -> Calibration {
    let runs = runs();
    let mut best = start.clone();
    let mut least = loss(&best, &runs);
    for factor in FACTORS {
        for _ in 0..ROUNDS {
            let before = least;
            for coordinate in 0..COORDINATES {
                for factor in [factor, 1.0 / factor] {
                    let tried = moved(&best, coordinate, factor);
                    let loss = loss(&tried, &runs);
                    if loss < least {
                        (best, least) = (tried, loss);
                    }
                }
            }
            if least == before {
                break;
            }
        }
    }
    best
}

/// What is fitted: the shares of both classes, what overlapping hides, waiting, and FP8.
const COORDINATES: usize = 5;

/// `calibration` with one fitted value moved, within what a share can be.
fn moved(calibration: &Calibration, coordinate: usize, factor: f64) -> Calibration {
    let mut moved = calibration.clone();
    let share = |value: f64| (value * factor).min(1.0);
    match coordinate {
        0 | 1 => {
            let class = ["ampere", "hopper"][coordinate];
            if let Some(value) = moved.products.get_mut(class) {
                *value = share(*value);
            }
        }
        2 => moved.jitter *= factor,
        3 => moved.deepspeed = share(moved.deepspeed),
        _ => moved.fp8 = share(moved.fp8),
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped values are those that the fit finds, whatever it starts from.
    #[test]
    fn the_shipped_calibration_is_the_fit() {
        let shipped = Calibration::shipped();
        let mut start = shipped.clone();
        start.products.values_mut().for_each(|share| *share = 0.5);
        (start.jitter, start.fp8, start.deepspeed) = (0.01, 0.5, 0.7);
        let runs = runs();
        let found = fit(&start);
        assert!(loss(&found, &runs) < loss(&start, &runs));
        let (shipped, found) = (loss(&shipped, &runs), loss(&found, &runs));
        assert!(shipped < 1.01 * found, "shipped {shipped}, found {found}");
    }
}
