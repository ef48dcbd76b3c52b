//! AdamW and Muon over flat buffers: which range of the parameters follows which rule, and the state of each.
//!
//! It must not know the model beyond its layout's roles, nor the schedule.

use crate::muon::{self, Matrix, MuonStep};
use crate::options::{OptimiserKind, OptimiserOptions};
use model::{Entry, Role};
use std::ops::Range;
use tensor::kernels::{self, AdamW, AdamWState};
use tensor::{Device, Operation, Phase, Tensor, Work};

/// An optimiser with its state.
pub(crate) struct Optimiser {
    options: OptimiserOptions,
    groups: Vec<Group>,
    /// AdamW's moments, of the parameters that follow it, in their order.
    first_moment: Tensor,
    second_moment: Tensor,
    /// Muon's momentum, likewise.
    momentum: Tensor,
}

/// Neighbouring parameters that follow one rule.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    /// Their place in the flat buffers of weights and gradients.
    range: Range<usize>,
    /// Where their state begins.
    state: usize,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    AdamW { learning_rate: f64, weight_decay: f64 },
    Muon { rows: usize, cols: usize },
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepScale {
    /// Steps done before this one.
    pub(crate) step: usize,
    /// The schedule's factor on every learning rate.
    pub(crate) learning_rate_factor: f64,
    /// What gradients are multiplied with first.
    pub(crate) gradient_scale: f32,
}

impl Optimiser {
    /// An optimiser for the parameters of `entries`, its state zero.
    pub(crate) fn new(device: &Device, entries: &[Entry], options: &OptimiserOptions) -> Optimiser {
        let groups = groups(entries, options);
        let state_of = |is_muon: bool| -> usize {
            let chosen = groups.iter().filter(|group| matches!(group.rule, Rule::Muon { .. }) == is_muon);
            chosen.map(|group| group.range.len()).sum()
        };
        let (adamw, muon) = (state_of(false), state_of(true));
        Optimiser {
            options: options.clone(),
            first_moment: device.zeros(adamw),
            second_moment: device.zeros(adamw),
            momentum: device.zeros(muon),
            groups,
        }
    }

    /// One step over all weights; `gradients` begins with their gradients.
    pub(crate) fn step(&mut self, device: &Device, scale: StepScale, weights: &mut [f32], gradients: &[f32]) {
        let options = &self.options;
        for group in &self.groups {
            let weights = &mut weights[group.range.clone()];
            let gradient = &gradients[group.range.clone()];
            let state = group.state..group.state + group.range.len();
            match group.rule {
                Rule::AdamW { learning_rate, weight_decay } => {
                    let settings = AdamW {
                        learning_rate: learning_rate * scale.learning_rate_factor,
                        beta1: options.beta1,
                        beta2: options.beta2,
                        eps: options.eps,
                        weight_decay,
                        step: scale.step as u64 + 1,
                        gradient_scale: scale.gradient_scale,
                    };
                    let state = AdamWState {
                        first_moment: &mut self.first_moment.data_mut()[state.clone()],
                        second_moment: &mut self.second_moment.data_mut()[state],
                    };
                    // Reads weights, gradient and two moments, writes all but the gradient.
                    let work = || Work::floats(7 * weights.len());
                    let _timer = device.profile().time(Phase::Update, Operation::AdamW, work);
                    kernels::adamw_step(device.exec(), settings, weights, gradient, state);
                }
                Rule::Muon { rows, cols } => {
                    let settings = MuonStep {
                        learning_rate: options.muon_learning_rate * scale.learning_rate_factor,
                        momentum: options.muon_momentum,
                        weight_decay: options.muon_weight_decay,
                        scale: options.muon_scale,
                        iterations: options.muon_iterations,
                        gradient_scale: scale.gradient_scale,
                    };
                    let momentum = &mut self.momentum.data_mut()[state];
                    muon::step(device, &settings, Matrix { rows, cols, weights, gradient, momentum });
                }
            }
        }
    }

    /// The state by name, as checkpoints hold it.
    pub(crate) fn state(&self) -> [(&'static str, &[f32]); 3] {
        [
            ("first_moment", self.first_moment.data()),
            ("second_moment", self.second_moment.data()),
            ("momentum", self.momentum.data()),
        ]
    }

    /// The state by name, to be restored.
    pub(crate) fn state_mut(&mut self) -> [(&'static str, &mut [f32]); 3] {
        [
            ("first_moment", self.first_moment.data_mut()),
            ("second_moment", self.second_moment.data_mut()),
            ("momentum", self.momentum.data_mut()),
        ]
    }
}

/// The rule of every parameter; neighbours under AdamW with the same settings become one group.
fn groups(entries: &[Entry], options: &OptimiserOptions) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut adamw_state, mut muon_state) = (0, 0);
    for entry in entries {
        let (range, rule) = (entry.weight.range(), rule_of(entry, options));
        let state = match rule {
            Rule::AdamW { .. } => &mut adamw_state,
            Rule::Muon { .. } => &mut muon_state,
        };
        let start = *state;
        *state += range.len();
        match groups.last_mut() {
            Some(last)
                if matches!(rule, Rule::AdamW { .. })
                    && last.rule == rule
                    && last.range.end == range.start =>
            {
                last.range.end = range.end;
            }
            _ => groups.push(Group { range, state: start, rule }),
        }
    }
    groups
}

fn rule_of(entry: &Entry, options: &OptimiserOptions) -> Rule {
    let own = match entry.role {
        Role::Embedding | Role::Table => options.embedding_learning_rate,
        Role::Head => options.head_learning_rate,
        Role::Gain | Role::Bias => options.scalar_learning_rate,
        Role::Hidden | Role::Residual if options.kind == OptimiserKind::Muon => {
            return Rule::Muon { rows: entry.weight.rows, cols: entry.weight.cols };
        }
        Role::Hidden | Role::Residual => None,
    };
    let decays = !matches!(entry.role, Role::Gain | Role::Bias);
    Rule::AdamW {
        learning_rate: own.unwrap_or(options.learning_rate),
        weight_decay: if decays { options.weight_decay } else { 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Config, Layout};

    fn options(kind: OptimiserKind) -> OptimiserOptions {
        OptimiserOptions { kind, embedding_learning_rate: Some(0.5), ..OptimiserOptions::default() }
    }

    #[test]
    fn groups_tile_the_parameters_and_their_state() {
        let mut config = Config::llama(40, 16, 3, 2);
        config.qkv_bias = true;
        let layout = Layout::new(&config);
        for kind in [OptimiserKind::AdamW, OptimiserKind::Muon] {
            let groups = groups(layout.entries(), &options(kind));
            let (mut next, mut states) = (0, [0, 0]);
            for group in &groups {
                let state = &mut states[usize::from(matches!(group.rule, Rule::Muon { .. }))];
                assert_eq!((group.range.start, group.state), (next, *state), "{kind:?} {group:?}");
                next = group.range.end;
                *state += group.range.len();
            }
            assert_eq!((next, states[0] + states[1]), (layout.len(), layout.len()), "{kind:?}");
        }
    }

    #[test]
    fn roles_choose_rates_decay_and_rule() {
        let layout = Layout::new(&Config::llama(40, 16, 1, 2));
        let adamw = |learning_rate, weight_decay| Rule::AdamW { learning_rate, weight_decay };
        let cases = [
            ("model.embed_tokens.weight", adamw(0.5, 0.1), adamw(0.5, 0.1)),
            ("model.norm.weight", adamw(1e-3, 0.0), adamw(1e-3, 0.0)),
            ("lm_head.weight", adamw(1e-3, 0.1), adamw(1e-3, 0.1)),
            ("model.layers.0.self_attn.k_proj.weight", adamw(1e-3, 0.1), Rule::Muon { rows: 16, cols: 16 }),
            ("model.layers.0.mlp.down_proj.weight", adamw(1e-3, 0.1), Rule::Muon { rows: 16, cols: 48 }),
        ];
        for (name, with_adamw, with_muon) in cases {
            let entry = layout.find(name).expect("a Llama parameter");
            assert_eq!(rule_of(entry, &options(OptimiserKind::AdamW)), with_adamw, "{name}");
            assert_eq!(rule_of(entry, &options(OptimiserKind::Muon)), with_muon, "{name}");
        }
    }
}
