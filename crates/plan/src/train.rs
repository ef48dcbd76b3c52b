//! What a training run takes: of model, data, chips and days any three give the fourth; with memory, the split, the step's
//! parts, energy, money and failures.
//!
//! What the caller leaves out is assumed, and each assumption is among [`Plan::assumptions`]. It must not print.

mod solve;
mod stages;

pub use stages::{Method, Stage};

use crate::architecture::{Architecture, ModelError};
use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip, Precision};
use crate::footprint::States;
use crate::reliability::{Course, Reliability, course};
use crate::split::{Found, Search, SplitError, Wanted, search};
use crate::step::{Program, Recompute, Trained, Work};
use crate::units::{show_bytes, show_count, show_seconds, three};

/// Seconds of a day.
pub const DAY: f64 = 86_400.0;
/// Share of raw text that curation keeps: 570 GB of 45 TB of Common Crawl (Brown et al. 2020, arXiv:2005.14165, section 2.2).
pub const KEPT: f64 = 570.0 / 45_000.0;
/// Bytes of text in a token: about 4 in English with vocabularies of 30,000 to 130,000.
pub const BYTES_PER_TOKEN: f64 = 4.0;
/// Power of a data centre over that of its machines (Touvron et al. 2023, arXiv:2302.13971, section 6).
pub const PUE: f64 = 1.1;

/// How fast chips are taken to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As [`crate::step`] predicts.
    Predicted,
    /// This many operations a second and chip, recomputed ones counted.
    PerChip(f64),
    /// This share of the peak in the model's operations.
    Share(f64),
}

/// Raw data and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raw {
    /// Bytes before curation.
    pub bytes: f64,
    /// Share that is kept.
    pub kept: Option<f64>,
    /// Bytes in a token.
    pub bytes_per_token: Option<f64>,
}

/// What is asked for; what is `None` is found or assumed.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub model: Option<Architecture>,
    /// Tokens to train on.
    pub tokens: Option<f64>,
    /// Raw data instead of tokens.
    pub raw: Option<Raw>,
    /// The chip.
    pub chip: Chip,
    /// How many.
    pub chips: Option<f64>,
    /// The time there is, in seconds.
    pub deadline: Option<f64>,
    /// How fast chips are.
    pub speed: Speed,
    /// Tokens of a sequence.
    pub sequence: Option<f64>,
    /// Sequences of a step.
    pub batch: Option<f64>,
    /// What is decided of the split.
    pub wanted: Wanted,
    /// The type of products.
    pub precision: Option<Precision>,
    /// Which parameters are trained.
    pub method: Method,
    /// What the training is for.
    pub stage: Stage,
    /// US dollars for a chip and hour.
    pub price: Option<f64>,
    /// Hours between failures of a chip.
    pub chip_hours_between_failures: Option<f64>,
    /// Seconds from a failure until training goes on.
    pub restart_seconds: Option<f64>,
    /// Bytes a second that storage takes.
    pub storage_bytes_per_second: Option<f64>,
}

impl Request {
    /// A request for `chip` with nothing decided.
    pub fn new(chip: Chip) -> Request {
        Request {
            model: None,
            tokens: None,
            raw: None,
            chip,
            chips: None,
            deadline: None,
            speed: Speed::Predicted,
            sequence: None,
            batch: None,
            wanted: Wanted::default(),
            precision: None,
            method: Method::Full,
            stage: Stage::Pretrain,
            price: None,
            chip_hours_between_failures: None,
            restart_seconds: None,
            storage_bytes_per_second: None,
        }
    }
}

/// Something that was not said and had to be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumption {
    /// What is assumed, in a sentence.
    pub text: String,
    /// Why, or how to say otherwise.
    pub source: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The chip.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// Too little is said, or what is said cannot be.
    #[error("{0}")]
    Request(String),
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model.
    pub model: Architecture,
    /// The chip.
    pub chip: Chip,
    /// How many.
    pub chips: f64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Tokens of a sequence.
    pub sequence: f64,
    /// The split and its step.
    pub found: Found,
    /// The type of products.
    pub precision: Precision,
    /// The program.
    pub program: Program,
    /// How parameters are kept.
    pub states: States,
    /// What is trained.
    pub trained: Trained,
    /// Operations of the whole training, as the model needs them.
    pub model_flops: f64,
    /// The same with what is computed again.
    pub hardware_flops: f64,
    /// Seconds of a step.
    pub step_seconds: f64,
    /// Steps.
    pub steps: f64,
    /// Seconds of training without failures.
    pub busy_seconds: f64,
    /// Of these, seconds that rollouts take.
    pub rollout_seconds: f64,
    /// Failures and checkpoints.
    pub course: Course,
    /// US dollars for a chip and hour, if known.
    pub price: Option<f64>,
    /// Whether the speed is predicted.
    pub speed: Speed,
    /// The peak that shares refer to.
    pub peak: f64,
    /// What was assumed.
    pub assumptions: Vec<Assumption>,
}

impl Plan {
    /// Seconds with failures and checkpoints.
    pub fn seconds(&self) -> f64 {
        self.busy_seconds / self.course.goodput
    }

    /// Days with failures and checkpoints.
    pub fn days(&self) -> f64 {
        self.seconds() / DAY
    }

    /// Chips times hours.
    pub fn chip_hours(&self) -> f64 {
        self.chips * self.seconds() / 3600.0
    }

    /// Operations of the model a second and chip, in units of 10¹², while it trains.
    pub fn model_tflops_per_chip(&self) -> f64 {
        self.model_flops / (self.busy_seconds - self.rollout_seconds) / self.chips / 1e12
    }

    /// Operations a second and chip with those done twice, in units of 10¹².
    pub fn hardware_tflops_per_chip(&self) -> f64 {
        self.hardware_flops / (self.busy_seconds - self.rollout_seconds) / self.chips / 1e12
    }

    /// Share of the peak by the model's operations (PaLM, appendix B).
    pub fn mfu(&self) -> f64 {
        self.model_tflops_per_chip() * 1e12 / self.peak
    }

    /// Share of the peak with the operations that are done twice.
    pub fn hfu(&self) -> f64 {
        self.hardware_tflops_per_chip() * 1e12 / self.peak
    }

    /// Energy in kWh, cooling and losses counted by [`PUE`]; none where the chip's power is not published.
    pub fn energy_kwh(&self) -> Option<f64> {
        self.chip.power.value().map(|watts| self.chip_hours() * watts * PUE / 1000.0)
    }

    /// Money in US dollars; none without a price.
    pub fn money(&self) -> Option<f64> {
        self.price.map(|price| price * self.chip_hours())
    }

    /// Failures to expect.
    pub fn failures(&self) -> f64 {
        self.seconds() / self.course.seconds_between_failures
    }

    /// The step's work.
    pub fn work(&self) -> Work<'_> {
        Work {
            model: &self.model,
            sequence: self.sequence,
            batch: self.found.batch,
            micro_batch: self.found.micro_batch,
            recompute: self.found.recompute,
            precision: self.precision,
            program: self.program,
            trained: self.trained,
            recomputed_share: 0.0,
            extra_layers: 0.0,
        }
    }
}

/// The plan for a request.
///
/// # Errors
/// [`PlanError`], saying what is wrong and what is nearest possible.
pub fn plan(request: &Request, calibration: &Calibration) -> Result<Plan, PlanError> {
    solve::plan(request, calibration)
}

/// A request with everything known but the time.
#[derive(Clone, Debug)]
struct Known {
    model: Architecture,
    tokens: f64,
    chips: f64,
    assumptions: Vec<Assumption>,
}

/// The plan where model, data and chips are known.
fn forward(request: &Request, known: Known, calibration: &Calibration) -> Result<Plan, PlanError> {
    let mut assumptions = known.assumptions;
    let mut assume = |text: String, source: &str| {
        assumptions.push(Assumption { text, source: source.to_owned() });
    };
    let precision = precision(request, &mut assume);
    let peak = request.chip.peak(precision)?;
    let (states, trained) = request.method.states(&known.model);
    let work = work(request, &known.model, precision, &mut assume);
    let wanted = wanted(request, calibration, &mut assume);
    let is_batch_free = request.batch.is_none();
    let asked = Search { work, is_batch_free, chip: &request.chip, chips: known.chips, states, wanted };
    let found = search(&asked, calibration)?;
    let work =
        Work { batch: found.batch, micro_batch: found.micro_batch, recompute: found.recompute, ..work };
    let factor = request.stage.passes();
    let steps = known.tokens / work.tokens();
    let (model_flops, hardware_flops) = (work.model_flops() * factor, work.hardware_flops() * factor);
    let step_seconds = match request.speed {
        Speed::Predicted => found.step.seconds() * factor,
        Speed::PerChip(speed) => hardware_flops / (known.chips * speed),
        Speed::Share(share) => model_flops / (known.chips * peak * share),
    };
    let rollout_seconds =
        stages::rollout_seconds(request, &known.model, known.chips, known.tokens, calibration, &mut assume)?;
    let reliability = reliability(request, known.chips, &mut assume);
    // A checkpoint holds 16-bit weights, master weights and two moments.
    let state_bytes = match trained {
        Trained::All => known.model.parameters() * 14.0,
        Trained::Adapters(parameters) => parameters * 14.0,
    };
    let price = request.price.or(request.chip.price.value());
    if let (None, Some(price)) = (request.price, price) {
        assume(format!("{price} US dollars a chip and hour"), request.chip.price.source());
    }
    Ok(Plan {
        chip: request.chip.clone(),
        chips: known.chips,
        tokens: known.tokens,
        sequence: work.sequence,
        found,
        precision,
        program: work.program,
        states,
        trained,
        model_flops: model_flops * steps,
        hardware_flops: hardware_flops * steps,
        step_seconds,
        steps,
        busy_seconds: step_seconds * steps + rollout_seconds,
        rollout_seconds,
        course: course(&reliability, known.chips, state_bytes),
        price,
        speed: request.speed,
        peak,
        assumptions,
        model: known.model,
    })
}

/// A step's work, its micro-batch and recomputation still to be searched.
fn work<'a>(
    request: &Request,
    model: &'a Architecture,
    precision: Precision,
    assume: &mut impl FnMut(String, &str),
) -> Work<'a> {
    let sequence = request.sequence.unwrap_or_else(|| {
        let sequence = if model.parameters() < 3e9 || !model.is_gated { 2_048.0 } else { 4_096.0 };
        assume(format!("sequences of {sequence} tokens"), "usual for models of this kind; --seq-len");
        sequence
    });
    let batch = request.batch.unwrap_or_else(|| {
        let batch = usual_batch(model, sequence, request.stage);
        let text =
            format!("about {} sequences ({} tokens) a step", three(batch), show_count(batch * sequence));
        let source = match request.stage {
            Stage::Pretrain => {
                "2 M tokens · (parameters / 7 B)^0.4, near GPT-3's and Llama's; --global-batch"
            }
            _ => "usual in fine-tuning; --global-batch",
        };
        assume(text, source);
        batch
    });
    Work {
        model,
        sequence,
        batch,
        micro_batch: request.wanted.micro_batch.unwrap_or(1.0),
        recompute: request.wanted.recompute.unwrap_or(Recompute::None),
        precision,
        program: Program::MODERN,
        trained: request.method.states(model).1,
        recomputed_share: 0.0,
        extra_layers: 0.0,
    }
}

/// What is decided of the split, with what the speed that is given or predicted brings along.
fn wanted(request: &Request, calibration: &Calibration, assume: &mut impl FnMut(String, &str)) -> Wanted {
    let mut wanted = request.wanted;
    if matches!(request.speed, Speed::PerChip(_)) && wanted.recompute.is_none() {
        // Published throughputs of this kind count it: 8 · parameters · tokens / speed.
        wanted.recompute = Some(Recompute::Full);
        assume(
            "the speed given counts operations that full recomputation does twice (8 a parameter and token)"
                .to_owned(),
            "as Narayanan et al. 2021, section 5.1, count; say --recompute none where it counts the model's alone (6)",
        );
    }
    let (share, is_calibrated) = calibration.products_of(&request.chip);
    if request.speed == Speed::Predicted && !is_calibrated {
        assume(
            format!("products reach {:.0} % of the peak", 100.0 * share),
            "no published run of this class of chip is in the calibration: the mean of the others; --mfu or --tflops-per-chip",
        );
    }
    wanted
}

fn precision(request: &Request, assume: &mut impl FnMut(String, &str)) -> Precision {
    if let Some(precision) = request.precision {
        return precision;
    }
    let has = |precision| request.chip.peak.get(&precision).is_some_and(|figure| figure.value().is_some());
    let usual = [Precision::Bf16, Precision::Fp16, Precision::Fp32].into_iter().find(|kind| has(*kind));
    let precision = usual.unwrap_or(Precision::Bf16);
    assume(
        format!("products in {}", precision.name()),
        "the usual type of those that the chip has; --precision",
    );
    precision
}

fn reliability(request: &Request, chips: f64, assume: &mut impl FnMut(String, &str)) -> Reliability {
    let mut reliability = Reliability::usual(chips);
    match request.chip_hours_between_failures {
        Some(hours) => reliability.chip_hours_between_failures = hours,
        None => assume(
            format!("a chip fails every {} hours", three(reliability.chip_hours_between_failures)),
            "Llama 3: 419 interruptions in 54 days on 16,384 H100 (arXiv:2407.21783, section 3.3.4); --chip-mtbf",
        ),
    }
    match request.restart_seconds {
        Some(seconds) => reliability.restart_seconds = seconds,
        None => assume(
            format!("{} from a failure until training goes on", show_seconds(reliability.restart_seconds)),
            "no source; --restart",
        ),
    }
    match request.storage_bytes_per_second {
        Some(bytes) => reliability.storage_bytes_per_second = bytes,
        None => assume(
            format!("storage takes {} a second", show_bytes(reliability.storage_bytes_per_second)),
            "Llama 3's 2 TB/s for 16,384 chips (ibid., section 3.3.1), in proportion; --storage",
        ),
    }
    reliability
}

/// Sequences of a usual step: GPT-3's table 2.1 has 0.5 M tokens at 1.3B, 2 M at 6.7B and 13B, 3.2 M at 175B, Llama 3 16 M at
/// 405B. Fine-tuning takes 128 sequences.
fn usual_batch(model: &Architecture, sequence: f64, stage: Stage) -> f64 {
    match stage {
        Stage::Pretrain => {
            let tokens = 2_097_152.0 * (model.active_parameters() / 7e9).powf(0.4);
            (tokens / sequence).log2().round().max(0.0).exp2()
        }
        _ => 128.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
