//! What kind of decoder a folder holds: Hugging Face's `config.json`, read and written.
//!
//! A family is a configuration; nothing outside this file asks for a model's name. Whatever the
//! decoder cannot compute is refused here, by key.

use crate::Error;
use serde_json::{Map, Value, json};
use std::path::Path;
use tensor::Heads;

/// The decoder's shape and the choices that families differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, which fixes names in the saved folder.
    pub family: Family,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of each head; even.
    pub head_dim: usize,
    /// Longest context, in tokens.
    pub max_positions: usize,
    /// Added to the mean square in each norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary embedding's wave lengths.
    pub rope_theta: f32,
    /// Whether the output projection is the embedding table.
    pub tie_embeddings: bool,
    /// Whether each query and key head is normalised.
    pub qk_norm: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Id of the token that begins a document, if any.
    pub bos_token_id: Option<u32>,
    /// Ids of the tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

/// Families whose configuration the decoder understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3 without rope scaling.
    Llama,
    /// Qwen2 and Qwen2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: query and key norms.
    Qwen3,
}

impl Family {
    const ALL: [(Family, &'static str, &'static str); 3] = [
        (Family::Llama, "llama", "LlamaForCausalLM"),
        (Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    ];

    /// The name in `model_type`.
    pub fn model_type(self) -> &'static str {
        Self::ALL.iter().find(|entry| entry.0 == self).expect("every family is listed").1
    }

    fn architecture(self) -> &'static str {
        Self::ALL.iter().find(|entry| entry.0 == self).expect("every family is listed").2
    }
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
            head_dim: hidden_size / heads,
            max_positions: 2048,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_embeddings: false,
            qk_norm: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }

    /// The division of fused query, key and value rows.
    pub fn attention_heads(&self) -> Heads {
        Heads { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// Number of parameters; tied embeddings counted once.
    pub fn parameter_count(&self) -> usize {
        crate::Layout::new(self).len()
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
        let Value::Object(object) = value else {
            return Err(Error::Config { path, reason: "it is not a JSON object".into() });
        };
        Reader { object: &object }.config().map_err(|reason| Error::Config { path, reason })
    }

    /// The `config.json` that transformers, vLLM and llama.cpp read.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps as f64,
            "rope_theta": self.rope_theta as f64,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": match self.eos_token_ids.as_slice() {
                [] => Value::Null,
                [one] => json!(one),
                many => json!(many),
            },
            "torch_dtype": "float32",
        });
        match self.family {
            Family::Llama => {
                json["attention_bias"] = json!(self.qkv_bias);
                json["mlp_bias"] = json!(self.mlp_bias);
            }
            Family::Qwen3 => json["attention_bias"] = json!(self.qkv_bias),
            Family::Qwen2 => {}
        }
        json
    }

    /// Checks what [`Config::to_json`] could not express or the decoder could not run.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn validate(&self) -> Result<(), String> {
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
        for (name, value) in positive {
            if value == 0 || value > 1 << 28 {
                return Err(format!("`{name}` is {value}; it must be between 1 and 2^28"));
            }
        }
        if self.max_positions > 1 << 22 {
            return Err(format!(
                "`max_position_embeddings` is {}; up to 2^22 is supported",
                self.max_positions
            ));
        }
        let widths = [self.vocab_size, self.intermediate_size, self.heads.saturating_mul(self.head_dim)];
        let largest =
            widths.into_iter().map(|width| width as u128 * self.hidden_size as u128).max().unwrap_or(0);
        if self.layers > 10_000 || largest * self.layers as u128 > 1 << 41 {
            return Err("the sizes together describe more than 2^41 parameters; the file is damaged".into());
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "`num_attention_heads` ({}) is not a multiple of `num_key_value_heads` ({})",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim > 256 {
            return Err(format!("`head_dim` is {}; an even number up to 256 is supported", self.head_dim));
        }
        let family_shape = match self.family {
            Family::Llama => !self.qk_norm && self.qkv_bias == self.output_bias,
            Family::Qwen2 => !self.qk_norm && self.qkv_bias && !self.output_bias && !self.mlp_bias,
            Family::Qwen3 => self.qk_norm && self.qkv_bias == self.output_bias && !self.mlp_bias,
        };
        if !family_shape {
            let name = self.family.model_type();
            return Err(format!("the norms and biases asked for are not those of the family `{name}`"));
        }
        Ok(())
    }
}

/// Reads keys out of a `config.json` object; every error names its key.
struct Reader<'a> {
    object: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn config(&self) -> Result<Config, String> {
        let family = self.family()?;
        self.refuse_unsupported()?;
        let hidden_size = self.required("hidden_size")?;
        let heads = self.required("num_attention_heads")?;
        let bias = self.flag("attention_bias")?;
        let config = Config {
            family,
            vocab_size: self.required("vocab_size")?,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            layers: self.required("num_hidden_layers")?,
            heads,
            kv_heads: self.number("num_key_value_heads")?.unwrap_or(heads),
            head_dim: self.number("head_dim")?.unwrap_or(hidden_size / heads.max(1)),
            max_positions: self.number("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps: self.float("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta: self.rope_theta()? as f32,
            tie_embeddings: self.flag("tie_word_embeddings")?,
            qk_norm: family == Family::Qwen3,
            qkv_bias: bias || family == Family::Qwen2,
            output_bias: bias && family != Family::Qwen2,
            mlp_bias: self.flag("mlp_bias")?,
            bos_token_id: self.number("bos_token_id")?.map(|id| id as u32),
            eos_token_ids: self.ids("eos_token_id")?,
        };
        config.validate()?;
        Ok(config)
    }

    fn family(&self) -> Result<Family, String> {
        let supported = || Family::ALL.map(|entry| entry.1).join(", ");
        let name = self
            .object
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| format!("`model_type` is missing; supported: {}", supported()))?;
        let entry = Family::ALL.iter().find(|entry| entry.1 == name);
        entry
            .map(|entry| entry.0)
            .ok_or_else(|| format!("the architecture `{name}` is not supported; supported: {}", supported()))
    }

    fn refuse_unsupported(&self) -> Result<(), String> {
        if let Some(name) = self.object.get("hidden_act").and_then(Value::as_str)
            && name != "silu"
        {
            return Err(format!("`hidden_act` is `{name}`; only `silu` is supported"));
        }
        for key in ["rope_scaling", "quantization_config"] {
            if self.object.get(key).is_some_and(|value| !value.is_null()) {
                return Err(format!("`{key}` is set, and it is not supported yet"));
            }
        }
        let kinds = self.object.get("layer_types").and_then(Value::as_array).into_iter().flatten();
        if let Some(kind) = kinds.into_iter().find(|kind| **kind != json!("full_attention")) {
            return Err(format!("`layer_types` holds {kind}; only \"full_attention\" is supported yet"));
        }
        self.refuse_partial_rotary()?;
        if self.flag("use_sliding_window")? {
            return Err("`use_sliding_window` is true, and sliding windows are not supported yet".into());
        }
        Ok(())
    }

    fn refuse_partial_rotary(&self) -> Result<(), String> {
        match self.float("partial_rotary_factor")? {
            Some(factor) if factor != 1.0 => {
                Err(format!("`partial_rotary_factor` is {factor}; only 1 is supported yet"))
            }
            _ => Ok(()),
        }
    }

    /// transformers before version 5 wrote `rope_theta`; from 5 on it is inside `rope_parameters`.
    fn rope_theta(&self) -> Result<f64, String> {
        let Some(parameters) = self.object.get("rope_parameters").and_then(Value::as_object) else {
            return Ok(self.float("rope_theta")?.unwrap_or(10_000.0));
        };
        if let Some(kind) = parameters.get("rope_type").and_then(Value::as_str)
            && kind != "default"
        {
            return Err(format!("`rope_parameters.rope_type` is `{kind}`; only `default` is supported yet"));
        }
        let parameters = Reader { object: parameters };
        parameters.refuse_partial_rotary()?;
        Ok(parameters.float("rope_theta")?.unwrap_or(10_000.0))
    }

    fn required(&self, key: &str) -> Result<usize, String> {
        self.number(key)?.ok_or_else(|| format!("`{key}` is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<usize>, String> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) if number <= u32::MAX as u64 => Ok(Some(number as usize)),
                _ => Err(format!("`{key}` is {value}; a whole number is needed")),
            },
        }
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 => Ok(Some(number)),
                _ => Err(format!("`{key}` is {value}; a positive number is needed")),
            },
        }
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => {
                value.as_bool().ok_or_else(|| format!("`{key}` is {value}; true or false is needed"))
            }
        }
    }

    fn ids(&self, key: &str) -> Result<Vec<u32>, String> {
        match self.object.get(key) {
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
                .collect::<Option<Vec<u32>>>()
                .ok_or_else(|| format!("`{key}` holds something that is not a token id")),
            _ => Ok(self.number(key)?.map(|id| id as u32).into_iter().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: Value) -> Result<Config, String> {
        Reader { object: json.as_object().unwrap() }.config()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let mut config = Config::llama(1000, 64, 2, 4);
            config.family = family;
            config.qk_norm = family == Family::Qwen3;
            config.qkv_bias = family == Family::Qwen2;
            config.eos_token_ids = vec![1, 2];
            config.bos_token_id = Some(0);
            assert_eq!(read(config.to_json()).unwrap(), config, "{family:?}");
        }
    }

    #[test]
    fn refusals_name_the_key() {
        let good = Config::llama(1000, 64, 2, 4).to_json();
        let cases = [
            ("model_type", json!("mamba"), "`mamba` is not supported; supported: llama, qwen2, qwen3"),
            ("rope_scaling", json!({"type": "yarn"}), "`rope_scaling` is set"),
            ("rope_parameters", json!({"rope_type": "llama3"}), "`rope_parameters.rope_type` is `llama3`"),
            (
                "rope_parameters",
                json!({"partial_rotary_factor": 0.5}),
                "`partial_rotary_factor` is 0.5; only 1",
            ),
            ("partial_rotary_factor", json!(0.25), "`partial_rotary_factor` is 0.25"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "\"sliding_attention\""),
            ("use_sliding_window", json!(true), "`use_sliding_window` is true"),
            ("quantization_config", json!({"bits": 4}), "`quantization_config` is set"),
            ("hidden_size", json!("big"), "`hidden_size` is \"big\""),
            ("hidden_size", json!(0), "`hidden_size` is 0"),
            ("num_key_value_heads", json!(3), "not a multiple"),
            ("hidden_act", json!("gelu"), "`hidden_act` is `gelu`"),
            ("head_dim", json!(7), "`head_dim` is 7"),
            ("vocab_size", Value::Null, "`vocab_size` is missing"),
        ];
        for (key, value, expected) in cases {
            let mut json = good.clone();
            json[key] = value;
            let message = read(json).unwrap_err();
            assert!(message.contains(expected), "{key}: {message}");
        }
    }
}
