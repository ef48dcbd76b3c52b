//! Keys of a `config.json` into choices; every error names its key. Defaults are those of transformers, whose files leave
//! out what is at its default.

use super::{Config, ExpertLayers, Family, NormPlace, Positions, Rope, RopeScaling, Sliding};
use serde_json::{Map, Value, json};
use tensor::{Activation, ExpertWeighting, NormKind};

/// Reads keys out of a `config.json` object.
pub(super) struct Reader<'a> {
    pub object: &'a Map<String, Value>,
}

/// Names of activations in files.
pub(super) const ACTIVATIONS: [(&str, Activation); 5] = [
    ("silu", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu", Activation::GeluErf),
    ("swish", Activation::Silu),
];

pub(super) fn llama(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.qkv_bias = reader.flag("attention_bias")?;
    config.output_bias = config.qkv_bias;
    config.mlp_bias = reader.flag("mlp_bias")?;
    Ok(config)
}

pub(super) fn mistral(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    // transformers' own default; newer files say null.
    config.sliding = match reader.object.contains_key("sliding_window") {
        true => reader.window_everywhere(&config)?,
        false => Some(everywhere(4096, &config)),
    };
    Ok(config)
}

pub(super) fn mixtral(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(1e6)?;
    config.sliding = reader.window_everywhere(&config)?;
    config.experts = Some(ExpertLayers {
        count: reader.number("num_local_experts")?.or(reader.number("num_experts")?).unwrap_or(8),
        top_k: reader.number("num_experts_per_tok")?.unwrap_or(2),
        intermediate_size: config.intermediate_size,
        weighting: ExpertWeighting::OfChosen,
        layers: vec![true; config.layers],
    });
    Ok(config)
}

pub(super) fn qwen2(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.qkv_bias = true;
    config.sliding = reader.upper_windows(&config)?;
    Ok(config)
}

pub(super) fn qwen3(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.head_dim = reader.number("head_dim")?.unwrap_or(128);
    config.qk_norm = true;
    config.qkv_bias = reader.flag("attention_bias")?;
    config.output_bias = config.qkv_bias;
    config.sliding = reader.upper_windows(&config)?;
    Ok(config)
}

pub(super) fn qwen3_moe(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.qk_norm = true;
    config.qkv_bias = reader.flag("attention_bias")?;
    config.output_bias = config.qkv_bias;
    if reader.flag("use_sliding_window")? {
        config.sliding = reader.window_everywhere(&config)?;
    }
    let step = reader.number("decoder_sparse_step")?.unwrap_or(1).max(1);
    let plain = reader.numbers("mlp_only_layers")?;
    let has_experts = |layer: usize| !plain.contains(&layer) && (layer + 1).is_multiple_of(step);
    config.experts = Some(ExpertLayers {
        count: reader.number("num_experts")?.or(reader.number("num_local_experts")?).unwrap_or(128),
        top_k: reader.number("num_experts_per_tok")?.unwrap_or(8),
        intermediate_size: reader.number("moe_intermediate_size")?.unwrap_or(768),
        weighting: match reader.flag("norm_topk_prob")? {
            true => ExpertWeighting::OfChosen,
            false => ExpertWeighting::OfAll,
        },
        layers: (0..config.layers).map(has_experts).collect(),
    });
    Ok(config)
}

pub(super) fn gemma(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.head_dim = reader.number("head_dim")?.unwrap_or(256);
    config.tie_embeddings = reader.flag_or("tie_word_embeddings", true)?;
    config.embedding_scale = Some((config.hidden_size as f32).sqrt());
    // Old files say `gelu` in `hidden_act` and mean the tanh form, which newer ones name in `hidden_activation`.
    config.activation = match reader.object.get("hidden_activation").unwrap_or(&Value::Null) {
        Value::Null => Activation::GeluTanh,
        _ => reader.activation("hidden_activation")?,
    };
    config.qkv_bias = reader.flag("attention_bias")?;
    config.output_bias = config.qkv_bias;
    if reader.flag("use_bidirectional_attention")? {
        return Err("`use_bidirectional_attention` is true; only causal attention is supported".into());
    }
    Ok(config)
}

pub(super) fn gemma2(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = gemma(reader)?;
    config.norm_place = NormPlace::BeforeAndAfter;
    config.attention_scale = Some(reader.query_scale()?);
    config.attention_soft_cap = reader.cap("attn_logit_softcapping", Some(50.0))?;
    config.logit_soft_cap = reader.cap("final_logit_softcapping", Some(30.0))?;
    config.sliding = reader.windows_every(&config, 2, None)?;
    Ok(config)
}

pub(super) fn gemma3(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = gemma(reader)?;
    config.norm_place = NormPlace::BeforeAndAfter;
    config.qk_norm = true;
    config.attention_scale = Some(reader.query_scale()?);
    config.attention_soft_cap = reader.cap("attn_logit_softcapping", None)?;
    config.logit_soft_cap = reader.cap("final_logit_softcapping", None)?;
    let pattern = reader.number("sliding_window_pattern")?.unwrap_or(6);
    let (local, global) = match reader.object.get("rope_parameters").and_then(Value::as_object) {
        Some(parameters) => {
            let mut of = |kind: &str, theta: f64| match parameters.get(kind).and_then(Value::as_object) {
                Some(object) => Reader { object }.rope_of(&mut config, theta),
                None => Ok(Rope::plain(theta)),
            };
            (of("sliding_attention", 10_000.0)?, of("full_attention", 1e6)?)
        }
        None => {
            let theta = reader.float("rope_local_base_freq")?.unwrap_or(10_000.0);
            (Rope::plain(theta), reader.rope(&mut config, 1e6)?)
        }
    };
    config.rope = global;
    config.sliding = reader.windows_every(&config, pattern, Some(local))?;
    Ok(config)
}

pub(super) fn phi3(reader: &Reader<'_>) -> Result<Config, String> {
    let mut config = reader.decoder(10_000.0)?;
    config.sliding = reader.window_everywhere(&config)?;
    Ok(config)
}

pub(super) fn gpt2(reader: &Reader<'_>) -> Result<Config, String> {
    for (key, wanted) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)] {
        if reader.flag_or(key, wanted)? != wanted {
            return Err(format!("`{key}` is {}; only {wanted} is supported", !wanted));
        }
    }
    let (hidden_size, heads) = (reader.required("n_embd")?, reader.required("n_head")?);
    Ok(Config {
        family: Family::Gpt2,
        intermediate_size: reader.number("n_inner")?.unwrap_or(4 * hidden_size),
        max_positions: reader.number("n_positions")?.unwrap_or(1024),
        norm: NormKind::Layer,
        norm_eps: reader.float("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        positions: Positions::Learned,
        tie_embeddings: reader.flag_or("tie_word_embeddings", true)?,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        activation: reader.activation_or("activation_function", Activation::GeluTanh)?,
        gated: false,
        bos_token_id: reader.number("bos_token_id")?.map(|id| id as u32),
        eos_token_ids: reader.ids("eos_token_id")?,
        ..Config::llama(reader.required("vocab_size")?, hidden_size, reader.required("n_layer")?, heads)
    })
}

pub(super) fn bert(reader: &Reader<'_>) -> Result<Config, String> {
    if let Some(kind) = reader.object.get("position_embedding_type").and_then(Value::as_str)
        && kind != "absolute"
    {
        return Err(format!("`position_embedding_type` is `{kind}`; only `absolute` is supported"));
    }
    if reader.flag("is_decoder")? {
        return Err("`is_decoder` is true; only encoders of this family are supported".into());
    }
    let (hidden_size, heads) = (reader.required("hidden_size")?, reader.required("num_attention_heads")?);
    let layers = reader.required("num_hidden_layers")?;
    Ok(Config {
        family: Family::Bert,
        intermediate_size: reader.required("intermediate_size")?,
        max_positions: reader.number("max_position_embeddings")?.unwrap_or(512),
        norm: NormKind::Layer,
        norm_place: NormPlace::AfterSum,
        norm_eps: reader.float("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        positions: Positions::Learned,
        causal: false,
        token_types: reader.number("type_vocab_size")?.unwrap_or(2),
        tie_embeddings: true,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        activation: reader.activation_or("hidden_act", Activation::GeluErf)?,
        gated: false,
        ..Config::llama(reader.required("vocab_size")?, hidden_size, layers, heads)
    })
}

fn everywhere(tokens: usize, config: &Config) -> Sliding {
    Sliding { tokens, layers: vec![true; config.layers], rope: None }
}

impl Reader<'_> {
    pub(super) fn config(&self) -> Result<Config, String> {
        let name = self.object.get("model_type").and_then(Value::as_str);
        let name = name.ok_or_else(|| format!("`model_type` is missing; supported: {}", Family::names()))?;
        let family = Family::from_model_type(name)?;
        if self.object.get("quantization_config").is_some_and(|value| !value.is_null()) {
            return Err("`quantization_config` is set, and it is not supported yet".into());
        }
        let mut config = (family.row().read)(self)?;
        config.family = family;
        let sliding = config.sliding.as_ref();
        for (layer, kind) in self.layer_types(&config)?.into_iter().flatten().enumerate() {
            if kind != sliding.is_some_and(|sliding| sliding.layers[layer]) {
                return Err(format!(
                    "`layer_types` names windows that models of the type `{name}` do not have"
                ));
            }
        }
        Ok(config)
    }

    /// What decoders from Llama on have in common.
    fn decoder(&self, theta: f64) -> Result<Config, String> {
        let hidden_size = self.required("hidden_size")?;
        let (layers, heads) = (self.required("num_hidden_layers")?, self.required("num_attention_heads")?);
        let mut config = Config {
            intermediate_size: self.required("intermediate_size")?,
            kv_heads: self.number("num_key_value_heads")?.unwrap_or(heads),
            head_dim: self.number("head_dim")?.unwrap_or(hidden_size / heads.max(1)),
            max_positions: self.number("max_position_embeddings")?.unwrap_or(2048),
            norm_eps: self.float("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tie_embeddings: self.flag("tie_word_embeddings")?,
            activation: self.activation_or("hidden_act", Activation::Silu)?,
            bos_token_id: self.number("bos_token_id")?.map(|id| id as u32),
            eos_token_ids: self.ids("eos_token_id")?,
            ..Config::llama(self.required("vocab_size")?, hidden_size, layers, heads)
        };
        if layers > 10_000 {
            return Err(format!("`num_hidden_layers` is {layers}; up to 10000 are supported"));
        }
        config.rope = self.rope(&mut config, theta)?;
        Ok(config)
    }

    /// The rotary embedding: from transformers 5 on in `rope_parameters`, before in keys of their own. It may lengthen the
    /// context.
    fn rope(&self, config: &mut Config, default_theta: f64) -> Result<Rope, String> {
        let object = |key: &str| self.object.get(key).and_then(Value::as_object);
        if let Some(parameters) = object("rope_parameters") {
            // Several, by the kind of layer: their family reads them.
            if parameters.values().any(Value::is_object) {
                return Ok(Rope::plain(default_theta));
            }
            let mut parameters = parameters.clone();
            self.inherit(&mut parameters, &["partial_rotary_factor", "rope_theta"]);
            return Reader { object: &parameters }.rope_of(config, default_theta);
        }
        let mut parameters = object("rope_scaling").cloned().unwrap_or_default();
        self.inherit(&mut parameters, &["partial_rotary_factor", "rope_theta"]);
        if !parameters.is_empty() {
            self.inherit(&mut parameters, &["original_max_position_embeddings"]);
        }
        Reader { object: &parameters }.rope_of(config, default_theta)
    }

    /// Copies keys that `parameters` lacks.
    fn inherit(&self, parameters: &mut Map<String, Value>, keys: &[&str]) {
        for key in keys {
            if let (false, Some(value)) = (parameters.contains_key(*key), self.object.get(*key)) {
                parameters.insert((*key).to_owned(), value.clone());
            }
        }
    }

    /// The rotary embedding that this object of parameters describes.
    fn rope_of(&self, config: &mut Config, default_theta: f64) -> Result<Rope, String> {
        let text = |key: &str| self.object.get(key).and_then(Value::as_str);
        let kind = text("rope_type").or(text("type")).unwrap_or("default");
        let factor =
            || self.float("factor")?.ok_or_else(|| "the rope scaling's `factor` is missing".to_owned());
        let context = config.max_positions;
        let original = self.number("original_max_position_embeddings")?.unwrap_or(context);
        let lengthened = |factor: f64| context.max((original as f64 * factor).min(1e8) as usize);
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => {
                // transformers counts from the configuration's context, whatever else is said.
                let factor = factor()?;
                config.max_positions = (context as f64 * factor).min(1e8) as usize;
                RopeScaling::Dynamic { factor, original: context }
            }
            "llama3" => RopeScaling::Llama3 {
                factor: factor()?,
                low: self.float("low_freq_factor")?.unwrap_or(1.0),
                high: self.float("high_freq_factor")?.unwrap_or(4.0),
                original,
            },
            "yarn" => {
                let factor = self.float("factor")?.unwrap_or(context as f64 / original.max(1) as f64);
                config.max_positions = lengthened(factor);
                RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: self.float("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.float("beta_slow")?.unwrap_or(1.0),
                    attention_factor: self.float("attention_factor")?,
                    mscale: self.float("mscale")?,
                    mscale_all_dim: self.float("mscale_all_dim")?,
                    truncate: self.flag_or("truncate", true)?,
                }
            }
            "longrope" | "su" => RopeScaling::LongRope {
                short: self.floats("short_factor")?,
                long: self.floats("long_factor")?,
                original,
                factor: self.float("factor")?.unwrap_or(context as f64 / original.max(1) as f64),
                attention_factor: self.float("attention_factor")?,
            },
            other => {
                return Err(format!(
                    "the rope scaling `{other}` is not supported; supported: default, linear, dynamic, yarn, llama3, \
                     longrope"
                ));
            }
        };
        Ok(Rope {
            theta: self.float("rope_theta")?.unwrap_or(default_theta),
            fraction: self.float("partial_rotary_factor")?.unwrap_or(1.0),
            scaling,
        })
    }

    /// `sliding_window` in every layer, if it is set.
    fn window_everywhere(&self, config: &Config) -> Result<Option<Sliding>, String> {
        Ok(self.number("sliding_window")?.map(|tokens| everywhere(tokens, config)))
    }

    /// Windows of the layers that `layer_types` names, or of those from `max_window_layers` on.
    fn upper_windows(&self, config: &Config) -> Result<Option<Sliding>, String> {
        if !self.flag("use_sliding_window")? {
            return Ok(None);
        }
        let Some(tokens) = self.number("sliding_window")?.or(match self.object.get("sliding_window") {
            None => Some(4096),
            Some(_) => None,
        }) else {
            return Ok(None);
        };
        let first = self.number("max_window_layers")?.unwrap_or(28);
        let layers = self
            .layer_types(config)?
            .unwrap_or_else(|| (0..config.layers).map(|layer| layer >= first).collect());
        Ok(layers.contains(&true).then_some(Sliding { tokens, layers, rope: None }))
    }

    /// Windows of the layers that `layer_types` names, or of all but each `pattern`-th.
    fn windows_every(
        &self,
        config: &Config,
        pattern: usize,
        rope: Option<Rope>,
    ) -> Result<Option<Sliding>, String> {
        let tokens = self.number("sliding_window")?.unwrap_or(4096);
        let usual = || (1..=config.layers).map(|layer| !layer.is_multiple_of(pattern.max(1))).collect();
        let layers: Vec<bool> = self.layer_types(config)?.unwrap_or_else(usual);
        Ok(layers.contains(&true).then_some(Sliding { tokens, layers, rope }))
    }

    /// For each layer whether `layer_types` gives it a window.
    fn layer_types(&self, config: &Config) -> Result<Option<Vec<bool>>, String> {
        let Some(kinds) = self.object.get("layer_types").and_then(Value::as_array) else { return Ok(None) };
        if kinds.len() < config.layers {
            return Err(format!("`layer_types` names {} layers of {}", kinds.len(), config.layers));
        }
        let is_sliding = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(format!(
                "`layer_types` holds {kind}; only \"full_attention\" and \"sliding_attention\" are supported"
            )),
        };
        kinds[..config.layers].iter().map(is_sliding).collect::<Result<_, _>>().map(Some)
    }

    /// 1 / sqrt(query_pre_attn_scalar).
    fn query_scale(&self) -> Result<f32, String> {
        let scalar = self.float("query_pre_attn_scalar")?.unwrap_or(256.0);
        Ok((1.0 / scalar.sqrt()) as f32)
    }

    fn cap(&self, key: &str, default: Option<f32>) -> Result<Option<f32>, String> {
        match self.object.contains_key(key) {
            true => Ok(self.float(key)?.map(|cap| cap as f32)),
            false => Ok(default),
        }
    }

    fn activation(&self, key: &str) -> Result<Activation, String> {
        let name = self.object.get(key).unwrap_or(&Value::Null);
        let known = ACTIVATIONS.iter().find(|(known, _)| *name == json!(known));
        known.map(|(_, activation)| *activation).ok_or_else(|| {
            let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            format!("`{key}` is {name}; supported: {}", names.join(", "))
        })
    }

    fn activation_or(&self, key: &str, default: Activation) -> Result<Activation, String> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.activation(key),
        }
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
        self.flag_or(key, false)
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| format!("`{key}` is {value}; true or false is needed"))
            }
        }
    }

    fn numbers(&self, key: &str) -> Result<Vec<usize>, String> {
        let values = self.object.get(key).and_then(Value::as_array).into_iter().flatten();
        values
            .map(|value| value.as_u64().map(|number| number as usize))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{key}` holds something that is not a whole number"))
    }

    fn floats(&self, key: &str) -> Result<Vec<f64>, String> {
        let values = self.object.get(key).and_then(Value::as_array);
        let values = values.ok_or_else(|| format!("`{key}` is missing; a list of numbers is needed"))?;
        values
            .iter()
            .map(Value::as_f64)
            .collect::<Option<_>>()
            .ok_or_else(|| format!("`{key}` holds something that is not a number"))
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
