//! Communication of a step. It must not know arithmetic.

use super::compute::chip_parameters;
use super::{Schedule, Split, Trained, Work};
use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip, Figure, Precision};

/// Bytes of an activation on its way.
const ACTIVATION: f64 = 2.0;

/// Bandwidths that collectives reach, bytes a second and chip, one direction.
pub struct Links {
    link: f64,
    network: f64,
    node: f64,
    is_torus: bool,
    link_hop_seconds: f64,
    network_hop_seconds: f64,
    hidden: f64,
}

impl Links {
    /// # Errors
    /// [`CatalogError::Unpublished`] where `split` needs a link that is not known.
    pub fn new(chip: &Chip, split: &Split, calibration: &Calibration) -> Result<Links, CatalogError> {
        let chips = split.chips();
        let node = chip.node as f64;
        let need = |name: &str, figure: &Figure, is_needed: bool| match (figure.value(), is_needed) {
            (Some(value), _) => Ok(value * 1e9),
            (None, false) => Ok(f64::INFINITY),
            (None, true) => Err(chip.missing(name, figure.source())),
        };
        let link = need("the bandwidth of its links inside a node", &chip.link, chips > 1.0 && node > 1.0)?;
        let network = need("its network", &chip.network, chips > node)?;
        Ok(Links {
            link: link / 2.0 * calibration.link,
            network: network * calibration.network,
            node,
            is_torus: chip.is_torus,
            link_hop_seconds: calibration.link_hop_seconds,
            network_hop_seconds: calibration.network_hop_seconds,
            hidden: calibration.hidden,
        })
    }

    /// The bandwidth of a ring through `size` chips, each `stride` chips from the next, and the seconds of all its hops.
    fn ring(&self, size: f64, stride: f64) -> (f64, f64) {
        if size * stride <= self.node || self.is_torus {
            return (self.link, (size - 1.0) * self.link_hop_seconds);
        }
        // Members of the group in one node share its network: each byte leaves a node once.
        let members = (self.node / stride).floor().max(1.0);
        let nodes = (size / members).ceil();
        let hops = (nodes - 1.0) * self.network_hop_seconds + (size - nodes) * self.link_hop_seconds;
        (self.link.min(members * self.network), hops)
    }

    /// Seconds in which each of `size` chips gives its share of `bytes` to all, or all reduce them into shares.
    fn gather(&self, bytes: f64, size: f64, stride: f64) -> f64 {
        if size <= 1.0 {
            return 0.0;
        }
        let (bandwidth, hops) = self.ring(size, stride);
        (size - 1.0) / size * bytes / bandwidth + hops
    }
}

/// Seconds of communication in a mean layer of one micro-batch (`pipeline`: of the whole stage), forward and backward.
pub struct Talk {
    pub tensor: f64,
    pub context: f64,
    pub experts: f64,
    pub pipeline: f64,
}

impl Talk {
    /// Seconds in a layer.
    pub fn seconds(&self) -> f64 {
        self.tensor + self.context + self.experts
    }
}

/// Communication of the layers; `computed` is the seconds that a layer computes.
pub fn layers(work: &Work, split: &Split, links: &Links, computed: f64) -> Talk {
    let model = work.model;
    let program = &work.program;
    let tokens = work.micro_batch * work.sequence / split.cp;
    let row = tokens * model.hidden * ACTIVATION;
    let again = 1.0 + 0.5 * work.recompute.layers_again();
    let reduces = if program.has_parallel_block { 2.0 } else { 4.0 };
    // An all-reduce is a reduce-scatter and an all-gather.
    let tensor = again * reduces * 2.0 * links.gather(row, split.tp, 1.0);
    let keys = tokens * split.cp * model.cache_width() * ACTIVATION / split.tp;
    let context = 3.0 * links.gather(keys, split.cp, split.tp);
    let experts = again * exchange_of_tokens(work, split, links, tokens);
    let hide = |seconds: f64, is_overlapped: bool| match is_overlapped {
        true => seconds - (links.hidden * seconds).min(computed),
        false => seconds,
    };
    Talk {
        tensor: hide(tensor, program.overlaps_tensor),
        context,
        experts: hide(experts, program.overlaps_experts),
        pipeline: hide(between_stages(split, links, row), program.overlaps_pipeline),
    }
}

/// Dispatch and combine, forward and backward, of a mean layer.
fn exchange_of_tokens(work: &Work, split: &Split, links: &Links, tokens: f64) -> f64 {
    let Some(experts) = work.model.experts else { return 0.0 };
    if split.ep <= 1.0 {
        return 0.0;
    }
    let share = work.model.expert_layers() / work.model.layers;
    let bytes = tokens / split.tp * work.model.hidden * ACTIVATION;
    let nodes = (split.ep / links.node).ceil();
    // A token goes to each node that holds one of its experts once, and on to them over the links inside.
    let distinct = nodes * (1.0 - (1.0 - 1.0 / nodes).powf(experts.chosen));
    let outside = distinct * (nodes - 1.0) / nodes * bytes / links.network;
    let inside = experts.chosen.min(links.node) * bytes / links.link;
    4.0 * share * if nodes > 1.0 { outside.max(inside) } else { inside }
}

/// Sends and receives of a micro-batch at a stage's borders.
fn between_stages(split: &Split, links: &Links, row: f64) -> f64 {
    if split.pp <= 1.0 {
        return 0.0;
    }
    let pieces = match split.schedule {
        Schedule::Interleaved(pieces) => pieces,
        Schedule::ZeroBubble => 1.0,
        Schedule::DualPipe => 1.0,
    };
    // Each tensor-parallel rank sends its part (Narayanan et al. 2021, section 4.1).
    let is_inside = split.chips() <= links.node || links.is_torus;
    let bandwidth = if is_inside { links.link } else { links.network };
    2.0 * pieces * (row / split.tp / bandwidth + links.network_hop_seconds)
}

/// Exchange of gradients and weights among replicas in a step, in seconds.
pub fn exchange(work: &Work, split: &Split, links: &Links) -> f64 {
    let replicas = split.dp * split.cp;
    let parameters = match work.trained {
        Trained::All => chip_parameters(work.model, split),
        Trained::Adapters(parameters) => parameters / (split.tp * split.pp),
    };
    let (weights, gradients) = (2.0 * parameters, gradient_bytes(work, split) * parameters);
    let gather = |bytes: f64| links.gather(bytes, replicas, split.tp);
    match split.zero {
        0 => 2.0 * gather(gradients),
        1 | 2 => gather(gradients) + gather(weights),
        // Weights come before each pass of each micro-batch, gradients go after it, layer by layer.
        _ => {
            let layers = work.model.layers / split.pp;
            let one = |bytes: f64| layers * gather(bytes / layers);
            work.micro_batches(split) * (2.0 * one(weights) + one(gradients))
        }
    }
}

/// Bytes of an exchanged gradient: 16-bit where it goes after each pass or is kept as FP16, 32-bit where BF16 passes are
/// accumulated.
fn gradient_bytes(work: &Work, split: &Split) -> f64 {
    if split.zero == 3 || work.precision == Precision::Fp16 { 2.0 } else { 4.0 }
}

/// What of the exchange's `seconds` is not hidden behind `pass`, the seconds of the passes that it can go beside.
pub fn exposed(seconds: f64, pass: f64, is_overlapped: bool, calibration: &Calibration) -> f64 {
    match is_overlapped {
        true => seconds - (calibration.hidden * seconds).min(pass),
        false => seconds,
    }
}
