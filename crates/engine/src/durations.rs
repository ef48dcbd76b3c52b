//! How long something takes, counted in classes. Knows not what is timed.

use std::time::Duration;

/// Classes of durations: class `k` holds what took less than 2^k microseconds and is in no class before; the last holds
/// all that took longer.
const CLASSES: usize = 24;

/// Counts of durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    counts: [u64; CLASSES],
    total: Duration,
}

impl Durations {
    /// Counts one.
    pub fn note(&mut self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        let class = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[class.min(CLASSES - 1)] += 1;
        self.total += duration;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The classes in ascending order: what each one's durations stay below, and how many there are. The last one's
    /// bound is of no meaning.
    pub fn classes(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.counts.into_iter().enumerate().map(|(class, count)| (Duration::from_micros(1 << class), count))
    }

    /// What a share of all, from 0 to 1, stayed below, to a factor of two; zero where none were counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (share * self.count() as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        let found = self.classes().find(|&(_, count)| {
            sum += count;
            sum >= wanted
        });
        found.map_or(Duration::ZERO, |(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_factor_of_two() {
        let mut durations = Durations::default();
        assert_eq!((durations.count(), durations.quantile(0.5)), (0, Duration::ZERO));
        for micros in 1..=1_000 {
            durations.note(Duration::from_micros(micros));
        }
        durations.note(Duration::ZERO);
        durations.note(Duration::from_secs(1_000));
        assert_eq!(durations.count(), 1_002);
        for (share, micros) in [(0.001, 1), (0.25, 250), (0.5, 500), (0.99, 990)] {
            let found = durations.quantile(share).as_micros() as u64;
            assert!((micros..=2 * micros + 1).contains(&found), "{share}: {found}");
        }
        assert_eq!(durations.total().as_secs(), 1_000);
        assert_eq!(durations.classes().map(|(_, count)| count).sum::<u64>(), 1_002);
    }
}
