//! The search for the fastest split that fits: every admissible division of the chips over data, tensor, pipeline, expert
//! and context parallelism, micro-batch, sharding and recomputation, by [`crate::step::step`] and
//! [`crate::footprint::footprint`]. It must not know days or money.

use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip};
use crate::footprint::{Footprint, States, footprint};
use crate::step::{Recompute, Schedule, Split, Step, Trained, Work, step};
use crate::units::show_bytes;

/// What the caller has decided; the rest is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Data parallelism.
    pub dp: Option<f64>,
    /// Tensor parallelism.
    pub tp: Option<f64>,
    /// Pipeline stages.
    pub pp: Option<f64>,
    /// Expert parallelism.
    pub ep: Option<f64>,
    /// Context parallelism.
    pub cp: Option<f64>,
    /// Sequences of a micro-batch.
    pub micro_batch: Option<f64>,
    /// Recomputation.
    pub recompute: Option<Recompute>,
    /// ZeRO stage.
    pub zero: Option<u8>,
}

/// A split with its time and memory.
#[derive(Clone, Debug)]
pub struct Found {
    /// The split.
    pub split: Split,
    /// Sequences of a micro-batch.
    pub micro_batch: f64,
    /// Sequences of a step; near the wanted number where that was free.
    pub batch: f64,
    /// What is recomputed.
    pub recompute: Recompute,
    /// The time of a step.
    pub step: Step,
    /// The fullest chip's memory.
    pub footprint: Footprint,
    /// Tokens of a step a second.
    pub tokens_per_second: f64,
}

/// Why there is no split.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// A chip's figure is missing.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Nothing fits.
    #[error(transparent)]
    Memory(#[from] Box<NoRoom>),
    /// The numbers cannot be divided as asked.
    #[error("{0}")]
    Division(String),
}

/// What the closest split needs, and what is nearest possible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "no split of {model} over {chips} × {chip} fits: the closest needs {needed} a chip of {memory} ({largest}); {advice}"
)]
pub struct NoRoom {
    /// The model.
    pub model: String,
    /// How many chips.
    pub chips: f64,
    /// Which.
    pub chip: String,
    /// What the closest split needs.
    pub needed: String,
    /// What there is.
    pub memory: String,
    /// Its largest parts.
    pub largest: String,
    /// What is nearest possible.
    pub advice: String,
}

/// The request for a search.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The work; its micro-batch and recomputation are searched where `wanted` leaves them.
    pub work: Work<'a>,
    /// Whether the batch may be moved so that replicas divide it.
    pub is_batch_free: bool,
    /// The chip.
    pub chip: &'a Chip,
    /// How many.
    pub chips: f64,
    /// How parameters are kept.
    pub states: States,
    /// What is decided.
    pub wanted: Wanted,
}

/// The fastest split that fits.
///
/// # Errors
/// [`SplitError`], saying what is nearest possible.
pub fn search(search: &Search, calibration: &Calibration) -> Result<Found, SplitError> {
    let memory = search.chip.memory_bytes()?;
    check(search)?;
    let mut best: Option<Found> = None;
    let mut closest: Option<Footprint> = None;
    let mut divided = false;
    for split in splits(search) {
        for (work, split) in works(search, split) {
            divided = true;
            let footprint = footprint(&work, &split, search.states);
            if !footprint.fits(memory) {
                if closest.as_ref().is_none_or(|known| footprint.bytes() < known.bytes()) {
                    closest = Some(footprint);
                }
                continue;
            }
            let step = step(&work, search.chip, &split, calibration)?;
            let tokens_per_second = work.tokens() / step.seconds();
            if best.as_ref().is_none_or(|known| tokens_per_second > known.tokens_per_second) {
                let (micro_batch, batch, recompute) = (work.micro_batch, work.batch, work.recompute);
                best =
                    Some(Found { split, micro_batch, batch, recompute, step, footprint, tokens_per_second });
            }
        }
    }
    match (best, closest) {
        (Some(found), _) => Ok(found),
        (None, Some(closest)) if divided => Err(shortage(search, &closest, memory)),
        _ => Err(SplitError::Division(indivisible(search))),
    }
}

/// What is asked of the split must be possible for the model.
fn check(search: &Search) -> Result<(), SplitError> {
    let (model, wanted) = (search.work.model, &search.wanted);
    let fault = |message: String| Err(SplitError::Division(message));
    if let Some(tp) = wanted.tp.filter(|tp| model.heads % tp != 0.0) {
        let able: Vec<String> =
            divisors(model.heads).into_iter().take_while(|tp| *tp <= 64.0).map(|tp| tp.to_string()).collect();
        return fault(format!("--tp {tp} does not divide {} heads; {} do", model.heads, able.join(", ")));
    }
    if let Some(pp) = wanted.pp.filter(|pp| *pp > model.layers) {
        return fault(format!("--pp {pp}: the model has {} layers, a stage at least one", model.layers));
    }
    match (wanted.ep, model.experts) {
        (Some(ep), None) if ep > 1.0 => fault(format!("--ep {ep}: the model has no experts to share out")),
        (Some(ep), Some(experts)) if experts.count % ep != 0.0 => {
            fault(format!("--ep {ep} does not divide {} experts", experts.count))
        }
        _ => Ok(()),
    }
}

/// All divisions of the chips that the model's shape admits.
fn splits(search: &Search) -> Vec<Split> {
    let (model, wanted, chips) = (search.work.model, &search.wanted, search.chips);
    let node = search.chip.node as f64;
    let fits_heads =
        |tp: &f64| model.heads % tp == 0.0 && (*tp <= node || search.chip.is_torus && *tp <= 64.0);
    let tps = options(wanted.tp, divisors(chips).into_iter().filter(fits_heads).collect());
    let pps = options(wanted.pp, divisors(chips).into_iter().filter(|pp| *pp <= model.layers).collect());
    let long = search.work.sequence > 8_192.0;
    let cps = options(wanted.cp, if long { powers(64.0, chips) } else { vec![1.0] });
    let eps = match model.experts {
        Some(experts) => powers(experts.count, chips),
        None => vec![1.0],
    };
    let eps = options(wanted.ep, eps);
    let mut found = Vec::new();
    for (tp, pp, cp, ep) in product(&tps, &pps, &cps, &eps) {
        let dp = chips / (tp * pp * cp);
        // Experts are shared by the chips of a stage that see different data.
        if dp < 1.0
            || dp.fract() != 0.0
            || (dp * cp * tp) % ep != 0.0
            || wanted.dp.is_some_and(|wanted| wanted != dp)
        {
            continue;
        }
        let per_stage = (model.layers / pp).ceil();
        let pieces: Vec<f64> = if pp > 1.0 && model.layers % pp == 0.0 {
            [1.0, 2.0, 3.0, 4.0, 6.0].into_iter().filter(|pieces| per_stage % pieces == 0.0).collect()
        } else {
            vec![1.0]
        };
        let zeros = match wanted.zero {
            Some(zero) => vec![zero],
            None if dp * cp > 1.0 && pp == 1.0 => vec![1, 3],
            None => vec![1],
        };
        for zero in zeros {
            found.extend(pieces.iter().map(|pieces| Split {
                dp,
                tp,
                pp,
                ep,
                cp,
                zero,
                schedule: Schedule::Interleaved(*pieces),
            }));
        }
    }
    found
}

/// The work by `split` with each micro-batch and recomputation, as far as the batch can be divided.
fn works<'a>(search: &Search<'a>, split: Split) -> Vec<(Work<'a>, Split)> {
    let wanted = &search.wanted;
    let micro_batches = options(wanted.micro_batch, vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0]);
    let fused = search.work.program.attention.is_fused();
    let modes = match wanted.recompute {
        Some(mode) => vec![mode],
        None if fused => vec![Recompute::None, Recompute::Full],
        None => vec![Recompute::None, Recompute::Selective, Recompute::Full],
    };
    let mut found = Vec::new();
    for micro_batch in micro_batches {
        let at_once = split.dp * micro_batch;
        let batch = match search.is_batch_free {
            // A step grows to what keeps every replica busy, but not beyond four times what was meant.
            true => (search.work.batch / at_once).round().max(1.0) * at_once,
            false => search.work.batch,
        };
        if batch % at_once != 0.0 || search.is_batch_free && batch > 4.0 * search.work.batch {
            continue;
        }
        found.extend(
            modes
                .iter()
                .map(|recompute| (Work { micro_batch, batch, recompute: *recompute, ..search.work }, split)),
        );
    }
    found
}

fn options(wanted: Option<f64>, all: Vec<f64>) -> Vec<f64> {
    wanted.map_or(all, |wanted| vec![wanted])
}

/// The divisors of a whole number, ascending, as far as anybody splits anything.
fn divisors(number: f64) -> Vec<f64> {
    (1..=256).map(f64::from).filter(|divisor| number % divisor == 0.0).collect()
}

/// 1, 2, 4 … up to `most` that divide `number`.
fn powers(most: f64, number: f64) -> Vec<f64> {
    (0..12)
        .map(|exponent| f64::from(1 << exponent))
        .filter(|power| *power <= most && number % power == 0.0)
        .collect()
}

fn product(a: &[f64], b: &[f64], c: &[f64], d: &[f64]) -> Vec<(f64, f64, f64, f64)> {
    let mut all = Vec::with_capacity(a.len() * b.len() * c.len() * d.len());
    for a in a {
        for b in b {
            for c in c {
                all.extend(d.iter().map(|d| (*a, *b, *c, *d)));
            }
        }
    }
    all
}

fn shortage(search: &Search, closest: &Footprint, memory: f64) -> SplitError {
    let mut parts: Vec<_> = closest.parts.iter().collect();
    parts.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    let largest: Vec<String> =
        parts.iter().take(3).map(|part| format!("{} {}", part.name, show_bytes(part.bytes))).collect();
    SplitError::from(Box::new(NoRoom {
        model: search.work.model.name.clone(),
        chips: search.chips,
        chip: search.chip.name.clone(),
        needed: show_bytes(closest.bytes()),
        memory: show_bytes(memory),
        largest: largest.join(", "),
        advice: advice(search, memory),
    }))
}

/// The nearest possible: more chips, or a smaller model on these.
fn advice(search: &Search, memory: f64) -> String {
    let parameters = search.work.model.parameters();
    let states = match (search.states, search.work.trained) {
        (States::Mixed, Trained::All) => 18.0,
        (States::Pure16, _) => 8.0,
        (States::Frozen(bits), _) => bits / 8.0,
        (States::Mixed, _) => 2.0,
    };
    let usable = crate::footprint::FILLED_MAX * memory - crate::footprint::RUNTIME_BYTES;
    let node = search.chip.node as f64;
    let chips = (parameters * states / usable / node).ceil().max(1.0) * node;
    let largest = (search.chips * usable / states).max(0.0);
    format!(
        "the states alone ({states} bytes a parameter) need at least {chips} of these chips; {} hold at most {} \
         parameters; fixed --tp, --pp, --micro-batch or --recompute may also be what does not fit",
        search.chips,
        crate::units::show_count(largest)
    )
}

fn indivisible(search: &Search) -> String {
    let (chips, model, batch) = (search.chips, search.work.model, search.work.batch);
    format!(
        "{chips} chips cannot be divided as asked: tp · pp · cp · dp must be {chips}, tp a divisor of {} heads within a \
         node of {} chips, pp at most {} layers, and dp · micro-batch a divisor of the batch of {batch} sequences{}",
        model.heads,
        search.chip.node,
        model.layers,
        match search.is_batch_free {
            true => " (or at most four times it; give --global-batch for more)".to_owned(),
            false if batch < chips => format!("; the nearest batch that {chips} replicas divide is {chips}"),
            false => format!(
                "; the nearest batches that {chips} replicas divide are {} and {}",
                (batch / chips).floor() * chips,
                ((batch / chips).floor() + 1.0) * chips
            ),
        }
    )
}
