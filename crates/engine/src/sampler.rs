//! Choosing an id from a row of logits. Knows neither the model nor how the logits came about.
//!
//! Everything here happens in a fixed order and with our own `exp` and `ln`, and the random number for the n-th
//! generated id depends on the seed and n alone. So the same seed gives the same ids on any machine and in
//! any company.

mod repetition;

use std::cmp::Ordering;

use base::seed::Rng;
use repetition::Repetition;

use crate::{LogProb, Mask, Result, Sampling};

/// The stream of random numbers that sampling reads, apart from every other use of the same seed.
const STREAM: u64 = 0x7361_6d70_6c65;

/// Candidates that are put in order first when `top_p` cuts; eight times as many follow as long as they do
/// not suffice.
const ORDERED_FIRST: usize = 64;

/// Chooses the ids of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    repetition: Repetition,
}

/// Room for choosing an id, so that it does not allocate after the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// An id and its unnormalised probability after temperature; the most probable id weighs 1.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    weight: f32,
    id: u32,
}

/// What an id is chosen from.
pub(crate) struct Row<'a> {
    /// As the model gave them, (vocabulary).
    pub logits: &'a [f32],
    /// All ids before the one that is chosen.
    pub ids: &'a [u32],
    /// The ids that may be chosen; `None`: all.
    pub mask: Option<&'a Mask>,
}

impl Sampler {
    /// # Errors
    /// [`crate::Error::Parameter`] where a value of `sampling` is outside its range.
    pub fn new(mut sampling: Sampling, prompt: &[u32]) -> Result<Self> {
        sampling.check()?;
        if let Some(dry) = &mut sampling.dry {
            dry.breakers.sort_unstable();
        }
        let repetition = Repetition::new(&sampling, prompt);
        Ok(Self { sampling, repetition })
    }

    /// The id at position `index` of the answer. `None` where a logit is not finite, or where there is no id to
    /// choose from.
    pub fn pick(&mut self, row: Row<'_>, index: usize, room: &mut Room) -> Option<u32> {
        let best = most_probable(row.logits)?;
        let Room { logits, candidates } = room;
        let (logits, best) = if self.changes_logits() || row.mask.is_some() {
            logits.clear();
            logits.extend_from_slice(row.logits);
            self.change(logits, row.ids);
            if let Some(mask) = row.mask {
                mask.forbid(logits);
            }
            (&logits[..], highest_of(logits)?)
        } else {
            (row.logits, best)
        };
        if self.sampling.temperature == 0.0 {
            return Some(best);
        }
        self.weigh(logits, logits[best as usize], candidates);
        let total = self.cut(candidates);
        let mut rest = Rng::at(self.sampling.seed, STREAM, index as u64).uniform_f64() * total;
        for candidate in candidates.iter() {
            rest -= f64::from(candidate.weight);
            if rest < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding may leave a rest of zero after the last candidate.
        candidates.last().map(|candidate| candidate.id)
    }

    /// Notes the id that the answer goes on with.
    pub fn accept(&mut self, id: u32) {
        self.repetition.accept(id);
    }

    fn changes_logits(&self) -> bool {
        !self.sampling.logit_bias.is_empty() || self.repetition.is_on() || self.sampling.dry.is_some()
    }

    fn change(&self, logits: &mut [f32], ids: &[u32]) {
        for &(id, bias) in &self.sampling.logit_bias {
            logits[id as usize] += bias;
        }
        self.repetition.penalise(&self.sampling, logits);
        if let Some(dry) = &self.sampling.dry {
            repetition::dry(dry, ids, logits);
        }
    }

    /// Fills the candidates in ascending order of ids; forbidden ids are none.
    fn weigh(&self, logits: &[f32], highest: f32, candidates: &mut Vec<Candidate>) {
        let Sampling { temperature, min_p, .. } = self.sampling;
        let weights =
            (0u32..).zip(logits).filter(|(_, logit)| **logit != f32::NEG_INFINITY).map(|(id, &logit)| {
                Candidate { weight: tensor::reference::math::exp((logit - highest) / temperature), id }
            });
        candidates.clear();
        // The most probable weighs 1, so the weight is the share of its probability.
        candidates.extend(weights.filter(|candidate| candidate.weight >= min_p));
    }

    /// Leaves the candidates that `top_k`, `typical_p` and then `top_p` allow and returns the sum of their
    /// weights.
    fn cut(&self, candidates: &mut Vec<Candidate>) -> f64 {
        let sampling = &self.sampling;
        if (1..candidates.len()).contains(&sampling.top_k) {
            candidates.select_nth_unstable_by(sampling.top_k - 1, most_probable_first);
            candidates.truncate(sampling.top_k);
            candidates.sort_unstable_by(most_probable_first);
        }
        if sampling.typical_p < 1.0 {
            keep_typical(candidates, sampling.typical_p);
        }
        let total = sum(candidates);
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

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// Leaves the fewest candidates nearest to the expected surprise whose probabilities sum to `typical_p`.
fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    use tensor::reference::math::ln;
    let total = sum(candidates);
    // With p = w / total, the entropy is ln total - Σ w ln w / total, and -ln p is ln total - ln w.
    let surprise = |candidate: &Candidate| match candidate.weight {
        0.0 => f64::INFINITY,
        weight => -f64::from(ln(weight)),
    };
    let expected: f64 = candidates
        .iter()
        .filter(|candidate| candidate.weight > 0.0)
        .map(|candidate| f64::from(candidate.weight) * surprise(candidate))
        .sum::<f64>()
        / total;
    let distance = |candidate: &Candidate| (surprise(candidate) - expected).abs();
    candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
    if let Some((kept, _)) = prefix_of(candidates, total * f64::from(typical_p)) {
        candidates.truncate(kept);
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

/// The id of the highest logit that is not forbidden, the lowest of equals; `None` where all are forbidden or
/// one is no number.
fn highest_of(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > highest {
            (best, highest) = (Some(id), logit);
        } else if logit.is_nan() {
            return None;
        }
    }
    best.filter(|_| highest.is_finite())
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
        sampler_of(Sampling { temperature, top_k, top_p, seed: 11, ..Sampling::default() })
    }

    fn sampler_of(sampling: Sampling) -> Sampler {
        Sampler::new(sampling, &[]).unwrap()
    }

    fn pick(sampler: &mut Sampler, logits: &[f32], index: usize) -> Option<u32> {
        sampler.pick(Row { logits, ids: &[], mask: None }, index, &mut Room::default())
    }

    /// How often each id is drawn in 20,000 draws.
    fn shares(sampler: &mut Sampler, logits: &[f32]) -> Vec<f64> {
        let row = |logits| Row { logits, ids: &[], mask: None };
        let (mut counts, mut room) = (vec![0.0; logits.len()], Room::default());
        for index in 0..20_000 {
            counts[sampler.pick(row(logits), index, &mut room).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_refuses_what_is_not_finite() {
        let mut greedy = sampler(0.0, 0, 1.0);
        assert_eq!(pick(&mut greedy, &[1.0, 3.0, 2.0, 3.0], 0), Some(1));
        assert_eq!(pick(&mut greedy, &[-5.0], 0), Some(0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(pick(&mut greedy, &[1.0, bad, 2.0], 0), None);
        }
        assert_eq!(pick(&mut greedy, &[], 0), None);
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
            let sampler = sampler(0.7, 0, top_p);
            let mut candidates = Vec::new();
            sampler.weigh(&logits, logits[most_probable(&logits).unwrap() as usize], &mut candidates);
            let mut all = candidates.clone();
            let total = all.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
            all.sort_by(most_probable_first);
            let (kept, sum) = prefix_of(&all, total * f64::from(top_p)).unwrap();
            assert_eq!(sampler.cut(&mut candidates), sum);
            let ids = |candidates: &[Candidate]| {
                candidates.iter().map(|candidate| candidate.id).collect::<Vec<_>>()
            };
            assert_eq!(ids(&candidates), ids(&all[..kept]), "top_p {top_p}");
        }
    }

    /// Reproducible logits with ties.
    fn rows() -> impl Iterator<Item = Vec<f32>> {
        (0..40u64).map(|row| {
            let mut rng = Rng::at(row, 1, 2);
            (0..90).map(|_| (rng.uniform_f64() * 60.0).floor() as f32 / 10.0 - 3.0).collect()
        })
    }

    /// The ids that may be drawn by the definitions, in f64, and their probabilities.
    fn by_definition(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
        let weights = logits.iter().map(|&logit| f64::from(logit / sampling.temperature).exp());
        let mut ids: Vec<(u32, f64)> = (0u32..).zip(weights).collect();
        let normalise = |ids: &mut Vec<(u32, f64)>| {
            let total: f64 = ids.iter().map(|(_, p)| p).sum();
            ids.iter_mut().for_each(|(_, p)| *p /= total);
        };
        let keep = |ids: &mut Vec<(u32, f64)>, mass: f32| {
            let mut before = 0.0;
            ids.retain(|(_, p)| {
                let keeps = before < f64::from(mass) - 1e-9;
                before += p;
                keeps
            });
        };
        normalise(&mut ids);
        let highest = ids.iter().map(|(_, p)| *p).fold(0.0, f64::max);
        ids.retain(|(_, p)| *p >= f64::from(sampling.min_p) * highest * (1.0 - 1e-6));
        ids.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ids.truncate(if sampling.top_k == 0 { ids.len() } else { sampling.top_k });
        normalise(&mut ids);
        if sampling.typical_p < 1.0 {
            let entropy: f64 = ids.iter().map(|(_, p)| -p * p.ln()).sum();
            // Rounded, so that equals are equals in f64 too.
            let distance = |p: f64| ((-p.ln() - entropy).abs() * 1e4).round();
            ids.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0)));
            keep(&mut ids, sampling.typical_p);
            ids.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            normalise(&mut ids);
        }
        keep(&mut ids, sampling.top_p);
        normalise(&mut ids);
        ids.sort_by_key(|&(id, _)| id);
        ids
    }

    #[test]
    fn cuts_leave_what_their_definitions_leave() {
        let check = |sampling: Sampling| {
            for logits in rows() {
                let expected = by_definition(&logits, &sampling);
                let sampler = sampler_of(sampling.clone());
                let mut candidates = Vec::new();
                sampler.weigh(&logits, logits[most_probable(&logits).unwrap() as usize], &mut candidates);
                let total = sampler.cut(&mut candidates);
                candidates.sort_by_key(|candidate| candidate.id);
                let ids: Vec<u32> = candidates.iter().map(|candidate| candidate.id).collect();
                assert_eq!(ids, expected.iter().map(|&(id, _)| id).collect::<Vec<_>>(), "{sampling:?}");
                for (candidate, (_, p)) in candidates.iter().zip(expected) {
                    assert!((f64::from(candidate.weight) / total - p).abs() < 1e-5, "{sampling:?}");
                }
            }
        };
        let plain = || Sampling { temperature: 0.8, ..Sampling::default() };
        check(plain());
        for min_p in [0.02, 0.3, 1.0] {
            check(Sampling { min_p, ..plain() });
            check(Sampling { min_p, top_p: 0.7, ..plain() });
        }
        for typical_p in [0.05, 0.5, 0.93] {
            check(Sampling { typical_p, ..plain() });
            check(Sampling { typical_p, top_k: 30, top_p: 0.8, min_p: 0.05, ..plain() });
        }
    }

    #[test]
    fn penalties_and_biases_change_logits_as_defined() {
        let prompt = [3, 5, 5];
        let sampling = Sampling {
            repetition_penalty: 1.5,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            logit_bias: vec![(0, 10.0), (6, -1.0)],
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, &prompt).unwrap();
        [6, 6, 7].into_iter().for_each(|id| sampler.accept(id));
        let mut logits = vec![1.0, 1.0, 1.0, 3.0, 1.0, -3.0, 4.0, -2.0];
        sampler.change(&mut logits, &[]);
        let expected = [11.0, 1.0, 1.0, 2.0, 1.0, -4.5, 3.0 / 1.5 - 2.0 * 0.5 - 0.25, -3.0 - 0.5 - 0.25];
        assert_eq!(logits, expected);
        // Presence and frequency look at the answer alone.
        let sampling = Sampling { presence_penalty: 1.0, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, &prompt).unwrap();
        sampler.accept(1);
        let mut logits = vec![0.0; 8];
        sampler.change(&mut logits, &[]);
        assert_eq!(logits, [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_forbidden_is_never_drawn() {
        let mut mask = Mask::default();
        mask.set(&[1 << 4 | 1 << 9]);
        let logits: Vec<f32> = (0..40).map(|id| if id == 20 { 30.0 } else { 0.1 * id as f32 }).collect();
        for temperature in [0.0, 1.0, 5.0] {
            let mut sampler = sampler_of(Sampling { temperature, ..Sampling::default() });
            let mut drawn: Vec<u32> = (0..200)
                .map(|index| {
                    let row = Row { logits: &logits, ids: &[], mask: Some(&mask) };
                    sampler.pick(row, index, &mut Room::default()).unwrap()
                })
                .collect();
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn, if temperature == 0.0 { vec![9] } else { vec![4, 9] });
        }
        mask.set(&[]);
        let row = Row { logits: &logits, ids: &[], mask: Some(&mask) };
        assert_eq!(sampler(1.0, 0, 1.0).pick(row, 0, &mut Room::default()), None);
    }

    #[test]
    fn the_seed_decides_the_draws_and_the_position_alone_decides_which() {
        let logits: Vec<f32> = (0..50).map(|id| (id % 7) as f32 * 0.3).collect();
        let draw = |seed: u64, indices: &[usize]| -> Vec<u32> {
            let mut sampler = sampler_of(Sampling { temperature: 1.0, seed, ..Sampling::default() });
            indices.iter().map(|&index| pick(&mut sampler, &logits, index).unwrap()).collect()
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
            assert_eq!(sampling.check().unwrap_err().to_string(), expected);
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
