//! Memory that training takes on the fullest chip, by parts.
//!
//! Activations are counted as Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models",
//! sections 4 and 5) count them: for their ungated decoder the parts below add up to their table 2. It must not know time.

use crate::architecture::Architecture;
use crate::catalog::Precision;
use crate::step::{Program, Recompute, Schedule, Split, Trained, Work, chip_parameters, layer_parameters};

/// How parameters and what belongs to them are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum States {
    /// 16-bit weights, and in 32 bits gradients, master weights and two moments: 18 bytes a parameter.
    Mixed,
    /// All in 16 bits: 8 bytes.
    Pure16,
    /// Frozen weights of this many bits, and mixed precision for adapters.
    Frozen(f64),
}

impl States {
    /// Bytes of a weight as products read it.
    fn weight(self) -> f64 {
        match self {
            States::Mixed | States::Pure16 => 2.0,
            States::Frozen(bits) => bits / 8.0,
        }
    }

    /// Bytes of a trained parameter's gradient.
    fn gradient(self) -> f64 {
        if self == States::Pure16 { 2.0 } else { 4.0 }
    }

    /// Bytes of a trained parameter's optimiser state.
    fn optimiser(self) -> f64 {
        if self == States::Pure16 { 4.0 } else { 12.0 }
    }
}

/// Bytes that a runtime, its collectives' buffers and kernels take on a chip: 1.5 GB, as a CUDA context, NCCL's channels
/// and cuBLAS workspaces do on NVIDIA's chips.
pub const RUNTIME_BYTES: f64 = 1.5e9;
/// Share of a chip's memory that a plan fills at most, since allocators fragment it.
pub const FILLED_MAX: f64 = 0.94;

/// A part of a chip's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What is held.
    pub name: &'static str,
    /// Bytes.
    pub bytes: f64,
    /// How it is computed.
    pub formula: &'static str,
}

/// Memory of the fullest chip.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// The parts; their sum is what the chip holds at its peak.
    pub parts: Vec<Part>,
}

impl Footprint {
    /// The sum.
    pub fn bytes(&self) -> f64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The part of this name.
    pub fn bytes_of(&self, name: &str) -> f64 {
        self.parts.iter().filter(|part| part.name == name).map(|part| part.bytes).sum()
    }

    /// Whether a chip of this memory can hold it.
    pub fn fits(&self, memory_bytes: f64) -> bool {
        self.bytes() <= FILLED_MAX * memory_bytes
    }
}

/// The memory of training `work` by `split`: the greater of the first stage's, which holds most micro-batches, and the
/// last one's, which holds logits.
pub fn footprint(work: &Work, split: &Split, states: States) -> Footprint {
    let parameters = chip_parameters(work.model, split);
    let shared = split.dp * split.cp;
    let (trained, shared_by) = match work.trained {
        Trained::All => (parameters, shared),
        Trained::Adapters(adapters) => (adapters / (split.tp * split.pp), shared),
    };
    let over = |stage: u8| if split.zero >= stage { shared_by } else { 1.0 };
    let gathered = match split.zero {
        3 => 2.0 * layer_parameters(work.model, split) * 2.0,
        _ => 0.0,
    };
    let adapters = if matches!(work.trained, Trained::Adapters(_)) { trained * 2.0 } else { 0.0 };
    let tokens = work.micro_batch * work.sequence / split.cp;
    let layers = (work.model.layers / split.pp).ceil();
    let in_flight = in_flight(split, work.micro_batches(split));
    let kept =
        layers * tokens * layer_bytes(work.model, work.sequence, work.recompute, &work.program, split.tp);
    let working = match work.recompute {
        Recompute::Full | Recompute::Alternate => {
            tokens * layer_bytes(work.model, work.sequence, Recompute::None, &work.program, split.tp)
        }
        _ => 0.0,
    };
    // f32 logits and their gradient, and the embedding's rows.
    let logits = tokens * work.model.vocabulary / split.tp * 8.0;
    let (activations, logits) = match split.pp > 1.0 {
        true if kept * in_flight >= kept + logits => (kept * in_flight, 0.0),
        _ => (kept, logits),
    };
    let weights = parameters * states.weight() / over(3);
    let parts = vec![
        Part {
            name: "weights",
            bytes: weights + gathered + adapters,
            formula: "bytes a weight · parameters of the chip (ZeRO-3: its share, and two gathered layers)",
        },
        Part {
            name: "gradients",
            bytes: trained * states.gradient() / over(2),
            formula: "4 bytes a trained parameter (2 where all is 16-bit), ZeRO-2: its share",
        },
        Part {
            name: "optimiser",
            bytes: trained * states.optimiser() / over(1),
            formula: "12 bytes a trained parameter: master weight and two moments (4 where all is 16-bit), ZeRO-1: its share",
        },
        Part {
            name: "activations",
            bytes: activations,
            formula: "layers of the stage · micro-batches in flight · tokens · bytes a token and layer (34·hidden + 5·heads·sequence, less what is recomputed or split)",
        },
        Part {
            name: "recomputed layer",
            bytes: working,
            formula: "one layer's activations, where whole layers are recomputed",
        },
        Part {
            name: "logits",
            bytes: logits,
            formula: "8 bytes · tokens · vocabulary / t, in the last stage",
        },
        Part {
            name: "runtime",
            bytes: RUNTIME_BYTES,
            formula: "1.5 GB: context, collectives' buffers, workspaces",
        },
    ];
    Footprint { parts }
}

/// Micro-batches whose activations the first stage holds at once (Korthikanti et al. 2022, section 4.2.3).
fn in_flight(split: &Split, micro_batches: f64) -> f64 {
    let most = match split.schedule {
        Schedule::Interleaved(pieces) if pieces > 1.0 => {
            split.pp * (1.0 + (split.pp - 1.0) / (split.pp * pieces))
        }
        Schedule::Interleaved(_) | Schedule::ZeroBubble => split.pp,
        Schedule::DualPipe => split.pp + 1.0,
    };
    most.min(micro_batches)
}

/// Bytes that a layer keeps of a token.
pub fn layer_bytes(
    model: &Architecture,
    sequence: f64,
    recompute: Recompute,
    program: &Program,
    tp: f64,
) -> f64 {
    let whole = if program.has_sequence_parallel { tp } else { 1.0 };
    let hidden = model.hidden;
    match recompute {
        Recompute::Full => return 2.0 * hidden / whole,
        Recompute::Alternate => {
            let of = |recompute| layer_bytes(model, sequence, recompute, program, tp);
            return (of(Recompute::None) + of(Recompute::Full)) / 2.0;
        }
        Recompute::None | Recompute::Selective => {}
    }
    let masks = if program.has_dropout { 2.0 * hidden } else { 0.0 };
    // Inputs of both norms, and their results, which the products read.
    let norms = if program.has_parallel_block { 4.0 * hidden } else { 8.0 * hidden };
    let heads = 2.0 * (model.query_width() + model.cache_width().max(2.0 * model.kv_heads * model.head));
    let attended = 2.0 * model.value_width();
    let scores = match (program.attention.is_fused(), recompute) {
        (true, _) => 4.0 * model.heads,
        (false, Recompute::Selective) => 0.0,
        (false, _) => 5.0 * model.heads * sequence,
    };
    let wide = if model.is_gated { 6.0 } else { 4.0 };
    let ffn = match model.experts {
        Some(experts) => {
            let share = model.expert_layers() / model.layers;
            let of_experts = (experts.chosen + experts.shared) * experts.ffn + experts.chosen * hidden;
            share * of_experts + (1.0 - share) * model.ffn
        }
        None => model.ffn,
    };
    (norms + masks) / whole + (heads + attended + scores + wide * ffn) / tp
}

/// Bytes of a cache of keys and values, for each token.
pub fn cache_bytes(model: &Architecture, precision: Precision) -> f64 {
    model.layers * model.cache_width() * precision.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Experts, known};

    fn plain(sequence_parallel: bool) -> Program {
        Program {
            attention: crate::step::Attention::Plain,
            has_sequence_parallel: sequence_parallel,
            has_dropout: true,
            ..Program::MODERN
        }
    }

    /// Korthikanti et al. 2022, table 2: bytes of a layer for each token, by what is done against them.
    #[test]
    fn activations_are_those_of_megatrons_table() {
        let model = known("gpt-3-175b").expect("a known model");
        let (hidden, scores) = (12288.0, 5.0 * 96.0 * 2048.0);
        for (recompute, sequence_parallel, tp, expected) in [
            (Recompute::None, false, 1.0, 34.0 * hidden + scores),
            (Recompute::None, false, 8.0, 10.0 * hidden + 24.0 * hidden / 8.0 + scores / 8.0),
            (Recompute::None, true, 8.0, 34.0 * hidden / 8.0 + scores / 8.0),
            (Recompute::Selective, false, 8.0, 10.0 * hidden + 24.0 * hidden / 8.0),
            (Recompute::Selective, true, 8.0, 34.0 * hidden / 8.0),
            (Recompute::Full, false, 8.0, 2.0 * hidden),
        ] {
            let counted = layer_bytes(&model, 2048.0, recompute, &plain(sequence_parallel), tp);
            assert!((counted / expected - 1.0).abs() < 1e-12, "{recompute:?} {sequence_parallel} {tp}");
        }
        // Section 5: selective recomputation saves 70 % of GPT-3's and 65 % of MT-NLG's activations.
        for (name, saved) in [("gpt-3-175b", 0.70), ("megatron-530b", 0.65)] {
            let model = known(name).expect("a known model");
            let bytes = |recompute| layer_bytes(&model, 2048.0, recompute, &plain(true), 8.0);
            let counted = 1.0 - bytes(Recompute::Selective) / bytes(Recompute::None);
            assert!((counted - saved).abs() < 0.006, "{name}: {counted}");
        }
    }

    #[test]
    fn experts_keep_what_goes_through_them() {
        let dense = known("llama-7b").expect("a known model");
        let of = |model: &Architecture| layer_bytes(model, 4096.0, Recompute::None, &Program::MODERN, 1.0);
        let experts = Experts {
            count: 8.0,
            chosen: 2.0,
            shared: 0.0,
            ffn: dense.ffn,
            dense_layers: 0.0,
            groups: 1.0,
            chosen_groups: 1.0,
        };
        let mixed = Architecture { experts: Some(experts), ..dense.clone() };
        let more = 6.0 * (dense.ffn + 2.0 * dense.hidden);
        assert_eq!(of(&mixed) - of(&dense), more);
    }
}
