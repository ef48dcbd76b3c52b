//! What kind of decoder (or encoder) a model is: a description by choices, read from and written as Hugging Face's
//! `config.json`.
//!
//! A family is a row of a table (`family`): its names, and how its keys are read. The decoder reads choices only, never a
//! family. Whatever it cannot compute is refused here, by key.

mod family;
mod read;
mod rope;
mod write;

pub use family::Family;
pub(crate) use family::Names;
pub use rope::{Rope, RopeScaling};

use crate::Error;
use serde_json::Value;
use std::path::Path;
use tensor::{Activation, Attention, ExpertWeighting, Heads, Mask, NormKind};

/// The decoder's shape and the choices that families differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, which fixes names in the saved folder.
    pub family: Family,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer; of layers with experts see [`ExpertLayers`].
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of each head; even where positions are rotated in.
    pub head_dim: usize,
    /// Longest context, in tokens, rope scaling included.
    pub max_positions: usize,
    /// How rows are normalised.
    pub norm: NormKind,
    /// Where in a layer they are.
    pub norm_place: NormPlace,
    /// Added to the mean square or variance in each norm.
    pub norm_eps: f32,
    /// How a token's position comes in.
    pub positions: Positions,
    /// The rotary embedding, where positions are [`Positions::Rotary`].
    pub rope: Rope,
    /// Layers that see a window of tokens only, if any.
    pub sliding: Option<Sliding>,
    /// Whether a token sees only those up to itself; an encoder's sees all.
    pub causal: bool,
    /// What embeddings are multiplied with.
    pub embedding_scale: Option<f32>,
    /// Kinds of token that have an embedding of their own (BERT's segments); 0 where there is no such table. All tokens
    /// are of the first.
    pub token_types: usize,
    /// Whether the output projection is the embedding table. An encoder has no output projection, and says so here.
    pub tie_embeddings: bool,
    /// Whether each query and key head is normalised.
    pub qk_norm: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// What the product of query and key is multiplied with, where it is not 1 / sqrt(head_dim).
    pub attention_scale: Option<f32>,
    /// With a cap c an attention score s becomes c · tanh(s / c).
    pub attention_soft_cap: Option<f32>,
    /// The same for logits.
    pub logit_soft_cap: Option<f32>,
    /// The feed-forward layer's function.
    pub activation: Activation,
    /// Whether the feed-forward layer is gated: down(activation(gate) · up), else down(activation(up)).
    pub gated: bool,
    /// Layers of experts, if any.
    pub experts: Option<ExpertLayers>,
    /// Id of the token that begins a document, if any.
    pub bos_token_id: Option<u32>,
    /// Ids of the tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

/// Where the norms of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before attention and feed-forward layer, and after the last layer.
    Before,
    /// There, and also after attention and feed-forward layer, before the sum (Gemma 2).
    BeforeAndAfter,
    /// After each sum, and after the embeddings (BERT).
    AfterSum,
}

/// How a token's position comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Query and key heads are rotated.
    Rotary,
    /// A learned row is added to the embedding.
    Learned,
}

/// Layers whose rows see a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// Tokens that a row sees: itself and those before it.
    pub tokens: usize,
    /// Which layers, (layers).
    pub layers: Vec<bool>,
    /// These layers' own rotary embedding, where it is not that of the others.
    pub rope: Option<Rope>,
}

/// Layers of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertLayers {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a row goes to.
    pub top_k: usize,
    /// Width of each expert's feed-forward layer.
    pub intermediate_size: usize,
    /// How their results are weighted.
    pub weighting: ExpertWeighting,
    /// Which layers have experts instead of one feed-forward layer, (layers).
    pub layers: Vec<bool>,
}

impl Config {
    /// A Llama-shaped configuration with multi-head attention and no biases.
    pub fn llama(vocab_size: usize, hidden_size: usize, layers: usize, heads: usize) -> Config {
        Config {
            family: Family::Llama,
            vocab_size,
            hidden_size,
            intermediate_size: (hidden_size * 8 / 3).next_multiple_of(16),
            layers,
            heads,
            kv_heads: heads,
            head_dim: hidden_size / heads.max(1),
            max_positions: 2048,
            norm: NormKind::Rms,
            norm_place: NormPlace::Before,
            norm_eps: 1e-5,
            positions: Positions::Rotary,
            rope: Rope::plain(10_000.0),
            sliding: None,
            causal: true,
            embedding_scale: None,
            token_types: 0,
            tie_embeddings: false,
            qk_norm: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            attention_scale: None,
            attention_soft_cap: None,
            logit_soft_cap: None,
            activation: Activation::Silu,
            gated: true,
            experts: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }

    /// The division of fused query, key and value rows.
    pub fn attention_heads(&self) -> Heads {
        Heads { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// How the rows of a layer attend.
    pub fn attention(&self, layer: usize) -> Attention {
        let usual = Attention::causal(self.head_dim);
        let mask = match (self.causal, self.window(layer)) {
            (true, None) => Mask::Causal,
            (true, Some(sliding)) => Mask::Window(sliding.tokens),
            (false, _) => Mask::Whole,
        };
        Attention {
            mask,
            scale: self.attention_scale.unwrap_or(usual.scale),
            soft_cap: self.attention_soft_cap,
        }
    }

    /// The window of a layer, if it has one.
    pub fn window(&self, layer: usize) -> Option<&Sliding> {
        self.sliding.as_ref().filter(|sliding| sliding.layers[layer])
    }

    /// The experts of a layer, if it has some.
    pub fn experts_of(&self, layer: usize) -> Option<&ExpertLayers> {
        self.experts.as_ref().filter(|experts| experts.layers[layer])
    }

    /// Number of parameters; tied embeddings counted once.
    pub fn parameter_count(&self) -> usize {
        crate::Layout::new(self).len()
    }

    /// Whether the trainer can train such a model.
    ///
    /// # Errors
    /// A sentence that names the family and the reason.
    pub fn check_trainable(&self) -> Result<(), String> {
        let name = self.family.model_type();
        match self.causal {
            true => Ok(()),
            false => {
                Err(format!("a model of the family `{name}` is an encoder, and only decoders are trained"))
            }
        }
    }

    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// When the file is missing or malformed, the family unknown, or a key asks for something that
    /// the decoder does not compute.
    pub fn load(folder: &Path) -> Result<Config, Error> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::read(&path, source))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|source| Error::Config { path: path.clone(), reason: source.to_string() })?;
        Config::from_json(&value).map_err(|reason| Error::Config { path, reason })
    }

    /// Reads the value of a `config.json`.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn from_json(value: &Value) -> Result<Config, String> {
        let object = value.as_object().ok_or("it is not a JSON object")?;
        let config = read::Reader { object }.config()?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` that transformers, vLLM and llama.cpp read.
    pub fn to_json(&self) -> Value {
        write::to_json(self)
    }

    /// Checks what [`Config::to_json`] could not express or the decoder could not run.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_sizes()?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "`num_attention_heads` ({}) is not a multiple of `num_key_value_heads` ({})",
                self.heads, self.kv_heads
            ));
        }
        if self.head_dim > 256 || (self.positions == Positions::Rotary && !self.head_dim.is_multiple_of(2)) {
            return Err(format!("`head_dim` is {}; an even number up to 256 is supported", self.head_dim));
        }
        if self.positions == Positions::Rotary {
            let ropes = [Some(&self.rope), self.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref())];
            ropes.into_iter().flatten().try_for_each(|rope| rope.validate(self.head_dim))?;
        }
        if let Some(sliding) = &self.sliding
            && (sliding.tokens == 0 || sliding.layers.len() != self.layers)
        {
            return Err(format!(
                "`sliding_window` is {} in {} layers of {}",
                sliding.tokens,
                sliding.layers.len(),
                self.layers
            ));
        }
        if let Some(experts) = &self.experts
            && (experts.top_k == 0 || experts.top_k > experts.count || experts.layers.len() != self.layers)
        {
            let ExpertLayers { count, top_k, layers, .. } = experts;
            return Err(format!(
                "`num_experts_per_tok` is {top_k} of {count} experts in {} layers",
                layers.len()
            ));
        }
        self.validate_family()
    }

    fn validate_sizes(&self) -> Result<(), String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        let experts = self.experts.iter().flat_map(|experts| {
            [("num_experts", experts.count), ("moe_intermediate_size", experts.intermediate_size)]
        });
        for (name, value) in positive.into_iter().chain(experts) {
            if value == 0 || value > 1 << 28 {
                return Err(format!("`{name}` is {value}; it must be between 1 and 2^28"));
            }
        }
        if self.max_positions > 1 << 24 {
            return Err(format!(
                "`max_position_embeddings` is {}; up to 2^24 is supported",
                self.max_positions
            ));
        }
        let expert_width = self
            .experts
            .as_ref()
            .map_or(0, |experts| experts.count.saturating_mul(experts.intermediate_size));
        let widths =
            [self.vocab_size, self.intermediate_size, self.heads.saturating_mul(self.head_dim), expert_width];
        let largest =
            widths.into_iter().map(|width| width as u128 * self.hidden_size as u128).max().unwrap_or(0);
        if self.layers > 10_000 || largest * self.layers as u128 > 1 << 41 {
            return Err("the sizes together describe more than 2^41 parameters; the file is damaged".into());
        }
        Ok(())
    }

    /// What a family's `config.json` cannot say, no other program could know.
    fn validate_family(&self) -> Result<(), String> {
        let name = self.family.model_type();
        let json = self.to_json();
        let object = json.as_object().ok_or("a configuration is an object")?;
        let again = read::Reader { object }.config()?;
        if again == *self {
            return Ok(());
        }
        Err(format!("the norms, biases and other choices asked for are not those of the family `{name}`"))
    }
}

#[cfg(test)]
mod tests;
