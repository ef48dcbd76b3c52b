//! Penalties for what a sequence already has. Knows neither temperature nor cuts.

use std::collections::HashMap;

use crate::Sampling;
use crate::request::Dry;

/// Repetitions are looked for up to this length: the penalty has long been as large as it can be.
const DRY_LENGTH_MAX: usize = 64;

/// Which ids the prompt and the answer have.
#[derive(Clone, Debug, Default)]
pub(super) struct Repetition {
    /// How often the answer has each id; 0 for ids that only the prompt has. `None` where no penalty asks for
    /// it.
    counts: Option<HashMap<u32, u32>>,
}

impl Repetition {
    pub fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let repeated = sampling.repetition_penalty != 1.0;
        let counted = sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let prompt = if repeated { prompt } else { &[] };
        let counts = (repeated || counted).then(|| prompt.iter().map(|&id| (id, 0)).collect());
        Self { counts }
    }

    pub fn is_on(&self) -> bool {
        self.counts.is_some()
    }

    pub fn accept(&mut self, id: u32) {
        if let Some(counts) = &mut self.counts {
            *counts.entry(id).or_default() += 1;
        }
    }

    /// Takes the penalties off a row of logits, (vocabulary). Each id's logit is changed by itself, so the order
    /// of ids does not matter.
    pub fn penalise(&self, sampling: &Sampling, logits: &mut [f32]) {
        for (&id, &count) in self.counts.iter().flatten() {
            let logit = &mut logits[id as usize];
            if *logit > 0.0 {
                *logit /= sampling.repetition_penalty;
            } else {
                *logit *= sampling.repetition_penalty;
            }
            *logit -= count as f32 * sampling.frequency_penalty;
            if count > 0 {
                *logit -= sampling.presence_penalty;
            }
        }
    }
}

/// Takes [`Dry`]'s penalty off the logits of ids that would continue a repetition of the last ids. Its breakers are in
/// ascending order.
pub(super) fn dry(dry: &Dry, ids: &[u32], logits: &mut [f32]) {
    let ids = if dry.last_n == 0 { ids } else { &ids[ids.len().saturating_sub(dry.last_n)..] };
    let Some(&last) = ids.last() else { return };
    let breaks = |id: &u32| dry.breakers.binary_search(id).is_ok();
    if breaks(&last) {
        return;
    }
    let mut longest: HashMap<u32, usize> = HashMap::new();
    // For each earlier place of the last id: how many ids before it equal those before the end.
    for end in (0..ids.len() - 1).filter(|&end| ids[end] == last) {
        let pairs = ids[..=end].iter().rev().zip(ids.iter().rev());
        let same = pairs.take(DRY_LENGTH_MAX).take_while(|(a, b)| a == b && !breaks(a)).count();
        let next = longest.entry(ids[end + 1]).or_default();
        *next = same.max(*next);
    }
    for (id, length) in longest {
        if length >= dry.allowed_length && !breaks(&id) {
            logits[id as usize] -= dry.multiplier * power(dry.base, length - dry.allowed_length);
        }
    }
}

/// `base` multiplied with itself, in a fixed order; not so large that a logit becomes infinite.
fn power(base: f32, exponent: usize) -> f32 {
    (0..exponent).fold(1.0f32, |product, _| (product * base).min(1e30))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The penalty of one id by its definition, every earlier place tried.
    fn by_definition(dry: &Dry, ids: &[u32], id: u32) -> f32 {
        let ids = if dry.last_n == 0 { ids } else { &ids[ids.len().saturating_sub(dry.last_n)..] };
        let breaks = |ids: &[u32]| ids.iter().any(|id| dry.breakers.contains(id));
        let repeats = |length: usize| {
            let end = &ids[ids.len() - length..];
            !breaks(end)
                && (0..ids.len() - length).any(|at| ids[at..at + length] == *end && ids[at + length] == id)
        };
        let longest = (1..ids.len()).take(DRY_LENGTH_MAX).filter(|&length| repeats(length)).max();
        match longest {
            Some(length) if length >= dry.allowed_length && !dry.breakers.contains(&id) => {
                dry.multiplier * dry.base.powi((length - dry.allowed_length) as i32)
            }
            _ => 0.0,
        }
    }

    #[test]
    fn dry_penalises_what_would_continue_a_repetition() {
        let mut state = 5u64;
        let mut penalised = 0;
        for round in 0..300 {
            let ids: Vec<u32> = (0..round % 40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                    (state >> 40) as u32 % 4
                })
                .collect();
            let dry_options = Dry {
                multiplier: 0.75,
                base: 1.5,
                allowed_length: 1 + round % 3,
                last_n: [0, 15][round % 2],
                breakers: if round % 5 == 0 { vec![3] } else { Vec::new() },
            };
            let mut logits = [0.0; 4];
            dry(&dry_options, &ids, &mut logits);
            for (id, logit) in (0u32..).zip(logits) {
                let expected = by_definition(&dry_options, &ids, id);
                assert!(
                    (logit + expected).abs() <= 1e-4 * expected,
                    "{id} after {ids:?}: {logit}, {expected}"
                );
                penalised += usize::from(expected > 0.0);
            }
        }
        assert!(penalised > 200, "{penalised}");
    }
}
