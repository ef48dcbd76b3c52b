//! Memory estimates for training and for generation, in bytes.
//!
//! Each part says which buffers it counts. Activations are counted from what the tape keeps: per
//! layer and token the residual stream before each half, the fused query, key and value row after the
//! rotary embedding, the attention's output and its log-sum-exp, and the fused gate and up row; norms and
//! SwiGLU are recomputed in the backward pass, as Korthikanti et al. 2022 ("Reducing Activation
//! Recomputation in Large Transformer Models", section 5) propose for the cheap operations.

use model::{AdapterOptions, Config, Decoder, Layout, Role};
use std::fmt;

/// Bytes of an f32.
const F32: u64 = 4;
/// Logits that exist at once in the fused output projection and cross-entropy, but never fewer than
/// [`LOGIT_ROWS_MIN`] rows (see `tensor::Tape::cross_entropy`).
const LOGITS: usize = 1 << 22;
/// Rows of logits at least.
const LOGIT_ROWS_MIN: usize = 512;
/// Packed panels of a matrix product that each thread holds at once, as far as the caches go.
const PACKING_BYTES_PER_THREAD: u64 = 2 << 20;
/// Program, stacks, tokenizer and the allocator's own needs.
const PROGRAM_BYTES: u64 = 24 << 20;

/// The optimisers, by what they keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimiser {
    /// Two moments of every parameter.
    AdamW,
    /// One momentum of every matrix inside a layer, two moments of the rest.
    Muon,
}

/// What decides the memory of training beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingShape {
    /// Sequences that go through the model at once.
    pub micro_batch_sequences: usize,
    /// Micro-batches whose gradients are added up in a step; at least 1.
    pub micro_batches: usize,
    /// Tokens in a sequence.
    pub context: usize,
    /// The optimiser.
    pub optimiser: Optimiser,
    /// Whether only the inputs of each layer's halves are kept, and the rest recomputed half by half.
    pub activation_checkpointing: bool,
    /// Threads of the pool.
    pub threads: usize,
    /// Bytes of training data held in memory (not memory-mapped).
    pub data_bytes: u64,
}

/// What decides the memory of generation beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServingShape {
    /// Tokens for which keys and values are held, over all sequences.
    pub cached_tokens: usize,
    /// Tokens that go through the model at once.
    pub chunk_tokens: usize,
    /// Threads of the pool.
    pub threads: usize,
}

/// A sum of named parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The parts.
    pub items: Vec<Item>,
}

/// A part of an estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is held.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// The formula, in the terms of the configuration.
    pub formula: &'static str,
}

/// An estimate that is greater than the memory there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this needs about {} of memory, but the machine has {} free:\n{estimate}\n\
     take a smaller model, context or micro-batch, or turn activation checkpointing on",
    size(estimate.total_bytes()), size(*available_bytes)
)]
pub struct Shortage {
    /// What would be needed.
    pub estimate: Estimate,
    /// What there is.
    pub available_bytes: u64,
}

/// Memory of training all weights of `config` with `shape`.
pub fn training(config: &Config, shape: &TrainingShape) -> Estimate {
    let parameters = config.parameter_count() as u64;
    let gradients = Item { name: "gradients", bytes: parameters * F32, formula: "4 · parameters" };
    let activations = activation_floats(config, shape, shape.micro_batches <= 1);
    passes(config, shape, activations, vec![gradients, optimiser_state(config, shape.optimiser)])
}

/// Memory of training adapters over frozen weights of `config` with `shape`: gradients and the optimiser's state are
/// those of the adapters alone.
pub fn adapters(config: &Config, options: &AdapterOptions, shape: &TrainingShape) -> Estimate {
    let parameters = options.parameter_count(config) as u64;
    let tokens = (shape.micro_batch_sequences * shape.context) as u64;
    let kept_layers = if shape.activation_checkpointing { 1 } else { config.layers };
    let inner = (options.rank * options.target_modules.len() * kept_layers) as u64;
    let (state, formula) = match shape.optimiser {
        Optimiser::AdamW => (2 * parameters, "8 · adapter parameters"),
        Optimiser::Muon => (parameters, "4 · adapter parameters"),
    };
    let trained = vec![
        Item { name: "adapters", bytes: parameters * F32, formula: "4 · adapter parameters" },
        Item { name: "gradients", bytes: parameters * F32, formula: "4 · adapter parameters" },
        Item { name: "optimiser", bytes: state * F32, formula },
        Item {
            name: "inner rows",
            bytes: inner * tokens * F32,
            formula: "4 · tokens · layers · rank · adapted matrices in a layer",
        },
    ];
    passes(config, shape, activation_floats(config, shape, false), trained)
}

/// The weights, what is held for those that are `trained`, and what the passes over them need.
fn passes(config: &Config, shape: &TrainingShape, activation_floats: u64, trained: Vec<Item>) -> Estimate {
    let parameters = config.parameter_count() as u64;
    let tokens = (shape.micro_batch_sequences * shape.context) as u64;
    let weights = Item { name: "weights", bytes: parameters * F32, formula: "4 · parameters" };
    let items = [
        Item {
            name: "activations",
            bytes: activation_floats * F32,
            formula: match shape.activation_checkpointing {
                false => {
                    "4 · tokens · layers · (2·hidden + (heads + 2·kv)·head + heads·head + heads + 2·ffn)"
                }
                true => {
                    "4 · tokens · (2 · layers · hidden, less what idle gradients hold, + one layer's activations)"
                }
            },
        },
        Item {
            name: "working buffers",
            bytes: working_floats(config) * tokens * F32,
            formula: "4 · tokens · (5·hidden + 3·ffn + (heads + 2·kv)·head): embedding, final norm, one layer's backward",
        },
        Item {
            name: "cross-entropy",
            bytes: logits(config, tokens) * F32,
            formula: "4 · vocabulary · min(tokens, max(512, 2²² / vocabulary))",
        },
        Item { name: "matrix packing", bytes: packing(shape.threads), formula: "2 MiB a thread" },
        Item { name: "data", bytes: shape.data_bytes, formula: "as given" },
        Item { name: "program", bytes: PROGRAM_BYTES, formula: "24 MiB" },
    ];
    Estimate { items: [weights].into_iter().chain(trained).chain(items).collect() }
}

/// Memory of generating with `config` and `shape`.
pub fn serving(config: &Config, shape: &ServingShape) -> Estimate {
    let parameters = config.parameter_count() as u64;
    let row = (2 * config.kv_heads * config.head_dim) as u64;
    let chunk = shape.chunk_tokens as u64;
    let layer = layer_floats(config) + config.hidden_size as u64;
    Estimate {
        items: vec![
            Item { name: "weights", bytes: parameters * F32, formula: "4 · parameters" },
            Item {
                name: "packed weights",
                bytes: Layout::new(config).matmul_parameter_count() as u64 * F32,
                formula: "4 · parameters of matrix products",
            },
            Item {
                name: "keys and values",
                bytes: config.layers as u64 * row * shape.cached_tokens as u64 * F32,
                formula: "4 · layers · 2 · kv · head · cached tokens",
            },
            Item {
                name: "activations",
                bytes: chunk * layer * F32,
                formula: "4 · chunk · (3·hidden + (heads + 2·kv)·head + heads·head + heads + 2·ffn)",
            },
            Item {
                name: "logits",
                bytes: logits(config, chunk) * F32,
                formula: "4 · vocabulary · min(chunk, max(512, 2²² / vocabulary))",
            },
            Item { name: "matrix packing", bytes: packing(shape.threads), formula: "2 MiB a thread" },
            Item { name: "program", bytes: PROGRAM_BYTES, formula: "24 MiB" },
        ],
    }
}

/// Floating-point operations of one training step: 6 for each token and parameter that it is multiplied with (2
/// forward, 4 backward; Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1) and
/// 12 · layers · heads · head_dim for each pair of a token and one that it attends to (Chowdhery et al.
/// 2022, "PaLM", appendix B, over the causal pairs only). Recomputation is not counted.
///
/// `lengths` are those of the documents in the step.
pub fn training_flops(decoder: &Decoder, lengths: impl IntoIterator<Item = usize>) -> f64 {
    let (tokens, attention) = tokens_and_attention(decoder, lengths);
    6.0 * decoder.layout().active_parameter_count() as f64 * tokens + attention
}

/// As [`training_flops`], for a step that trains `adapter_parameters` over frozen weights: the frozen ones take part in
/// the forward pass and in the gradients of activations, 4 for each token and parameter, the adapters in all, 6.
pub fn adapter_flops(
    decoder: &Decoder,
    adapter_parameters: usize,
    lengths: impl IntoIterator<Item = usize>,
) -> f64 {
    let (tokens, attention) = tokens_and_attention(decoder, lengths);
    let frozen = 4.0 * decoder.layout().active_parameter_count() as f64;
    (frozen + 6.0 * adapter_parameters as f64) * tokens + attention
}

/// Tokens of a step, and the operations of their attention, forward and backward.
fn tokens_and_attention(decoder: &Decoder, lengths: impl IntoIterator<Item = usize>) -> (f64, f64) {
    let (mut tokens, mut pairs) = (0.0, 0.0);
    for length in lengths {
        tokens += length as f64;
        pairs += length as f64 * (length as f64 + 1.0) / 2.0;
    }
    let config = decoder.config();
    (tokens, 12.0 * (config.layers * config.heads * config.head_dim) as f64 * pairs)
}

impl Estimate {
    /// The sum of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// One line: the sum, and the parts that make at least a twentieth of it.
    pub fn summary(&self) -> String {
        let total = self.total_bytes();
        let large = self.items.iter().filter(|item| item.bytes * 20 >= total && item.bytes > 0);
        let parts: Vec<String> = large.map(|item| format!("{} {}", item.name, size(item.bytes))).collect();
        format!("{} of memory ({})", size(total), parts.join(", "))
    }

    /// The part of a name; 0 when there is none.
    pub fn bytes_of(&self, name: &str) -> u64 {
        self.items.iter().filter(|item| item.name == name).map(|item| item.bytes).sum()
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// [`Shortage`], with every part's size, when more is needed than is available.
    pub fn check(&self, available_bytes: u64) -> Result<(), Shortage> {
        match self.total_bytes() <= available_bytes {
            true => Ok(()),
            false => Err(Shortage { estimate: self.clone(), available_bytes }),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.items.iter().filter(|item| item.bytes > 0);
        for (index, item) in items.enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}  {:<16} {:>10}   {}", item.name, size(item.bytes), item.formula)?;
        }
        Ok(())
    }
}

/// A size for people: "1.5 GiB".
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Floats that the tape keeps for each token in one layer (where layers differ, in one that keeps the most); a query and key
/// norm keeps its input, too.
fn layer_floats(config: &Config) -> u64 {
    let heads = config.attention_heads();
    let residual = 2 * config.hidden_size;
    let log_sum_exp = heads.heads;
    let fused = heads.fused_width() * if config.qk_norm { 2 } else { 1 };
    (residual + fused + heads.out_width() + log_sum_exp + mlp_floats(config)) as u64
}

/// Floats that the tape keeps for each token of a feed-forward layer: what its activation reads, or of a layer of experts the
/// router's products, since the rest is computed again.
fn mlp_floats(config: &Config) -> usize {
    let Some(experts) = &config.experts else { return 2 * config.intermediate_size };
    let is_mixed = experts.layers.contains(&false);
    if is_mixed { experts.count.max(2 * config.intermediate_size) } else { experts.count }
}

/// Floats that the tape keeps of a micro-batch.
fn activation_floats(config: &Config, shape: &TrainingShape, has_idle_gradients: bool) -> u64 {
    let tokens = (shape.micro_batch_sequences * shape.context) as u64;
    match shape.activation_checkpointing {
        false => config.layers as u64 * layer_floats(config) * tokens,
        true => checkpointed_floats(config, tokens, has_idle_gradients) + layer_floats(config) * tokens,
    }
}

/// Floats that all layers but the last one keep of `tokens` tokens under activation checkpointing: the inputs of their two
/// halves, but for those that find room in the gradients of the layers before, together with what products and attention
/// computed (see `tensor::Checkpoints`). With several micro-batches the gradients are idle for the first one only.
fn checkpointed_floats(config: &Config, tokens: u64, has_idle_gradients: bool) -> u64 {
    let layers = config.layers.max(1) as u64 - 1;
    let input = config.hidden_size as u64 * tokens;
    if !has_idle_gradients {
        return 2 * layers * input;
    }
    let heads = config.attention_heads();
    let embedding = (config.vocab_size * config.hidden_size) as u64;
    let tables = if config.tie_embeddings { embedding } else { 2 * embedding };
    let of_layer = (config.parameter_count() as u64 - tables) / config.layers.max(1) as u64;
    let computed = [&[heads.fused_width(), heads.out_width(), heads.heads][..], &[mlp_floats(config)]];
    let (mut parked, mut kept) = (if config.tie_embeddings { embedding } else { 0 }, 0);
    for layer in 0..layers {
        let end = embedding + layer * of_layer;
        for computed in computed {
            match parked + input <= end {
                true => parked += input,
                false => kept += input,
            }
            for floats in computed.iter().map(|width| *width as u64 * tokens) {
                if parked + floats + input <= end {
                    parked += floats;
                }
            }
        }
    }
    kept
}

/// Floats for each token that live outside the layers or only during one layer's backward pass: the
/// embedding's rows, the final norm's and their gradients, a recomputed norm, and the gradients of a SwiGLU's
/// input and output and of a fused query, key and value row.
fn working_floats(config: &Config) -> u64 {
    let fused = config.attention_heads().fused_width();
    let Some(experts) = &config.experts else {
        return (5 * config.hidden_size + 3 * config.intermediate_size + fused) as u64;
    };
    // While an expert is differentiated, its rows, what it computes of them and their gradients: for twice an even share
    // of the rows.
    let of_row = 3 * config.hidden_size + 6 * experts.intermediate_size;
    let rows = (2 * experts.top_k).min(experts.count);
    let of_expert = (rows * of_row).div_ceil(experts.count);
    (5 * config.hidden_size + (3 * config.intermediate_size).max(of_expert) + fused) as u64
}

fn optimiser_state(config: &Config, optimiser: Optimiser) -> Item {
    let hidden: usize = Layout::new(config)
        .entries()
        .iter()
        .filter(|entry| matches!(entry.role, Role::Hidden | Role::Residual))
        .map(|entry| entry.weight.len())
        .sum();
    let (all, hidden) = (config.parameter_count() as u64, hidden as u64);
    let name = "optimiser";
    match optimiser {
        Optimiser::AdamW => Item { name, bytes: 2 * all * F32, formula: "8 · parameters" },
        Optimiser::Muon => Item {
            name,
            bytes: (2 * (all - hidden) + hidden) * F32 + muon_scratch_bytes(config),
            formula: "4 · (matrices in layers + 2 · other parameters) + 4 · (3 · largest matrix + 2 · min(rows, columns)²)",
        },
    }
}

/// The update, its transposed copy and a product of the largest matrix, and two square products.
fn muon_scratch_bytes(config: &Config) -> u64 {
    let (hidden, ffn) = (config.hidden_size as u64, config.intermediate_size as u64);
    let query = (config.heads * config.head_dim) as u64;
    let (long, short) = (ffn.max(query), hidden.min(ffn.max(query)));
    (3 * long * hidden + 2 * short * short) * F32
}

/// Logits that exist at once for `tokens` rows.
fn logits(config: &Config, tokens: u64) -> u64 {
    let rows = (LOGITS / config.vocab_size).max(LOGIT_ROWS_MIN) as u64;
    tokens.min(rows) * config.vocab_size as u64
}

fn packing(threads: usize) -> u64 {
    threads as u64 * PACKING_BYTES_PER_THREAD
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn small() -> (Config, TrainingShape) {
        let mut config = Config::llama(8192, 256, 6, 4);
        config.intermediate_size = 688;
        let shape = TrainingShape {
            micro_batch_sequences: 16,
            micro_batches: 1,
            context: 256,
            optimiser: Optimiser::AdamW,
            activation_checkpointing: false,
            threads: 2,
            data_bytes: 0,
        };
        (config, shape)
    }

    #[test]
    fn parts_are_what_their_formulas_say() {
        let (config, shape) = small();
        let estimate = training(&config, &shape);
        let parameters = 2 * 8192 * 256 + 6 * (4 * 256 * 256 + 3 * 256 * 688 + 2 * 256) + 256;
        let per_token = 6 * (2 * 256 + 3 * 256 + 256 + 4 + 2 * 688);
        let cases = [
            ("weights", 4 * parameters),
            ("gradients", 4 * parameters),
            ("optimiser", 8 * parameters),
            ("activations", 4 * 16 * 256 * per_token),
            ("cross-entropy", 4 * 512 * 8192),
        ];
        for (name, expected) in cases {
            assert_eq!(estimate.bytes_of(name), expected, "{name}");
        }
    }

    #[test]
    fn what_should_save_memory_does() {
        let (config, shape) = small();
        let full = training(&config, &shape).total_bytes();
        let savers = [
            TrainingShape { activation_checkpointing: true, ..shape },
            TrainingShape { micro_batch_sequences: 8, micro_batches: 2, ..shape },
            TrainingShape { optimiser: Optimiser::Muon, ..shape },
            TrainingShape { context: 128, ..shape },
        ];
        for saver in savers {
            assert!(training(&config, &saver).total_bytes() < full, "{saver:?}");
        }
    }

    #[test]
    fn idle_gradients_hold_what_checkpoints_keep() {
        let mut config = Config::llama(32_000, 768, 12, 12);
        let input = 768 * 64;
        // Few tokens: all inputs are parked; a second micro-batch finds gradients in their place.
        assert_eq!(checkpointed_floats(&config, 64, true), 0);
        assert_eq!(checkpointed_floats(&config, 64, false), 2 * 11 * input);
        // A table that is also the output projection is no place to park in, so the first layer has none.
        config.tie_embeddings = true;
        assert_eq!(checkpointed_floats(&config, 64, true), 2 * input);
    }

    #[test]
    fn a_shortage_tells_every_size() {
        let (config, shape) = small();
        let estimate = training(&config, &shape);
        let total = estimate.total_bytes();
        assert_eq!(estimate.check(total), Ok(()));
        let message = estimate.check(total - 1).unwrap_err().to_string();
        for item in estimate.items.iter().filter(|item| item.bytes > 0) {
            assert!(message.contains(item.name) && message.contains(&size(item.bytes)), "{message}");
        }
        assert!(message.contains(&size(total)), "{message}");
    }

    #[test]
    fn a_summary_leaves_small_parts_out() {
        let (config, shape) = small();
        let summary = training(&config, &shape).summary();
        assert!(
            summary.contains("of memory (weights 34.1 MiB, ") && summary.contains("activations"),
            "{summary}"
        );
        assert!(!summary.contains("packing"), "{summary}");
    }

    #[test]
    fn operations_of_a_step_by_hand() {
        let (config, _) = small();
        let matrices = (8192 * 256 + 6 * (4 * 256 * 256 + 3 * 256 * 688 + 2 * 256) + 256) as f64;
        let pairs = (3 * 4 / 2 + 2 * 3 / 2) as f64;
        let expected = 6.0 * matrices * 5.0 + 12.0 * 6.0 * 256.0 * pairs;
        assert_eq!(training_flops(&Decoder::new(config), [3, 2]), expected);
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
