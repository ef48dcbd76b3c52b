//! The time of a training step and its parts: arithmetic, memory traffic, each kind of communication, the pipeline's bubble
//! and the optimiser.
//!
//! Every operation is charged what it computes over the speed that its chip reaches and what it moves over the bandwidth
//! (a roofline whose two sides are added, which makes small products slow without a further constant). It must not know how
//! a split is chosen.

mod compute;

mod network;

pub use compute::{chip_parameters, layer_parameters};

use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::catalog::{CatalogError, Chip, Precision};

/// What is computed again in the backward pass instead of kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Nothing.
    None,
    /// The attention's scores (Korthikanti et al. 2022, section 5).
    Selective,
    /// Every second layer.
    Alternate,
    /// All layers.
    Full,
}

impl Recompute {
    /// All, by their names.
    pub const ALL: [(&'static str, Recompute); 4] = [
        ("none", Recompute::None),
        ("selective", Recompute::Selective),
        ("alternate", Recompute::Alternate),
        ("full", Recompute::Full),
    ];

    /// The share of layers whose whole forward pass is done again.
    pub fn layers_again(self) -> f64 {
        match self {
            Recompute::None | Recompute::Selective => 0.0,
            Recompute::Alternate => 0.5,
            Recompute::Full => 1.0,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Recompute::ALL.iter().find(|known| known.1 == self).map_or("", |known| known.0)
    }
}

/// How the micro-batches of a step follow each other through the stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// One forward, one backward (Narayanan et al. 2021, section 2.2.1), each stage in this many pieces (section 2.2.2).
    Interleaved(f64),
    /// Weight gradients fill the bubble: a third of it is left (Qi et al. 2023, "Zero Bubble Pipeline Parallelism").
    ZeroBubble,
    /// Two directions at once (DeepSeek-V3, arXiv:2412.19437, table 2).
    DualPipe,
}

impl Schedule {
    /// Seconds that a chip of `stages` stages waits for others in a step: `pass` computes a micro-batch forward and
    /// backward, `beside` is the communication that it waits for then, `alone` that of a micro-batch that has no other
    /// beside it, and `border` a send to the next stage and back.
    pub fn bubble_seconds(self, stages: f64, pass: f64, beside: f64, alone: f64, border: f64) -> f64 {
        match self {
            Schedule::Interleaved(pieces) => (stages - 1.0) * ((pass + beside) / pieces + border),
            Schedule::ZeroBubble => (stages - 1.0) * ((pass + beside) / 3.0 + border),
            // Forward and backward beside each other, a backward pass alone, less three passes for weights.
            Schedule::DualPipe => {
                let pair = pass + beside;
                let backward = 2.0 / 3.0 * pass + alone / 2.0;
                (stages / 2.0 - 1.0).max(0.0) * (pair + backward - pass + border)
            }
        }
    }

    /// Micro-batches of a step whose passes have none of another's beside them, while the stages fill and empty.
    /// DualPipe's chips count 3·h − r − 1 of them, h = stages / 2 and r from 0 to h − 1 (deepseek-ai/DualPipe,
    /// dualpipe.py, steps 1 to 8): this is their mean.
    pub fn alone(self, stages: f64) -> f64 {
        match self {
            Schedule::Interleaved(_) | Schedule::ZeroBubble => stages - 1.0,
            Schedule::DualPipe => 1.25 * stages - 0.5,
        }
    }

    /// Pieces of a stage.
    pub fn pieces(self) -> f64 {
        match self {
            Schedule::Interleaved(pieces) => pieces,
            Schedule::ZeroBubble | Schedule::DualPipe => 1.0,
        }
    }
}

/// How a step's work is split over chips. The product of `dp`, `tp`, `pp` and `cp` is the number of chips; `ep` of the
/// data-parallel ones share experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Replicas that see other data.
    pub dp: f64,
    /// Chips that share each matrix.
    pub tp: f64,
    /// Stages of layers.
    pub pp: f64,
    /// Chips that share a layer's experts.
    pub ep: f64,
    /// Chips that share a sequence.
    pub cp: f64,
    /// What replicas share instead of each holding it: 1 optimiser state, 2 also gradients, 3 also weights (Rajbhandari
    /// et al. 2020, "ZeRO"); 0 nothing.
    pub zero: u8,
    /// The order of micro-batches.
    pub schedule: Schedule,
}

impl Split {
    /// Chips in all.
    pub fn chips(&self) -> f64 {
        self.dp * self.tp * self.pp * self.cp
    }
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Scores are written to memory.
    Plain,
    /// In one kernel that keeps no scores (Dao 2023, "FlashAttention-2", arXiv:2307.08691).
    Fused,
    /// In one that also uses the asynchronous units of Hopper and later chips (Shah et al. 2024, "FlashAttention-3",
    /// arXiv:2407.08608; cuDNN 9).
    Asynchronous,
}

impl Attention {
    /// Whether no scores are kept.
    pub fn is_fused(self) -> bool {
        self != Attention::Plain
    }
}

/// What hides the exchange of tokens among experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertOverlap {
    /// Nothing.
    Nothing,
    /// The experts that every token goes to (DeepSeek-V2, section 3.1.3).
    SharedExperts,
    /// All computation of another micro-batch (DeepSeek-V3, section 3.2.1).
    Everything,
}

/// What the training program can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Program {
    /// How attention is computed.
    pub attention: Attention,
    /// Whether what tensor parallelism leaves whole is split over the sequence (Korthikanti et al. 2022, section 4.2.2).
    pub has_sequence_parallel: bool,
    /// Communication of tensor parallelism beside the products.
    pub overlaps_tensor: bool,
    /// Communication between stages beside the computation.
    pub overlaps_pipeline: bool,
    /// Exchange of gradients and weights beside the passes.
    pub overlaps_data: bool,
    /// What the exchange of tokens among experts goes beside.
    pub overlaps_experts: ExpertOverlap,
    /// Attention and feed-forward layer side by side on one input (PaLM, section 2).
    pub has_parallel_block: bool,
    /// Whether it trains with dropout, whose masks are moved and kept.
    pub has_dropout: bool,
    /// Share of the chip's multiprocessors that communication takes from computation (DeepSeek-V3, section 3.2.2).
    pub reserved: f64,
    /// Whether norms, activations and rotations run as single operations of a framework, not as fused kernels.
    pub is_eager: bool,
    /// Whether it is DeepSpeed's pipeline engine, whose runs are slower than Megatron's of the same shape.
    pub is_deepspeed: bool,
}

impl Program {
    /// What today's programs do (Megatron-Core, torchtitan).
    pub const MODERN: Program = Program {
        attention: Attention::Asynchronous,
        has_sequence_parallel: true,
        overlaps_tensor: false,
        overlaps_pipeline: true,
        overlaps_data: true,
        overlaps_experts: ExpertOverlap::Nothing,
        has_parallel_block: false,
        has_dropout: false,
        reserved: 0.0,
        is_eager: false,
        is_deepspeed: false,
    };
}

/// A training step.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The model.
    pub model: &'a Architecture,
    /// Tokens of a sequence.
    pub sequence: f64,
    /// Sequences of a step.
    pub batch: f64,
    /// Sequences that go through a stage at once.
    pub micro_batch: f64,
    /// What is computed again.
    pub recompute: Recompute,
    /// The type of products.
    pub precision: Precision,
    /// The program.
    pub program: Program,
    /// What is trained.
    pub trained: Trained,
    /// Share of a layer's forward products that is computed again beyond `recompute`.
    pub recomputed_share: f64,
    /// Layers that take time beside the model's (DeepSeek-V3's module that predicts further tokens).
    pub extra_layers: f64,
}

/// Which parameters are trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trained {
    /// All.
    All,
    /// Adapters of this many parameters beside frozen weights.
    Adapters(f64),
}

impl Work<'_> {
    /// Tokens of a step.
    pub fn tokens(&self) -> f64 {
        self.sequence * self.batch
    }

    /// Micro-batches of a step on each replica.
    pub fn micro_batches(&self, split: &Split) -> f64 {
        (self.batch / (split.dp * self.micro_batch)).max(1.0)
    }

    /// Operations of the model in a step, recomputation left out: three forward passes' (Kaplan et al. 2020, section 2.1;
    /// PaLM, appendix B); two and the adapters' own where weights are frozen.
    pub fn model_flops(&self) -> f64 {
        let forward = self.model.forward_flops(self.sequence);
        let each = match self.trained {
            Trained::All => 3.0 * forward,
            Trained::Adapters(parameters) => {
                2.0 * forward + 6.0 * parameters + self.model.attention_flops(self.sequence)
            }
        };
        each * self.tokens()
    }

    /// Operations of a step with those that are done twice.
    pub fn hardware_flops(&self) -> f64 {
        let again = match self.recompute {
            Recompute::Selective if !self.program.attention.is_fused() => {
                self.model.attention_flops(self.sequence)
            }
            other => other.layers_again() * self.model.forward_flops(self.sequence),
        };
        self.model_flops() + again * self.tokens()
    }
}

/// A part of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What takes the time.
    pub name: &'static str,
    /// Seconds of a step.
    pub seconds: f64,
    /// How it is computed.
    pub formula: &'static str,
}

/// A step's time.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What makes the time up; their sum is the step.
    pub parts: Vec<Part>,
    /// The peak that shares refer to, operations a second and chip.
    pub peak: f64,
}

impl Step {
    /// Seconds of the step.
    pub fn seconds(&self) -> f64 {
        self.parts.iter().map(|part| part.seconds).sum()
    }

    /// Seconds of the part of this name.
    pub fn seconds_of(&self, name: &str) -> f64 {
        self.parts.iter().filter(|part| part.name == name).map(|part| part.seconds).sum()
    }
}

/// The time of a step of `work` on `chip`s by `split`.
///
/// # Errors
/// [`CatalogError::Unpublished`] where a figure of the chip is needed and not known.
pub fn step(
    work: &Work,
    chip: &Chip,
    split: &Split,
    calibration: &Calibration,
) -> Result<Step, CatalogError> {
    let speeds = compute::Speeds::new(work, chip, calibration)?;
    let links = network::Links::new(chip, split, calibration)?;
    let stage = compute::stage(work, split, &speeds);
    let micro_batches = work.micro_batches(split);
    let pass = stage.pass_seconds();
    let talk = network::layers(work, split, &links, pass / stage.layers, stage.shared);
    let exchange = network::exchange(work, split, &links);
    // Sharded weights are fetched for every micro-batch, so all passes hide them; sums of gradients are sent after the last.
    let beside = if split.zero == 3 { micro_batches * pass } else { pass };
    let times = Times {
        micro_batches,
        alone: split.schedule.alone(split.pp).min(micro_batches),
        bubble: split.schedule.bubble_seconds(
            split.pp,
            pass,
            stage.layers * talk.seconds(),
            stage.layers * talk.seconds_alone(),
            talk.border,
        ),
        exchange: network::exposed(exchange, beside, work.program.overlaps_data, calibration),
        optimiser: compute::optimiser_seconds(work, split, &speeds),
    };
    let mut parts = parts(work, &stage, &talk, &times);
    let busy: f64 = parts.iter().map(|part| part.seconds).sum();
    let nodes = (split.chips() / chip.node as f64).max(1.0);
    parts.push(Part {
        name: "waiting for the slowest",
        seconds: busy * calibration.jitter * nodes.log2(),
        formula: "share a doubling of nodes · log2(nodes)",
    });
    Ok(Step { parts, peak: chip.peak(work.precision)? })
}

/// Seconds of a step beside those of its layers, and how often these run.
struct Times {
    micro_batches: f64,
    alone: f64,
    bubble: f64,
    exchange: f64,
    optimiser: f64,
}

fn parts(work: &Work, stage: &compute::Stage, talk: &network::Talk, times: &Times) -> Vec<Part> {
    let micro_batches = times.micro_batches;
    let per_layer = |seconds: f64| micro_batches * stage.layers * seconds;
    vec![
        Part {
            name: "matrix products",
            seconds: per_layer(stage.products),
            formula: "Σ 2·m·k·n / (peak · share) + bytes / (bandwidth · share), forward and twice backward",
        },
        Part {
            name: "attention",
            seconds: per_layer(stage.attention),
            formula: compute::attention_formula(&work.program),
        },
        Part {
            name: "memory-bound operations",
            seconds: per_layer(stage.streaming),
            formula: "bytes of norms, sums, activations and accumulated gradients / (bandwidth · share)",
        },
        Part {
            name: "recomputation",
            seconds: per_layer(stage.recomputed),
            formula: "the forward pass of what was not kept",
        },
        Part {
            name: "output projection",
            seconds: micro_batches * stage.head_seconds,
            formula: "what the last stage takes longer than the others, or the whole without stages",
        },
        Part {
            name: "tensor-parallel communication",
            seconds: per_layer(talk.tensor),
            formula: "4 all-reduces of tokens · hidden · 2 bytes a layer, 2·(t−1)/t of it over the links",
        },
        Part {
            name: "context-parallel communication",
            seconds: per_layer(talk.context),
            formula: "(c−1)/c of the keys and values, forward once and backward twice",
        },
        Part {
            name: "expert-parallel communication",
            seconds: per_layer(talk.experts)
                + times.alone * stage.layers * (talk.experts_alone - talk.experts),
            formula: "dispatch and combine of tokens · distinct nodes · hidden, forward and backward; of micro-batches \
                      with no other beside them nothing is hidden",
        },
        Part {
            name: "pipeline communication",
            seconds: micro_batches * talk.pipeline,
            formula: "2 · pieces · tokens · hidden · 2 bytes / t a micro-batch",
        },
        Part {
            name: "pipeline bubble",
            seconds: times.bubble,
            formula: "(stages − 1) · (a micro-batch's time / pieces + a send to the next stage and back)",
        },
        Part {
            name: "gradient and weight exchange",
            seconds: times.exchange,
            formula: "(d−1)/d · bytes / bandwidth + hops; what overlapping does not hide",
        },
        Part {
            name: "optimiser",
            seconds: times.optimiser,
            formula: "30 bytes a parameter of the chip's share / (bandwidth · share)",
        },
    ]
}
