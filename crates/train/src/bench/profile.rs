//! A step's timers as rows with names: layers added up, weights called by what they do.
//!
//! It must not know the machine's limits, only which of them holds for a row.

use model::Layout;
use serde::Serialize;
use std::time::Duration;
use tensor::{Operation, Phase, Timed, Weight, Work};

/// An operation in one phase of the mean step, over all layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileRow {
    /// When: "forward", "again", "input gradient", "weight gradient" or "update".
    pub phase: &'static str,
    /// What, such as "gate_up" or "norm".
    pub operation: String,
    /// Calls in a step.
    pub calls: f64,
    /// Milliseconds in a step.
    pub ms: f64,
    /// Work a second: 10⁹ operations or bytes.
    pub giga_per_s: f64,
    /// What limits it.
    pub limit: Limit,
}

/// What limits an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Fused multiply-adds: work is counted in floating-point operations.
    Arithmetic,
    /// Reading and writing memory: work is counted in bytes.
    Memory,
}

/// The rows of `steps` steps of a model, by phase, the longest first.
pub(super) fn rows(layout: &Layout, timed: &[Timed], steps: usize) -> Vec<ProfileRow> {
    let mut sums: Vec<(Phase, String, Timed)> = Vec::new();
    for one in timed {
        let name = name(layout, one.operation);
        match sums.iter_mut().find(|(phase, other, _)| (*phase, other) == (one.phase, &name)) {
            Some((_, _, sum)) => *sum = sum.plus(one),
            None => sums.push((one.phase, name, *one)),
        }
    }
    sums.sort_by_key(|(phase, _, sum)| (*phase, std::cmp::Reverse(sum.time)));
    let row = |(phase, operation, sum): (Phase, String, Timed)| ProfileRow {
        phase: phase_name(phase),
        operation,
        calls: sum.calls as f64 / steps as f64,
        ms: 1e3 * sum.time.as_secs_f64() / steps as f64,
        giga_per_s: sum.work.amount() / sum.time.max(Duration::from_nanos(1)).as_secs_f64() / 1e9,
        limit: match sum.work {
            Work::Flops(_) => Limit::Arithmetic,
            Work::Bytes(_) => Limit::Memory,
        },
    };
    sums.into_iter().map(row).collect()
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Again => "again",
        Phase::InputGradient => "input gradient",
        Phase::WeightGradient => "weight gradient",
        Phase::Update => "update",
    }
}

fn name(layout: &Layout, operation: Operation) -> String {
    let name = match operation {
        Operation::Product(weight) => return product_name(layout, weight),
        Operation::Embed => "embed",
        Operation::Norm => "norm",
        Operation::LowRank => "low-rank",
        Operation::Bias => "bias",
        Operation::QkNorm => "qk-norm",
        Operation::Rotary => "rotary",
        Operation::Attention => "attention",
        Operation::Activation => "activation",
        Operation::Scale => "scale",
        Operation::Add => "add",
        Operation::Loss => "loss",
        Operation::Gradients => "gradients",
        Operation::GradientNorm => "gradient norm",
        Operation::AdamW => "adamw",
        Operation::Muon => "muon",
        Operation::NewtonSchulz => "newton-schulz",
    };
    name.to_owned()
}

/// A fused weight begins where its first matrix does.
fn product_name(layout: &Layout, weight: Weight) -> String {
    const NAMES: [(&str, &str); 6] = [
        ("q_proj.weight", "qkv"),
        ("o_proj.weight", "out"),
        ("gate_proj.weight", "gate_up"),
        ("down_proj.weight", "down"),
        ("lm_head.weight", "head"),
        ("embed_tokens.weight", "head"),
    ];
    let entry = layout.entries().iter().find(|entry| entry.weight.offset == weight.offset);
    let Some(entry) = entry else { return format!("product {} × {}", weight.rows, weight.cols) };
    let known = NAMES.iter().find(|(suffix, _)| entry.name.ends_with(suffix));
    known.map_or_else(|| entry.name.clone(), |(_, name)| (*name).to_owned())
}
