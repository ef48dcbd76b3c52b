//! Arithmetic and memory traffic of a pipeline stage. It must not know links.

use super::{Program, Recompute, Split, Trained, Work};
use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip, Precision};

/// Bytes of an activation or a weight in products.
const ACTIVATION: f64 = 2.0;
/// Bytes that Adam reads and writes for a parameter in mixed precision: gradient, master weight and two moments read, the
/// latter three written, and the 16-bit weight.
const OPTIMISER_BYTES: f64 = 30.0;
/// Bytes of an f32 gradient that is read and written where a product's result is added to it.
const ACCUMULATE_BYTES: f64 = 8.0;
/// Bytes for each score of attention that is not fused: written, read and written by softmax, its dropout with mask, read
/// again (Korthikanti et al. 2022, section 4.1, count 5 kept; each is moved about twice).
const SCORE_BYTES_FORWARD: f64 = 11.0;
const SCORE_BYTES_BACKWARD: f64 = 15.0;

/// Memory passes of single operations for one of fused kernels: a norm in f32 moves 36 bytes an element instead of 4, a
/// rotation 24 instead of 4, a gated activation 10 instead of 6, a sum 6 as ever; by a layer's widths about 3.
const EAGER_PASSES: f64 = 3.0;

/// Speeds that a chip reaches.
pub struct Speeds {
    /// Products in the layers' matrices, operations a second.
    products: f64,
    /// Products that stay in 16 bits.
    wide: f64,
    /// Attention in one kernel.
    fused: f64,
    /// The two products of attention that is not fused, whose inner size is a head's width.
    batched: f64,
    /// Bytes a second.
    memory: f64,
}

impl Speeds {
    pub fn new(work: &Work, chip: &Chip, calibration: &Calibration) -> Result<Speeds, CatalogError> {
        let engine = if work.program.is_deepspeed { calibration.deepspeed } else { 1.0 };
        let free = engine * (1.0 - work.program.reserved);
        let share = calibration.products_of(chip).0 * free;
        let wide = match work.precision {
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => Precision::Bf16,
            precision => precision,
        };
        let fused = chip.peak(wide)? * free * calibration.attention_of(chip, work.program.attention);
        let wide = chip.peak(wide)? * share;
        let narrow = match work.precision {
            Precision::Fp8 | Precision::Fp4 | Precision::Int8 => calibration.fp8,
            _ => 1.0,
        };
        Ok(Speeds {
            products: chip.peak(work.precision)? * share * narrow,
            wide,
            fused,
            batched: wide * calibration.batched,
            memory: chip.bytes_per_second()? * calibration.memory * engine,
        })
    }
}

/// A stage's mean layer and what stands beside the layers, in seconds of one micro-batch, forward and backward together.
pub struct Stage {
    /// Layers of the stage with the most.
    pub layers: f64,
    pub products: f64,
    pub attention: f64,
    pub streaming: f64,
    pub recomputed: f64,
    /// The part of `products` that shared experts are.
    pub shared: f64,
    /// What the slowest stage takes longer than its layers.
    pub head_seconds: f64,
}

impl Stage {
    /// Seconds of a micro-batch in the slowest stage.
    pub fn pass_seconds(&self) -> f64 {
        self.layers * (self.products + self.attention + self.streaming + self.recomputed) + self.head_seconds
    }
}

/// A forward pass's seconds in one layer.
struct Forward {
    products: f64,
    streaming: f64,
}

/// The slowest stage.
pub fn stage(work: &Work, split: &Split, speeds: &Speeds) -> Stage {
    let model = work.model;
    let tokens = work.micro_batch * work.sequence / split.cp;
    let share = model.expert_layers() / model.layers;
    let mut forward = layer(work, split, speeds, tokens, false);
    if share > 0.0 {
        let experts = layer(work, split, speeds, tokens, true);
        forward.products = (1.0 - share) * forward.products + share * experts.products;
        forward.streaming = (1.0 - share) * forward.streaming + share * experts.streaming;
    }
    // Frozen weights have no gradients: one product backward instead of two.
    let backward = match work.trained {
        Trained::All => 2.0,
        Trained::Adapters(_) => 1.0,
    };
    // A sum that the product's arithmetic has time for costs nothing.
    let accumulated = match work.trained {
        Trained::All => {
            let seconds = layer_parameters(model, split) * ACCUMULATE_BYTES / speeds.memory;
            (seconds - forward.products).max(0.0)
        }
        Trained::Adapters(_) => 0.0,
    };
    let (attention_forward, attention_backward) = attention(work, split, speeds, tokens);
    let recomputed = match work.recompute {
        Recompute::Selective if !work.program.attention.is_fused() => attention_forward,
        other => other.layers_again() * (forward.products + attention_forward + forward.streaming),
    };
    let recomputed = recomputed + work.recomputed_share * forward.products;
    let mut stage = Stage {
        layers: stage_layers(work, split),
        products: (1.0 + backward) * forward.products,
        attention: attention_forward + attention_backward,
        streaming: 2.5 * forward.streaming + accumulated,
        recomputed,
        shared: (1.0 + backward) * share * shared_products(model, split, speeds, tokens),
        head_seconds: 0.0,
    };
    stage.head_seconds = head(work, split, speeds, tokens, stage.pass_seconds());
    stage
}

/// What the slowest stage takes longer than `layers` (the seconds of its layers). Stages of equal numbers of layers leave
/// the whole projection to the last; others leave that one fewer layers.
fn head(work: &Work, split: &Split, speeds: &Speeds, tokens: f64, layers: f64) -> f64 {
    let model = work.model;
    let table = model.table_parameters() / split.tp;
    let passes = if work.trained == Trained::All { 3.0 } else { 2.0 };
    let product = 2.0 * tokens * table / speeds.wide * passes;
    let weights = table * (passes * ACTIVATION + ACCUMULATE_BYTES) / speeds.memory;
    let logits = tokens * model.vocabulary / split.tp * 4.0 * 4.0 / speeds.memory;
    let head = product + weights + logits;
    let most = stage_layers(work, split);
    let left = model.layers + work.extra_layers - most * (split.pp - 1.0);
    let spare = most - left.max(0.0);
    let each = layers / most;
    (head - spare * each).max(0.0)
}

/// Layers of the stage with the most.
fn stage_layers(work: &Work, split: &Split) -> f64 {
    ((work.model.layers + work.extra_layers) / split.pp).ceil()
}

fn layer(work: &Work, split: &Split, speeds: &Speeds, tokens: f64, has_experts: bool) -> Forward {
    let model = work.model;
    let mut products = 0.0;
    for (inputs, outputs) in model.attention_matrices() {
        products += product(tokens, inputs * outputs / split.tp, inputs, outputs / split.tp, 1.0, speeds);
    }
    let (width, rows, count) = match (has_experts, model.experts) {
        (true, Some(experts)) => {
            products += shared_products(model, split, speeds, tokens);
            (experts.ffn, tokens * experts.chosen * split.ep / experts.count, experts.count / split.ep)
        }
        _ => (model.ffn, tokens, 1.0),
    };
    // Experts are not cut by tensor parallelism where they are shared out; the group's tokens are.
    let cut = if has_experts && split.ep > 1.0 { 1.0 } else { split.tp };
    let rows = if has_experts && split.ep > 1.0 { rows / split.tp } else { rows };
    for (inputs, outputs) in model.ffn_matrices(width) {
        products += product(rows, inputs * outputs / cut, inputs, outputs / cut, count, speeds);
    }
    let whole = if work.program.has_sequence_parallel { split.tp } else { 1.0 };
    let norms = match (work.program.has_parallel_block, work.program.has_dropout) {
        (false, false) => 16.0,
        (false, true) => 22.0,
        (true, false) => 12.0,
        (true, true) => 15.0,
    };
    let activation = if model.is_gated { 6.0 } else { 4.0 };
    let bytes = tokens * norms * model.hidden / whole
        + rows * count * activation * width / cut
        + tokens * 4.0 * (model.query_width() + model.value_width()) / split.tp;
    let passes = if work.program.is_eager { EAGER_PASSES } else { 1.0 };
    Forward { products, streaming: passes * bytes / speeds.memory }
}

/// Seconds of a forward pass through the experts that every token goes to.
fn shared_products(model: &Architecture, split: &Split, speeds: &Speeds, tokens: f64) -> f64 {
    let Some(experts) = model.experts.filter(|experts| experts.shared > 0.0) else { return 0.0 };
    let each = |(inputs, outputs): (f64, f64)| {
        product(tokens, inputs * outputs / split.tp, inputs, outputs / split.tp, 1.0, speeds)
    };
    model.ffn_matrices(experts.ffn * experts.shared).into_iter().map(each).sum()
}

/// Seconds of `count` products of (rows, inputs) with weights of `area` elements.
fn product(rows: f64, area: f64, inputs: f64, outputs: f64, count: f64, speeds: &Speeds) -> f64 {
    let bytes = ACTIVATION * (rows * inputs + area + rows * outputs);
    count * (2.0 * rows * area / speeds.products + bytes / speeds.memory)
}

/// Seconds of attention proper in a layer, forward and backward.
fn attention(work: &Work, split: &Split, speeds: &Speeds, tokens: f64) -> (f64, f64) {
    let model = work.model;
    let pairs = tokens * work.sequence;
    let widths = (model.query_width() + model.value_width()) / split.tp;
    match work.program.attention.is_fused() {
        // Half of the pairs are masked and not computed; backward computes scores again: five products for two.
        true => {
            let forward = pairs * widths / speeds.fused;
            (forward, 2.5 * forward)
        }
        false => {
            let forward = 2.0 * pairs * widths / speeds.batched;
            let scores = pairs * model.heads / split.tp / speeds.memory;
            (forward + SCORE_BYTES_FORWARD * scores, 2.0 * forward + SCORE_BYTES_BACKWARD * scores)
        }
    }
}

/// The formula of the part "attention".
pub fn attention_formula(program: &Program) -> &'static str {
    match program.attention.is_fused() {
        true => {
            "tokens · sequence · (query + value width), half of the pairs masked, backward 2.5 times that"
        }
        false => "2 · tokens · sequence · (query + value width), thrice, and 26 bytes a score",
    }
}

/// Parameters of a mean layer on one chip.
pub fn layer_parameters(model: &Architecture, split: &Split) -> f64 {
    let tables = if model.is_tied { 1.0 } else { 2.0 } * model.table_parameters();
    let common = (model.common_parameters() - tables) / model.layers / split.tp;
    let cut = if split.ep > 1.0 { split.ep } else { split.tp };
    common + model.routed_parameters() * model.expert_layers() / model.layers / cut
}

/// Seconds of the optimiser's pass.
pub fn optimiser_seconds(work: &Work, split: &Split, speeds: &Speeds) -> f64 {
    let parameters = match work.trained {
        Trained::All => chip_parameters(work.model, split),
        Trained::Adapters(parameters) => parameters / (split.tp * split.pp),
    };
    let shared = if split.zero > 0 { split.dp * split.cp } else { 1.0 };
    parameters / shared * OPTIMISER_BYTES / speeds.memory
}

/// Parameters that a chip of the fullest stage computes with.
pub fn chip_parameters(model: &Architecture, split: &Split) -> f64 {
    let layers = (model.layers / split.pp).ceil();
    let tables = if model.is_tied || split.pp > 1.0 { 1.0 } else { 2.0 };
    layers * layer_parameters(model, split) + tables * model.table_parameters() / split.tp
}
