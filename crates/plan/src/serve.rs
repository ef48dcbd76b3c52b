//! What serving a model takes: memory for weights and KV, tokens a second by the roofline, chips and money.
//!
//! A step of decoding reads the weights once and every sequence's keys and values; it computes two operations a parameter
//! and sequence. The slower of the two sides sets its time (Williams et al. 2009, "Roofline"; Pope et al. 2022, "Efficiently
//! Scaling Transformer Inference", arXiv:2211.05102, section 2). It must not know how the engine works.

use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip, Precision};
use crate::footprint::{FILLED_MAX, RUNTIME_BYTES, cache_bytes};
use crate::train::PlanError;
use crate::units::{show_bytes, show_seconds};

/// Sequences at once that are tried at most.
const CONCURRENCY_MAX: f64 = 4_096.0;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub model: Architecture,
    /// The chip.
    pub chip: Chip,
    /// Tokens that a sequence holds at its end, prompt and answer.
    pub context: f64,
    /// Of these, tokens of the prompt.
    pub prompt: Option<f64>,
    /// Sequences that are served at once, by all chips.
    pub concurrency: Option<f64>,
    /// Seconds a token that each reader waits at most.
    pub latency: Option<f64>,
    /// Chips; as many as are needed if not said.
    pub chips: Option<f64>,
    /// Bits of a weight.
    pub weight_bits: f64,
    /// The type of keys and values.
    pub cache: Precision,
    /// US dollars for a chip and hour.
    pub price: Option<f64>,
}

impl Request {
    /// 16-bit weights and cache, 4,096 tokens, as many sequences at once as fit.
    pub fn new(model: Architecture, chip: Chip) -> Request {
        Request {
            model,
            chip,
            context: 4_096.0,
            prompt: None,
            concurrency: None,
            latency: None,
            chips: None,
            weight_bits: 16.0,
            cache: Precision::Bf16,
            price: None,
        }
    }
}

/// A plan for serving.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Request,
    /// Chips that hold the model together.
    pub group: f64,
    /// Groups.
    pub groups: f64,
    /// Sequences at once in a group.
    pub concurrency: f64,
    /// Bytes of the weights.
    pub weight_bytes: f64,
    /// Bytes that a token of context takes.
    pub cache_bytes_per_token: f64,
    /// Bytes of a group's memory that are used.
    pub used_bytes: f64,
    /// Seconds of a step of decoding.
    pub step_seconds: f64,
    /// Of these, seconds that reading weights takes.
    pub weights_seconds: f64,
    /// Seconds that reading keys and values takes.
    pub cache_seconds: f64,
    /// Seconds that arithmetic takes, beside the reading.
    pub arithmetic_seconds: f64,
    /// Seconds that chips of a group talk.
    pub link_seconds: f64,
    /// What binds.
    pub limit: &'static str,
    /// Tokens a second of a group.
    pub tokens_per_second: f64,
    /// Prompt tokens a second of a group, when it does nothing else.
    pub prompt_tokens_per_second: f64,
    /// Seconds until the first token of a prompt that waits for nobody.
    pub first_token_seconds: f64,
    /// US dollars for a chip and hour.
    pub price: Option<f64>,
}

impl Plan {
    /// Chips in all.
    pub fn chips(&self) -> f64 {
        self.group * self.groups
    }

    /// US dollars for a million generated tokens, all chips busy.
    pub fn money_per_million(&self) -> Option<f64> {
        self.price.map(|price| price * self.group / (self.tokens_per_second * 3600.0) * 1e6)
    }
}

/// A group gives at least this share of the most tokens a second and chip, or a larger one is taken.
const RATE_LEAST: f64 = 0.75;

/// The plan for a request, among groups that hold the model and meet the latency: with a wanted concurrency the one that takes
/// the fewest chips, else the smallest that gives three quarters of the most tokens a second and chip. Groups beyond a node are
/// tried where none within it will do.
///
/// # Errors
/// [`PlanError`], saying what is nearest possible.
pub fn plan(request: &Request, calibration: &Calibration) -> Result<Plan, PlanError> {
    let memory = request.chip.memory_bytes()?;
    let node = request.chip.node as f64;
    let mut able: Vec<Plan> = Vec::new();
    let mut refused: Option<PlanError> = None;
    let mut nearest: Option<Plan> = None;
    for group in groups(node) {
        if request.chips.is_some_and(|chips| group > chips) || group > node && !able.is_empty() {
            break;
        }
        let room = group * (FILLED_MAX * memory - RUNTIME_BYTES) - weight_bytes(request);
        let fit = (room / (request.context * cache_bytes(&request.model, request.cache))).floor();
        if fit < 1.0 {
            continue;
        }
        let most = fit.min(CONCURRENCY_MAX).min(request.concurrency.unwrap_or(f64::INFINITY));
        let plan = match best(request, group, most, calibration) {
            Ok(plan) => plan,
            // A smaller group does without the figure that this one lacks.
            Err(_) if !able.is_empty() => break,
            Err(error) => return Err(error),
        };
        if request.latency.is_none_or(|latency| plan.step_seconds <= latency) {
            match spread(request, plan, calibration) {
                Ok(plan) => able.push(plan),
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        } else if nearest.as_ref().is_none_or(|known| plan.step_seconds < known.step_seconds) {
            nearest = Some(plan);
        }
    }
    match (chosen(request, able), refused) {
        (Some(plan), _) => Ok(plan),
        (None, Some(refused)) => Err(refused),
        (None, None) => Err(impossible(request, nearest, memory)),
    }
}

/// The plan of [`plan`]'s rule among those that will do.
fn chosen(request: &Request, able: Vec<Plan>) -> Option<Plan> {
    let total = |plan: &Plan| plan.groups * plan.tokens_per_second;
    if request.concurrency.is_some() && request.chips.is_none() {
        let fewest = |a: &Plan, b: &Plan| a.chips().total_cmp(&b.chips()).then(total(b).total_cmp(&total(a)));
        return able.into_iter().min_by(fewest);
    }
    let rate = |plan: &Plan| plan.tokens_per_second / plan.group;
    let most = able.iter().map(rate).fold(0.0, f64::max);
    able.into_iter().find(|plan| rate(plan) >= RATE_LEAST * most)
}

fn impossible(request: &Request, nearest: Option<Plan>, memory: f64) -> PlanError {
    let node = request.chip.node as f64;
    PlanError::Request(match nearest {
        Some(plan) => format!(
            "no group of up to {} × {} gives a token every {}: the nearest possible is {} with {} chips and one sequence at a \
             time. Fewer bits a weight or a faster memory help, more chips do not",
            node * 4.0,
            request.chip.name,
            show_seconds(request.latency.unwrap_or(0.0)),
            show_seconds(plan.step_seconds),
            plan.group
        ),
        None => format!(
            "{} with {}-bit weights ({}) and one sequence of {} tokens ({}) do not fit into {} × {} of {}; take fewer bits \
             (--weight-bits), a shorter context or more chips",
            request.model.name,
            request.weight_bits,
            show_bytes(weight_bytes(request)),
            request.context,
            show_bytes(request.context * cache_bytes(&request.model, request.cache)),
            request.chips.unwrap_or(node * 4.0),
            request.chip.name,
            show_bytes(memory)
        ),
    })
}

fn groups(node: f64) -> Vec<f64> {
    (0..20).map(|power| f64::from(1 << power)).take_while(|group| *group <= node * 4.0).collect()
}

/// Bytes of all weights.
pub fn weight_bytes(request: &Request) -> f64 {
    request.model.parameters() * request.weight_bits / 8.0
}

/// As many sequences at once as the latency allows, `most` at most; one where already that is too slow.
fn best(request: &Request, group: f64, most: f64, calibration: &Calibration) -> Result<Plan, PlanError> {
    let at = |concurrency: f64| step(request, group, concurrency, calibration);
    let Some(latency) = request.latency else { return Ok(at(most)?) };
    let one = at(1.0)?;
    if one.step_seconds > latency {
        return Ok(one);
    }
    let (mut low, mut high) = (1.0, most);
    if at(high)?.step_seconds <= latency {
        return Ok(at(high)?);
    }
    while high - low > 1.0 {
        let middle = ((low + high) / 2.0_f64).floor();
        if at(middle)?.step_seconds <= latency { low = middle } else { high = middle }
    }
    Ok(at(low)?)
}

/// A step of decoding of `concurrency` sequences, each half-way through its answer.
fn step(
    request: &Request,
    group: f64,
    concurrency: f64,
    calibration: &Calibration,
) -> Result<Plan, CatalogError> {
    let (model, chip) = (&request.model, &request.chip);
    let precision = if request.weight_bits <= 8.0 && chip.peak(Precision::Fp8).is_ok() {
        Precision::Fp8
    } else {
        half(chip)
    };
    let arithmetic = chip.peak(precision)? * calibration.products_of(chip).0 * group;
    let memory = chip.bytes_per_second()? * calibration.memory * group;
    let prompt = request.prompt.unwrap_or(request.context / 2.0);
    let held = (prompt + request.context) / 2.0;
    let each = cache_bytes(model, request.cache);
    let weights_seconds = touched(model, concurrency) * request.weight_bits / 8.0 / memory;
    let cache_seconds = concurrency * held * each / memory;
    let flops = concurrency * (2.0 * model.matmul_parameters() + model.attention_flops(held));
    let arithmetic_seconds = flops / arithmetic;
    let link_seconds = links(model, chip, group, concurrency, calibration)?;
    let reading = weights_seconds + cache_seconds;
    let step_seconds = reading.max(arithmetic_seconds) + link_seconds;
    let parts = [(weights_seconds, "memory: weights"), (cache_seconds, "memory: keys and values")];
    let limit = match arithmetic_seconds > reading {
        true => "arithmetic",
        false if link_seconds > reading => "links",
        false => parts.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |part| part.1),
    };
    // A prompt's products are large: arithmetic binds, half of its pairs are masked.
    let per_prompt_token = 2.0 * model.matmul_parameters() + model.attention_flops(prompt) / 2.0;
    let prompt_links = links(model, chip, group, prompt, calibration)? / prompt.max(1.0);
    let prompt_tokens_per_second = 1.0 / (per_prompt_token / arithmetic + prompt_links);
    Ok(Plan {
        request: request.clone(),
        group,
        groups: 1.0,
        concurrency,
        weight_bytes: weight_bytes(request),
        cache_bytes_per_token: each,
        used_bytes: weight_bytes(request) + concurrency * request.context * each + group * RUNTIME_BYTES,
        step_seconds,
        weights_seconds,
        cache_seconds,
        arithmetic_seconds,
        link_seconds,
        limit,
        tokens_per_second: concurrency / step_seconds,
        prompt_tokens_per_second,
        first_token_seconds: prompt / prompt_tokens_per_second,
        price: request.price.or(chip.price.value()),
    })
}

fn half(chip: &Chip) -> Precision {
    let has = |precision| chip.peak.get(&precision).is_some_and(|figure| figure.value().is_some());
    [Precision::Bf16, Precision::Fp16].into_iter().find(|kind| has(*kind)).unwrap_or(Precision::Fp32)
}

/// Parameters that a step reads: all but the experts that none of the sequences chose.
fn touched(model: &Architecture, concurrency: f64) -> f64 {
    let Some(experts) = model.experts else { return model.parameters() };
    let idle = (1.0 - experts.chosen / experts.count).powf(concurrency);
    model.parameters() - idle * model.expert_layers() * model.routed_parameters()
}

/// Two all-reduces a layer among the chips of a group.
fn links(
    model: &Architecture,
    chip: &Chip,
    group: f64,
    rows: f64,
    calibration: &Calibration,
) -> Result<f64, CatalogError> {
    if group <= 1.0 {
        return Ok(0.0);
    }
    let link =
        chip.link.value().ok_or_else(|| chip.missing("the bandwidth of its links", chip.link.source()))?;
    let is_inside = group <= chip.node as f64;
    let bandwidth = match is_inside {
        true => link / 2.0 * 1e9 * calibration.link,
        false => {
            let network =
                chip.network.value().ok_or_else(|| chip.missing("its network", chip.network.source()))?;
            chip.node as f64 * network * 1e9 * calibration.network
        }
    };
    let hop = if is_inside { calibration.link_hop_seconds } else { calibration.network_hop_seconds };
    let bytes = rows * model.hidden * 2.0;
    let one = 2.0 * (group - 1.0) / group * bytes / bandwidth + 2.0 * group.log2() * hop;
    Ok(2.0 * model.layers * one)
}

/// As many groups as the wanted concurrency needs, or as the given chips make, with the sequences shared out evenly.
fn spread(request: &Request, plan: Plan, calibration: &Calibration) -> Result<Plan, PlanError> {
    let needed = request.concurrency.map_or(1.0, |wanted| (wanted / plan.concurrency).ceil());
    let groups = match request.chips {
        Some(chips) => (chips / plan.group).floor(),
        None => needed,
    };
    if groups < needed {
        return Err(PlanError::Request(format!(
            "{} sequences at once need {} groups of {} × {}, {} chips; {} serve {} at once",
            request.concurrency.unwrap_or(0.0),
            needed,
            plan.group,
            request.chip.name,
            needed * plan.group,
            groups * plan.group,
            groups * plan.concurrency
        )));
    }
    let plan = match request.concurrency {
        Some(wanted) => step(request, plan.group, (wanted / groups).ceil(), calibration)?,
        None => plan,
    };
    Ok(Plan { groups, ..plan })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::architecture::known;
    use crate::catalog::Catalog;

    fn request(model: &str, chip: &str) -> Request {
        Request::new(known(model).unwrap(), Catalog::shipped().chip(chip).unwrap().clone())
    }

    /// Pope et al. 2022, section 2 and every data sheet: one sequence reads the weights once a token.
    #[test]
    fn one_reader_is_bound_by_the_weights() {
        let calibration = Calibration::shipped();
        let mut request = request("llama-3.1-8b", "h100");
        request.concurrency = Some(1.0);
        request.latency = Some(1.0);
        let one = step(&request, 1.0, 1.0, &calibration).unwrap();
        let reading = 2.0 * 8.03e9 / (3.35e12 * calibration.memory);
        assert!((one.step_seconds / reading - 1.0).abs() < 0.05, "{one:?}");
        assert_eq!(one.limit, "memory: weights");
        let many = step(&request, 1.0, 2_000.0, &calibration).unwrap();
        assert!(many.tokens_per_second > 20.0 * one.tokens_per_second);
    }

    #[test]
    fn memory_and_latency_choose_the_group() {
        let calibration = Calibration::shipped();
        let plan_of = |request: &Request| plan(request, &calibration);
        assert_eq!(plan_of(&request("llama-3.1-8b", "h100")).unwrap().group, 1.0);
        // Two chips hold 70B, and then have room for four sequences; a node has room for hundreds.
        let wide = plan_of(&request("llama-3.1-70b", "h100")).unwrap();
        assert!(wide.group >= 4.0 && wide.concurrency > 100.0, "{wide:?}");
        let mut quick = request("llama-3.1-70b", "h100");
        quick.latency = Some(0.012);
        let quick = plan_of(&quick).unwrap();
        assert!(quick.group >= 8.0 && quick.step_seconds <= 0.012, "{quick:?}");
        let mut narrow = request("llama-3.1-70b", "h100");
        narrow.weight_bits = 4.0;
        assert!(plan_of(&narrow).unwrap().group < wide.group);
    }

    /// No other number of chips in groups of one size serves as many with fewer.
    #[test]
    fn a_wanted_concurrency_takes_the_fewest_chips() {
        let calibration = Calibration::shipped();
        for wanted in [1.0, 40.0, 200.0, 2_000.0] {
            let mut request = request("llama-3.1-70b", "h100");
            (request.concurrency, request.latency) = (Some(wanted), Some(0.03));
            let found = plan(&request, &calibration).unwrap();
            assert!(found.groups * found.concurrency >= wanted && found.step_seconds <= 0.03, "{found:?}");
            for chips in (1..found.chips() as u32).map(f64::from) {
                request.chips = Some(chips);
                assert!(
                    plan(&request, &calibration).is_err(),
                    "{wanted} on {chips} chips instead of {found:?}"
                );
            }
        }
    }

    /// A card without links serves what one holds, though larger groups are thought of.
    #[test]
    fn a_missing_figure_matters_only_where_it_is_needed() {
        let calibration = Calibration::shipped();
        assert_eq!(plan(&request("llama-3.1-8b", "4090"), &calibration).unwrap().group, 1.0);
        let message = plan(&request("llama-3.1-70b", "mi300x"), &calibration).unwrap();
        assert!(message.group <= 8.0, "{message:?}");
    }

    #[test]
    fn what_cannot_be_says_what_can() {
        let calibration = Calibration::shipped();
        let message = |request: &Request| plan(request, &calibration).unwrap_err().to_string();
        let mut fast = request("llama-3.1-405b", "a100");
        fast.latency = Some(0.001);
        assert!(message(&fast).contains("nearest possible"), "{}", message(&fast));
        let mut small = request("llama-3.1-405b", "a100");
        small.chips = Some(4.0);
        assert!(message(&small).contains("do not fit"), "{}", message(&small));
        let mut many = request("llama-3.1-8b", "a100");
        (many.chips, many.concurrency) = (Some(1.0), Some(1e5));
        assert!(message(&many).contains("groups"), "{}", message(&many));
    }
}
