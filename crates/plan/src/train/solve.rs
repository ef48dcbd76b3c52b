//! Which of model, data, chips and days is unknown, and the search for it. It must not know what a step costs.

use super::{Assumption, KEPT, Known, Plan, PlanError, Raw, Request, Speed, forward};
use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::units::{show_bytes, show_count, show_seconds, three};

/// Clusters that are tried, in chips at most.
const CHIPS_MAX: f64 = 1_048_576.0;
/// Halvings of an interval when a size or an amount is sought.
const HALVINGS: usize = 40;

pub fn plan(request: &Request, calibration: &Calibration) -> Result<Plan, PlanError> {
    check(request)?;
    let mut assumptions = Vec::new();
    let tokens = tokens(request, &mut assumptions);
    let known = |model: &Architecture, tokens: f64, chips: f64| Known {
        model: model.clone(),
        tokens,
        chips,
        assumptions: assumptions.clone(),
    };
    match (&request.model, tokens, request.chips, request.deadline) {
        (Some(model), Some(tokens), Some(chips), deadline) => {
            let plan = forward(request, known(model, tokens, chips), calibration)?;
            match deadline {
                Some(deadline) if plan.seconds() > deadline => {
                    Err(late(request, &plan, deadline, calibration))
                }
                _ => Ok(plan),
            }
        }
        (Some(model), Some(tokens), None, Some(deadline)) => {
            chips_for(request, deadline, &|chips| forward(request, known(model, tokens, chips), calibration))
        }
        (Some(model), None, Some(chips), Some(deadline)) => {
            // Time is proportional to tokens.
            let plan = forward(request, known(model, 1e9, chips), calibration)?;
            let tokens = 1e9 * deadline / plan.seconds();
            forward(request, known(model, tokens, chips), calibration)
        }
        (None, Some(tokens), Some(chips), Some(deadline)) => {
            model_for(deadline, &|model| forward(request, known(&model, tokens, chips), calibration))
        }
        _ => Err(PlanError::Request(too_little(request))),
    }
}

fn check(request: &Request) -> Result<(), PlanError> {
    let fault = |message: String| Err(PlanError::Request(message));
    if let Some(chips) = request.chips
        && (chips.fract() != 0.0 || chips < 1.0)
    {
        return fault(format!("{chips} chips: a whole number, at least 1"));
    }
    match request.speed {
        Speed::Share(share) if !(share > 0.0 && share <= 1.0) => {
            return fault(format!("a share of the peak of {share}: above 0, at most 1"));
        }
        Speed::PerChip(speed) => {
            let precision = request.precision.unwrap_or(crate::catalog::Precision::Bf16);
            if let Ok(peak) = request.chip.peak(precision)
                && speed > peak
            {
                return fault(format!(
                    "{} TFLOP/s a chip is above the {} peak of {}, {} TFLOP/s",
                    three(speed / 1e12),
                    precision.name(),
                    request.chip.name,
                    three(peak / 1e12)
                ));
            }
        }
        _ => {}
    }
    match request.raw {
        Some(Raw { kept: Some(kept), .. }) if !(kept > 0.0 && kept <= 1.0) => {
            fault(format!("a kept share of {kept}: above 0, at most 1"))
        }
        Some(_) if request.tokens.is_some() => {
            fault("tokens and raw data are both given; one follows from the other".to_owned())
        }
        _ => Ok(()),
    }
}

/// Tokens, from raw bytes where those are given.
fn tokens(request: &Request, assumptions: &mut Vec<Assumption>) -> Option<f64> {
    let Some(raw) = request.raw else { return request.tokens };
    let kept = raw.kept.unwrap_or_else(|| {
        let text = format!("curation keeps {:.2} % of the raw bytes", 100.0 * KEPT);
        let source = "570 GB of 45 TB of Common Crawl (Brown et al. 2020, section 2.2); --kept".to_owned();
        assumptions.push(Assumption { text, source });
        KEPT
    });
    let each = raw.bytes_per_token.unwrap_or_else(|| {
        let text = format!("{} bytes a token", super::BYTES_PER_TOKEN);
        let source = "English with a vocabulary of 30,000 to 130,000; --bytes-per-token".to_owned();
        assumptions.push(Assumption { text, source });
        super::BYTES_PER_TOKEN
    });
    let tokens = raw.bytes * kept / each;
    let text = format!("{} of raw data become {} tokens", show_bytes(raw.bytes), show_count(tokens));
    assumptions.push(Assumption { text, source: "bytes · kept share / bytes a token".to_owned() });
    Some(tokens)
}

/// The fewest chips that meet the deadline: clusters of whole nodes with many divisors, then whole nodes between the last
/// that is too slow and the first that is not.
fn chips_for(
    request: &Request,
    deadline: f64,
    forward: &dyn Fn(f64) -> Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let node = request.chip.node.min(8) as f64;
    let mut nearest: Option<Plan> = None;
    let mut failure = None;
    for chips in round_numbers(node) {
        match forward(chips) {
            Ok(plan) if plan.seconds() <= deadline => {
                let fewer = if request.speed == Speed::Predicted {
                    None
                } else {
                    exactly(&plan, deadline, node, forward)
                };
                return Ok(fewer.unwrap_or(plan));
            }
            Ok(plan) => {
                if nearest.as_ref().is_none_or(|known| plan.seconds() < known.seconds()) {
                    nearest = Some(plan);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    let Some(nearest) = nearest else {
        return Err(failure.unwrap_or_else(|| PlanError::Request("no number of chips was tried".to_owned())));
    };
    Err(PlanError::Request(format!(
        "no cluster of {} meets {}: beyond {} chips a step of {} sequences has no work for more; the nearest possible is {} \
         on {} chips. Ask for more days, fewer tokens, a larger --global-batch or a faster chip",
        request.chip.name,
        show_seconds(deadline),
        nearest.chips,
        nearest.found.batch,
        show_seconds(nearest.seconds()),
        nearest.chips
    )))
}

/// At a given speed time is inverse to chips, so the number is known; it need not be round.
fn exactly(
    plan: &Plan,
    deadline: f64,
    node: f64,
    forward: &dyn Fn(f64) -> Result<Plan, PlanError>,
) -> Option<Plan> {
    let mut chips = (plan.chips * plan.seconds() / deadline / node).ceil() * node;
    // More chips fail more often, so the first guess may be a node short.
    for _ in 0..16 {
        match forward(chips) {
            Ok(fewer) if fewer.seconds() <= deadline => return (fewer.chips < plan.chips).then_some(fewer),
            _ => chips += node,
        }
    }
    None
}

/// Whole nodes times 2^a · 3^b, ascending.
fn round_numbers(node: f64) -> Vec<f64> {
    let mut numbers = vec![1.0];
    let mut power = node;
    while power <= CHIPS_MAX {
        numbers.extend(
            [power, 1.125 * power, 1.25 * power, 1.5 * power, 1.75 * power]
                .into_iter()
                .filter(|n| n % node == 0.0),
        );
        power *= 2.0;
    }
    numbers.dedup();
    numbers.retain(|chips| *chips <= CHIPS_MAX);
    numbers
}

/// The largest model that is trained in time.
fn model_for(
    deadline: f64,
    forward: &dyn Fn(Architecture) -> Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let (mut low, mut high) = (1e7_f64, 1e14_f64);
    let mut best: Option<Plan> = None;
    let mut failure = None;
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        match forward(Architecture::of_size(middle)?) {
            Ok(plan) if plan.seconds() <= deadline => {
                best = Some(plan);
                low = middle;
            }
            Ok(_) => high = middle,
            Err(error) => {
                failure = Some(error);
                high = middle;
            }
        }
    }
    let smallest = || {
        let day = forward(Architecture::of_size(1e7).ok()?).ok()?;
        Some(PlanError::Request(format!(
            "even 10 M parameters take {} and there are {}; ask for fewer tokens, more chips or more days",
            show_seconds(day.seconds()),
            show_seconds(deadline)
        )))
    };
    best.ok_or_else(|| {
        smallest().or(failure).unwrap_or_else(|| PlanError::Request("no model fits".to_owned()))
    })
}

/// All is given, and it does not come out: what would.
fn late(request: &Request, plan: &Plan, deadline: f64, calibration: &Calibration) -> PlanError {
    let free = Request { chips: None, ..request.clone() };
    let enough = match self::plan(&free, calibration) {
        Ok(plan) => format!("{} chips are enough", plan.chips),
        Err(error) => format!("more chips do not help: {error}"),
    };
    PlanError::Request(format!(
        "{} on {} × {} take {} for {} tokens, and there are {}. Nearest possible: {enough}; or {} tokens on these chips",
        plan.model.name,
        plan.chips,
        plan.chip.name,
        show_seconds(plan.seconds()),
        show_count(plan.tokens),
        show_seconds(deadline),
        show_count(plan.tokens * deadline / plan.seconds())
    ))
}

fn too_little(request: &Request) -> String {
    let given = [
        ("the model (--model)", request.model.is_some()),
        ("the data (--tokens or --raw)", request.tokens.is_some() || request.raw.is_some()),
        ("the chips (--chips)", request.chips.is_some()),
        ("the time (--days)", request.deadline.is_some()),
    ];
    let missing: Vec<&str> = given.iter().filter(|given| !given.1).map(|given| given.0).collect();
    format!("three of model, data, chips and time give the fourth; missing are {}", missing.join(", "))
}
