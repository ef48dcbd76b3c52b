//! Choosing an id from a row of logits. Knows neither the model nor how the logits came about.
//!
//! Everything here happens in a fixed order and with our own `exp`, and the random number for the n-th
//! generated id depends on the seed and n alone. So the same seed gives the same ids on any machine and in
//! any company.

use std::cmp::Ordering;

use base::seed::Rng;

use crate::{LogProb, Result, Sampling};

/// The stream of random numbers that sampling reads, apart from every other use of the same seed.
const STREAM: u64 = 0x7361_6d70_6c65;

/// Candidates that are put in order first when `top_p` cuts; eight times as many follow as long as they do
/// not suffice.
const ORDERED_FIRST: usize = 64;

/// Draws ids for one sequence. Holds its own room for candidates, so that drawing does not allocate after the
/// first id.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    candidates: Vec<Candidate>,
}

/// An id and its unnormalised probability after temperature; the most probable id weighs 1.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    weight: f32,
    id: u32,
}

impl Sampler {
    /// # Errors
    /// [`crate::Error::Parameter`] where a value of `sampling` is outside its range.
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        Ok(Self { sampling, candidates: Vec::new() })
    }

    /// The id at position `index` of the answer, from one row of logits (vocabulary).
    /// `None` where a logit is not finite, or where there are no logits.
    pub fn pick(&mut self, logits: &[f32], index: usize) -> Option<u32> {
        let best = most_probable(logits)?;
        if self.sampling.temperature == 0.0 {
            return Some(best);
        }
        self.weigh(logits, logits[best as usize]);
        let total = self.cut();
        let mut rest = Rng::at(self.sampling.seed, STREAM, index as u64).uniform_f64() * total;
        for candidate in &self.candidates {
            rest -= f64::from(candidate.weight);
            if rest < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding may leave a rest of zero after the last candidate.
        self.candidates.last().map(|candidate| candidate.id)
    }

    /// Fills the candidates in ascending order of ids.
    fn weigh(&mut self, logits: &[f32], highest: f32) {
        let temperature = self.sampling.temperature;
        self.candidates.clear();
        self.candidates.extend((0u32..).zip(logits).map(|(id, &logit)| {
            let weight = tensor::reference::math::exp((logit - highest) / temperature);
            Candidate { weight, id }
        }));
    }

    /// Leaves the candidates that `top_k` and then `top_p` allow and returns the sum of their weights.
    fn cut(&mut self) -> f64 {
        let Self { sampling, candidates } = self;
        if (1..candidates.len()).contains(&sampling.top_k) {
            candidates.select_nth_unstable_by(sampling.top_k - 1, most_probable_first);
            candidates.truncate(sampling.top_k);
            candidates.sort_unstable_by(most_probable_first);
        }
        let total = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
        if sampling.top_p == 1.0 {
            return total;
        }
        let enough = total * f64::from(sampling.top_p);
        let mut ordered = ORDERED_FIRST;
        loop {
            let count = ordered.min(candidates.len());
            if count < candidates.len() {
                candidates.select_nth_unstable_by(count - 1, most_probable_first);
            }
            candidates[..count].sort_unstable_by(most_probable_first);
            if let Some((kept, sum)) = prefix_of(&candidates[..count], enough) {
                candidates.truncate(kept);
                return sum;
            }
            if count == candidates.len() {
                return total;
            }
            ordered *= 8;
        }
    }
}

/// The fewest first candidates whose weights reach `enough`, and the sum of those weights.
fn prefix_of(candidates: &[Candidate], enough: f64) -> Option<(usize, f64)> {
    let mut sum = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        sum += f64::from(candidate.weight);
        if sum >= enough {
            return Some((index + 1, sum));
        }
    }
    None
}

fn most_probable_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// The id of the highest logit, the lowest of equals; `None` where any is not finite.
fn most_probable(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if !logit.is_finite() {
            return None;
        }
        if logit > highest {
            (best, highest) = (Some(id), logit);
        }
    }
    best
}

/// The `count` highest of a row of logits or log-probabilities, highest first, the lower id first among
/// equals.
pub(crate) fn highest(values: &[f32], count: usize) -> Vec<LogProb> {
    let higher_first = |a: &LogProb, b: &LogProb| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id));
    let mut top: Vec<LogProb> = Vec::with_capacity(count + 1);
    for (id, &logprob) in (0u32..).zip(values) {
        let candidate = LogProb { id, logprob };
        if top.len() == count && top.last().is_none_or(|last| higher_first(last, &candidate).is_lt()) {
            continue;
        }
        let place = top.partition_point(|kept| higher_first(kept, &candidate).is_lt());
        top.insert(place, candidate);
        top.truncate(count);
    }
    top
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sampler(temperature: f32, top_k: usize, top_p: f32) -> Sampler {
        Sampler::new(Sampling { temperature, top_k, top_p, seed: 11 }).unwrap()
    }

    /// How often each id is drawn in 20,000 draws.
    fn shares(sampler: &mut Sampler, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for index in 0..20_000 {
            counts[sampler.pick(logits, index).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_refuses_what_is_not_finite() {
        let mut greedy = sampler(0.0, 0, 1.0);
        assert_eq!(greedy.pick(&[1.0, 3.0, 2.0, 3.0], 0), Some(1));
        assert_eq!(greedy.pick(&[-5.0], 0), Some(0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(greedy.pick(&[1.0, bad, 2.0], 0), None);
        }
        assert_eq!(greedy.pick(&[], 0), None);
    }

    #[test]
    fn draws_follow_the_softmax_of_the_allowed_ids() {
        // Probabilities 0.4, 0.1, 0.3, 0.2 at temperature 1.
        let logits = [0.4f32.ln(), 0.1f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let check = |mut sampler: Sampler, expected: [f64; 4]| {
            let shares = shares(&mut sampler, &logits);
            for (share, wanted) in shares.iter().zip(expected) {
                assert!((share - wanted).abs() < 0.015, "{sampler:?}: {shares:?} beside {expected:?}");
                assert_eq!(*share == 0.0, wanted == 0.0);
            }
        };
        check(sampler(1.0, 0, 1.0), [0.4, 0.1, 0.3, 0.2]);
        check(sampler(1.0, 2, 1.0), [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        check(sampler(1.0, 0, 0.85), [4.0 / 9.0, 0.0, 3.0 / 9.0, 2.0 / 9.0]);
        check(sampler(1.0, 3, 0.5), [4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        check(sampler(1.0, 1, 1.0), [1.0, 0.0, 0.0, 0.0]);
        check(sampler(0.5, 0, 1.0), [16.0 / 30.0, 1.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0]);
        check(sampler(1e-6, 0, 1.0), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_cut_deep_in_a_large_vocabulary_equals_the_plain_definition() {
        let logits: Vec<f32> = (0..3_000u32).map(|id| ((id * 7919) % 3_001) as f32 / 3_001.0).collect();
        for top_p in [0.001, 0.05, 0.5, 0.97, 0.9999] {
            let mut sampler = sampler(0.7, 0, top_p);
            sampler.weigh(&logits, logits[most_probable(&logits).unwrap() as usize]);
            let mut all = sampler.candidates.clone();
            let total = all.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
            all.sort_by(most_probable_first);
            let (kept, sum) = prefix_of(&all, total * f64::from(top_p)).unwrap();
            assert_eq!(sampler.cut(), sum);
            let ids = |candidates: &[Candidate]| {
                candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>()
            };
            assert_eq!(ids(&sampler.candidates), ids(&all[..kept]), "top_p {top_p}");
        }
    }

    #[test]
    fn the_seed_decides_the_draws_and_the_position_alone_decides_which() {
        let logits: Vec<f32> = (0..50).map(|id| (id % 7) as f32 * 0.3).collect();
        let draw = |seed: u64, indices: &[usize]| -> Vec<u32> {
            let mut sampler =
                Sampler::new(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed }).unwrap();
            indices.iter().map(|&index| sampler.pick(&logits, index).unwrap()).collect()
        };
        let forwards: Vec<usize> = (0..64).collect();
        let backwards: Vec<usize> = (0..64).rev().collect();
        let mut reversed = draw(3, &backwards);
        reversed.reverse();
        assert_eq!(draw(3, &forwards), reversed);
        assert_ne!(draw(3, &forwards), draw(4, &forwards));
    }

    #[test]
    fn values_outside_their_range_are_named() {
        let check = |temperature: f32, top_p: f32, expected: &str| {
            let sampling = Sampling { temperature, top_p, ..Sampling::default() };
            assert_eq!(Sampler::new(sampling).unwrap_err().to_string(), expected);
        };
        check(-1.0, 1.0, "temperature is -1; it must be a finite number, 0 or more");
        check(f32::NAN, 1.0, "temperature is NaN; it must be a finite number, 0 or more");
        check(1.0, 0.0, "top_p is 0; it must be above 0 and at most 1");
        check(1.0, 1.5, "top_p is 1.5; it must be above 0 and at most 1");
    }

    #[test]
    fn the_highest_log_probabilities_come_in_order() {
        let row = [-3.0, -1.0, -2.0, -1.0, -5.0];
        let ids = |count| highest(&row, count).iter().map(|top| top.id).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(1), ids(3), ids(9)), (vec![], vec![1], vec![1, 3, 2], vec![1, 3, 2, 0, 4]));
    }
}
