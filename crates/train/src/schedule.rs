//! The learning rate's course: a pure function of the step.
//!
//! It must not know the optimiser, the clock, nor how far a run has come.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A course of the learning rate, as a factor on its peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The course's shape.
    pub kind: ScheduleKind,
    /// Steps over which the factor rises linearly to 1.
    pub warmup_steps: usize,
    /// Steps of the final decay, for `warmup_stable_decay` only.
    pub decay_steps: usize,
    /// Shape of the final decay, for `warmup_stable_decay` only.
    pub decay: Decay,
    /// The factor that the course ends at.
    pub floor: f64,
}

/// Shapes of a course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays at the peak after the warm-up.
    Constant,
    /// Half a cosine from the peak to the floor (Loshchilov & Hutter 2017, "SGDR", equation 5).
    Cosine,
    /// Stays at the peak, then decays (Hu et al. 2024, "MiniCPM", section 4).
    WarmupStableDecay,
}

/// Shapes of the final decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// 1 − x.
    Linear,
    /// 1 − √x (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    /// Durations", equation 2).
    OneMinusSqrt,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            kind: ScheduleKind::Cosine,
            warmup_steps: 0,
            decay_steps: 0,
            decay: Decay::OneMinusSqrt,
            floor: 0.1,
        }
    }
}

impl Schedule {
    /// The factor on the peak learning rate at `step` (0 is the first) of `steps`.
    ///
    /// The warm-up's first step has 1 / warmup_steps and its last one 1; the last step of a decaying course
    /// has the floor.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let height = match self.kind {
            ScheduleKind::Constant => return 1.0,
            ScheduleKind::Cosine => 0.5 * (1.0 + (PI * progress(step, self.warmup_steps, steps)).cos()),
            ScheduleKind::WarmupStableDecay => {
                let start = steps.saturating_sub(self.decay_steps).max(self.warmup_steps);
                if step < start {
                    return 1.0;
                }
                // The step before the decay has the peak, so that none repeats it.
                let done = (step + 1 - start) as f64 / (steps - start).max(1) as f64;
                match self.decay {
                    Decay::Linear => 1.0 - done.min(1.0),
                    Decay::OneMinusSqrt => 1.0 - done.min(1.0).sqrt(),
                }
            }
        };
        self.floor + (1.0 - self.floor) * height
    }
}

/// How far `step` is on the way from the last step of the warm-up to the last of `steps`, 0 to 1.
fn progress(step: usize, warmup_steps: usize, steps: usize) -> f64 {
    let first = warmup_steps.saturating_sub(1);
    let way = (steps - 1).saturating_sub(first).max(1);
    ((step - first) as f64 / way as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_at_their_turning_points() {
        let cosine = Schedule { warmup_steps: 10, floor: 0.1, ..Schedule::default() };
        let stable = Schedule {
            kind: ScheduleKind::WarmupStableDecay,
            warmup_steps: 10,
            decay_steps: 20,
            decay: Decay::Linear,
            floor: 0.0,
        };
        let root = Schedule { decay: Decay::OneMinusSqrt, ..stable.clone() };
        let constant = Schedule { kind: ScheduleKind::Constant, warmup_steps: 2, ..Schedule::default() };
        let bare = Schedule::default();
        let cases = [
            (&cosine, 0, 0.1),
            (&cosine, 4, 0.5),
            (&cosine, 9, 1.0),
            (&cosine, 54, 0.55),
            (&cosine, 99, 0.1),
            (&cosine, 200, 0.1),
            (&stable, 9, 1.0),
            (&stable, 79, 1.0),
            (&stable, 80, 0.95),
            (&stable, 89, 0.5),
            (&stable, 99, 0.0),
            (&root, 79, 1.0),
            (&root, 84, 0.5),
            (&root, 99, 0.0),
            (&constant, 0, 0.5),
            (&constant, 50, 1.0),
            (&bare, 0, 1.0),
            (&bare, 99, 0.1),
        ];
        for (schedule, step, expected) in cases {
            let factor = schedule.factor(step, 100);
            assert!((factor - expected).abs() < 1e-12, "{schedule:?} at {step}: {factor}, not {expected}");
        }
    }

    #[test]
    fn a_course_rises_then_never_rises_again() {
        for kind in [ScheduleKind::Constant, ScheduleKind::Cosine, ScheduleKind::WarmupStableDecay] {
            for (steps, warmup_steps, decay_steps) in
                [(1, 0, 0), (1, 1, 0), (50, 7, 11), (50, 50, 0), (50, 0, 50)]
            {
                let schedule = Schedule { kind, warmup_steps, decay_steps, ..Schedule::default() };
                let factors: Vec<f64> = (0..steps).map(|step| schedule.factor(step, steps)).collect();
                let peak = warmup_steps.saturating_sub(1);
                assert!(factors[..=peak].is_sorted(), "{schedule:?}: {factors:?}");
                assert!(factors[peak..].iter().rev().is_sorted(), "{schedule:?}: {factors:?}");
                assert!(
                    factors.iter().all(|factor| (0.0..=1.0).contains(factor)),
                    "{schedule:?}: {factors:?}"
                );
            }
        }
    }
}
