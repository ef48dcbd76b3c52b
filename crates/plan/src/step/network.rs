//! Communication of a step. It must not know arithmetic.

use super::compute::chip_parameters;
use super::{ExpertOverlap, Split, Trained, Work};
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
    /// As `experts`, of a micro-batch that has no other beside it.
    pub experts_alone: f64,
    pub pipeline: f64,
    /// One send there and one back at a border, which filling the stages waits for.
    pub border: f64,
}

impl Talk {
    /// Seconds in a layer.
    pub fn seconds(&self) -> f64 {
        self.tensor + self.context + self.experts
    }

    /// Seconds in a layer of a micro-batch that has no other beside it.
    pub fn seconds_alone(&self) -> f64 {
        self.tensor + self.context + self.experts_alone
    }
}

/// Communication of the layers; `computed` is the seconds that a layer computes, `shared` those of its shared experts.
pub fn layers(work: &Work, split: &Split, links: &Links, computed: f64, shared: f64) -> Talk {
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
    let (beside, alone) = match program.overlaps_experts {
        ExpertOverlap::Nothing => (experts, experts),
        // Shared experts belong to the same micro-batch.
        ExpertOverlap::SharedExperts => {
            let left = experts - (links.hidden * experts).min(shared);
            (left, left)
        }
        ExpertOverlap::Everything => (hide(experts, true), experts),
    };
    let border = border(split, links, row);
    Talk {
        tensor: hide(tensor, program.overlaps_tensor),
        context,
        experts: beside,
        experts_alone: alone,
        pipeline: hide(split.schedule.pieces() * border, program.overlaps_pipeline),
        border,
    }
}

/// Dispatch and combine, forward and backward, of a mean layer.
fn exchange_of_tokens(work: &Work, split: &Split, links: &Links, tokens: f64) -> f64 {
    let Some(experts) = work.model.experts else { return 0.0 };
    if split.ep <= 1.0 {
        return 0.0;
    }
    let share = work.model.expert_layers() / work.model.layers;
    let row = tokens / split.tp * work.model.hidden;
    let nodes = (split.ep / links.node).ceil();
    // A token's experts lie in `chosen_groups` of the groups that the chips are shared out to.
    let group = split.ep / experts.groups;
    let nodes_most = experts.chosen_groups * (group / links.node).ceil();
    let chips_most = experts.chosen_groups * group.ceil();
    // A token goes to each node that holds one of its experts once, and on to them over the links inside.
    let distinct = (nodes * (1.0 - (1.0 - 1.0 / nodes).powf(experts.chosen))).min(nodes_most);
    let copies = experts.chosen.min(links.node).min(chips_most);
    let each = |bytes: f64| {
        let outside = distinct * (nodes - 1.0) / nodes * bytes * row / links.network;
        let inside = copies * bytes * row / links.link;
        if nodes > 1.0 { outside.max(inside) } else { inside }
    };
    // Forward and backward each dispatch, what FP8 products read in FP8 (DeepSeek-V3, section 3.3.3), and combine.
    2.0 * share * (each(work.precision.bytes().min(ACTIVATION)) + each(ACTIVATION))
}

/// Seconds of a micro-batch's send to the next stage and of its gradient's back.
fn border(split: &Split, links: &Links, row: f64) -> f64 {
    if split.pp <= 1.0 {
        return 0.0;
    }
    // Each tensor-parallel rank sends its part (Narayanan et al. 2021, section 4.1).
    let is_inside = split.chips() <= links.node || links.is_torus;
    let bandwidth = if is_inside { links.link } else { links.network };
    2.0 * (row / split.tp / bandwidth + links.network_hop_seconds)
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
