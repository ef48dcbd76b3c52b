//! Fitting a workload to a chip: which limit binds each part of a step, and what each optimisation would give, ranked.
//!
//! Each is tried: the plan's step is computed again with the one thing changed. It must not recommend what does not fit.

use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Precision};
use crate::footprint::footprint;
use crate::serve;
use crate::step::{Part, Recompute, Schedule, Split, Work, step};
use crate::train::Plan;

/// What bounds a part of a step.
pub fn limit(part: &Part) -> &'static str {
    match part.name {
        "matrix products" | "attention" | "recomputation" | "output projection" => "arithmetic",
        "memory-bound operations" | "optimiser" => "memory",
        "tensor-parallel communication" => "links inside a node",
        "pipeline bubble" => "order of work",
        "waiting for the slowest" => "variation",
        _ => "network",
    }
}

/// An optimisation and what it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What is changed.
    pub name: String,
    /// Speed with it over speed without it, less 1. Where the plan has it already: over the speed without it.
    pub gain: f64,
    /// Whether the plan has it already.
    pub is_there: bool,
    /// Whether it fits into memory.
    pub fits: bool,
}

/// What each optimisation would give, the greatest gain first; what the plan has already comes after.
///
/// # Errors
/// [`CatalogError`] where the chip lacks a figure.
pub fn training(plan: &Plan, calibration: &Calibration) -> Result<Vec<Advice>, CatalogError> {
    let base = speed(plan, &plan.work(), &plan.found.split, calibration)?;
    let mut all = Vec::new();
    for (name, work, split) in changes(plan) {
        let Ok(changed) = speed(plan, &work, &split, calibration) else { continue };
        let fits =
            plan.chip.memory_bytes().is_ok_and(|memory| footprint(&work, &split, plan.states).fits(memory));
        all.push(Advice { name, gain: changed / base - 1.0, is_there: false, fits });
    }
    for (name, work, split) in removals(plan) {
        let without = speed(plan, &work, &split, calibration)?;
        all.push(Advice { name, gain: base / without - 1.0, is_there: true, fits: true });
    }
    all.retain(|advice| advice.is_there || advice.gain > 0.001);
    all.sort_by(|a, b| a.is_there.cmp(&b.is_there).then(b.fits.cmp(&a.fits)).then(b.gain.total_cmp(&a.gain)));
    Ok(all)
}

/// Tokens a second.
fn speed(plan: &Plan, work: &Work, split: &Split, calibration: &Calibration) -> Result<f64, CatalogError> {
    Ok(work.tokens() / step(work, &plan.chip, split, calibration)?.seconds())
}

/// What the plan does not have yet.
fn changes(plan: &Plan) -> Vec<(String, Work<'_>, Split)> {
    let (work, split) = (plan.work(), plan.found.split);
    let mut all = Vec::new();
    if plan.precision != Precision::Fp8 && plan.chip.peak(Precision::Fp8).is_ok() {
        all.push(("FP8 products".to_owned(), Work { precision: Precision::Fp8, ..work }, split));
    }
    if split.tp > 1.0 {
        let program = crate::step::Program { overlaps_tensor: true, ..work.program };
        all.push((
            "tensor-parallel communication beside the products".to_owned(),
            Work { program, ..work },
            split,
        ));
    }
    if split.ep > 1.0 {
        let program =
            crate::step::Program { overlaps_experts: crate::step::ExpertOverlap::Everything, ..work.program };
        all.push((
            "exchange of tokens among experts beside the computation".to_owned(),
            Work { program, ..work },
            split,
        ));
    }
    if work.recompute.layers_again() > 0.0 {
        all.push(("nothing recomputed".to_owned(), Work { recompute: Recompute::None, ..work }, split));
        if work.recompute == Recompute::Full {
            all.push((
                "only every second layer recomputed".to_owned(),
                Work { recompute: Recompute::Alternate, ..work },
                split,
            ));
        }
    }
    if split.pp > 1.0 {
        all.push((
            "zero-bubble schedule".to_owned(),
            work,
            Split { schedule: Schedule::ZeroBubble, ..split },
        ));
    }
    let twice = Work { batch: 2.0 * work.batch, ..work };
    all.push(("twice the batch".to_owned(), twice, split));
    let wide = Work { micro_batch: 2.0 * work.micro_batch, ..work };
    if work.micro_batches(&split) >= 2.0 {
        all.push(("micro-batches twice as large".to_owned(), wide, split));
    }
    for zero in [1, 3] {
        if split.dp > 1.0 && zero != split.zero && split.pp == 1.0 {
            let name = if zero == 3 {
                "weights sharded too (ZeRO-3)"
            } else {
                "only optimiser state sharded (ZeRO-1)"
            };
            all.push((name.to_owned(), work, Split { zero, ..split }));
        }
    }
    all
}

/// What the plan has, taken away.
fn removals(plan: &Plan) -> Vec<(String, Work<'_>, Split)> {
    let (work, split) = (plan.work(), plan.found.split);
    let program = work.program;
    let with = |program| Work { program, ..work };
    let mut all = vec![
        (
            "fused attention".to_owned(),
            with(crate::step::Program { attention: crate::step::Attention::Plain, ..program }),
            split,
        ),
        (
            "fused norms and activations".to_owned(),
            with(crate::step::Program { is_eager: true, ..program }),
            split,
        ),
    ];
    if split.dp > 1.0 {
        let apart = crate::step::Program { overlaps_data: false, ..program };
        all.push(("exchange of gradients beside the passes".to_owned(), with(apart), split));
    }
    if split.tp > 1.0 {
        let whole = crate::step::Program { has_sequence_parallel: false, ..program };
        all.push(("sequence parallelism".to_owned(), with(whole), split));
    }
    if matches!(split.schedule, Schedule::Interleaved(pieces) if pieces > 1.0) {
        all.push((
            "interleaved stages".to_owned(),
            work,
            Split { schedule: Schedule::Interleaved(1.0), ..split },
        ));
    }
    all
}

/// The same for serving: bits of weights and cache, batching, latency.
///
/// # Errors
/// Those of [`serve::plan`] for the plan's own request.
pub fn serving(plan: &serve::Plan, calibration: &Calibration) -> Vec<Advice> {
    let request = &plan.request;
    let mut changes = Vec::new();
    for (bits, name) in [(8.0, "8-bit weights"), (4.0, "4-bit weights")] {
        if bits < request.weight_bits {
            changes.push((name, serve::Request { weight_bits: bits, ..request.clone() }));
        }
    }
    if request.cache.bytes() > 1.0 {
        changes.push(("8-bit keys and values", serve::Request { cache: Precision::Int8, ..request.clone() }));
    }
    if request.latency.is_some() {
        changes.push(("no limit on latency", serve::Request { latency: None, ..request.clone() }));
    }
    let base = plan.tokens_per_second / plan.group;
    let mut all: Vec<Advice> = changes
        .into_iter()
        .filter_map(|(name, request)| {
            let changed = serve::plan(&request, calibration).ok()?;
            let gain = changed.tokens_per_second / changed.group / base - 1.0;
            Some(Advice { name: name.to_owned(), gain, is_there: false, fits: true })
        })
        .filter(|advice| advice.gain > 0.001)
        .collect();
    all.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    all
}
