//! GGUF metadata ↔ [`Config`] (keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, `gguf-py/gguf/constants.py`).
//!
//! Reading turns keys into those of a `config.json`, so that what a family's keys mean is known in one place. It must not
//! know how a tensor is stored.

use super::architecture::{Architecture, llama3_factors};
use crate::{Config, Family, Positions, RopeScaling};
use base::gguf::{File, FromValue, Value, Writer};
use serde_json::{Map, Value as Json, json};
use tensor::NormKind;

/// The configuration of a GGUF file. Errors are sentences that name a key.
pub(crate) fn read(file: &File) -> Result<Config, String> {
    let name: &str = file.require("general.architecture").map_err(plain)?;
    let architecture = Architecture::find(name)?;
    let reader = Reader { file, architecture: architecture.name };
    let family = reader.family(architecture)?;
    let mut json = reader.common(family)?;
    reader.rope(&mut json)?;
    reader.peculiar(family, &mut json)?;
    let mut config = Config::from_json(&Json::Object(json))?;
    config.bos_token_id = file.find("tokenizer.ggml.bos_token_id").map_err(plain)?;
    config.eos_token_ids = ends_of_answers(file)?;
    Ok(config)
}

/// Writes what [`read`] reads, but for the tokens, which belong to the tokenizer.
///
/// # Errors
/// A sentence that says what GGUF cannot hold.
pub(crate) fn write(config: &Config, writer: &mut Writer) -> Result<(), String> {
    let architecture = Architecture::of(config.family).name;
    writer.set("general.architecture", architecture);
    let mut set = |key: &str, value: Value<'_>| writer.set(&format!("{architecture}.{key}"), value);
    let mut count = |key: &str, number: usize| set(key, Value::U32(number as u32));
    count("block_count", config.layers);
    count("context_length", config.max_positions);
    count("embedding_length", config.hidden_size);
    count("feed_forward_length", config.intermediate_size);
    count("attention.head_count", config.heads);
    count("attention.head_count_kv", config.kv_heads);
    count("attention.key_length", config.head_dim);
    count("attention.value_length", config.head_dim);
    count("vocab_size", config.vocab_size);
    if let Some(experts) = &config.experts {
        if experts.layers.contains(&false) {
            return Err("only some layers have experts, which GGUF cannot say for this architecture".into());
        }
        count("expert_count", experts.count);
        count("expert_used_count", experts.top_k);
        count("expert_feed_forward_length", experts.intermediate_size);
    }
    if let Some(sliding) = &config.sliding {
        if matches!(config.family, Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe) {
            return Err("sliding windows of this family cannot be said in GGUF".into());
        }
        count("attention.sliding_window", sliding.tokens);
        // Gemma 3's usual pattern is not written: llama.cpp knows it.
        let pattern = sliding.layers.iter().position(|has| !has).map_or(config.layers + 1, |index| index + 1);
        if config.family == Family::Gemma3 && pattern != 6 {
            count("attention.sliding_window_pattern", pattern);
        }
    }
    match config.norm {
        NormKind::Rms => set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps)),
        NormKind::Layer => set("attention.layer_norm_epsilon", Value::F32(config.norm_eps)),
    }
    if !config.causal {
        set("attention.causal", Value::Bool(false));
    }
    if let Some(scale) = config.attention_scale {
        set("attention.scale", Value::F32(scale));
    }
    if let Some(cap) = config.attention_soft_cap {
        set("attn_logit_softcapping", Value::F32(cap));
    }
    if let Some(cap) = config.logit_soft_cap {
        set("final_logit_softcapping", Value::F32(cap));
    }
    if config.positions == Positions::Rotary {
        write_rope(config, &mut set)?;
    }
    Ok(())
}

/// Tensors that hold what GGUF has no key for: divisors of the rotary embedding's frequencies.
pub(crate) fn rotary_tensors(config: &Config) -> Vec<(&'static str, Vec<f32>)> {
    let narrowed = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect();
    match &config.rope.scaling {
        RopeScaling::Llama3 { factor, low, high, original } => {
            let rotated = config.rope.rotated(config.head_dim);
            let parts = [*factor, *low, *high, *original as f64];
            vec![("rope_freqs.weight", narrowed(&llama3_factors(rotated, config.rope.theta, parts)))]
        }
        RopeScaling::LongRope { short, long, .. } => {
            vec![("rope_factors_long.weight", narrowed(long)), ("rope_factors_short.weight", narrowed(short))]
        }
        _ => Vec::new(),
    }
}

/// Experts of a layer; 0 where there are none.
pub(crate) fn experts(config: &Config) -> usize {
    config.experts.as_ref().map_or(0, |experts| experts.count)
}

fn write_rope(config: &Config, set: &mut dyn FnMut(&str, Value<'_>)) -> Result<(), String> {
    let rope = &config.rope;
    set("rope.freq_base", Value::F32(rope.theta as f32));
    set("rope.dimension_count", Value::U32(rope.rotated(config.head_dim) as u32));
    if let Some(local) = config.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref()) {
        set("rope.freq_base_swa", Value::F32(local.theta as f32));
    }
    let mut scaling = |kind: &str, factor: f64, original: Option<usize>| {
        set("rope.scaling.type", Value::String(kind));
        set("rope.scaling.factor", Value::F32(factor as f32));
        if let Some(original) = original {
            set("rope.scaling.original_context_length", Value::U32(original as u32));
        }
    };
    match &rope.scaling {
        RopeScaling::None => {}
        // The divisors are a tensor; the context is kept so that they can be told apart from others.
        RopeScaling::Llama3 { original, .. } => {
            set("rope.scaling.original_context_length", Value::U32(*original as u32));
        }
        RopeScaling::Linear { factor } => scaling("linear", *factor, None),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => {
            scaling("yarn", *factor, Some(*original));
            set("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast as f32));
            set("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow as f32));
            if attention_factor.is_some() {
                return Err("an `attention_factor` beside `yarn` cannot be said in GGUF".into());
            }
        }
        RopeScaling::LongRope { original, factor, attention_factor, .. } => {
            scaling("longrope", *factor, Some(*original));
            let usual = (1.0 + factor.max(1.0).ln() / (*original as f64).ln()).sqrt();
            set("rope.scaling.attn_factor", Value::F32(attention_factor.unwrap_or(usual) as f32));
        }
        RopeScaling::Dynamic { .. } => return Err("the rope scaling `dynamic` cannot be said in GGUF".into()),
    }
    Ok(())
}

/// Ids of the tokens that the keys say end an answer, ascending; the tokenizer knows more, by their texts.
fn ends_of_answers(file: &File) -> Result<Vec<u32>, String> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(file.find::<u32>(&format!("tokenizer.ggml.{key}")).map_err(plain)?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Reads the keys of one architecture.
struct Reader<'a> {
    file: &'a File,
    architecture: &'static str,
}

impl<'a> Reader<'a> {
    /// The family; llama.cpp calls Mistral and Mixtral Llamas.
    fn family(&self, architecture: &Architecture) -> Result<Family, String> {
        let is = |key| Ok::<bool, String>(self.find::<u64>(key)?.is_some_and(|number| number > 0));
        match architecture.family {
            Family::Llama if is("expert_count")? => Ok(Family::Mixtral),
            Family::Llama if is("attention.sliding_window")? => Ok(Family::Mistral),
            family => Ok(family),
        }
    }

    /// Keys that mean the same in every family.
    fn common(&self, family: Family) -> Result<Map<String, Json>, String> {
        let hidden_size: usize = self.require("embedding_length")?;
        let heads =
            self.each_layer("attention.head_count")?.ok_or_else(|| self.missing("attention.head_count"))?;
        let head_dim = self.find("attention.key_length")?.unwrap_or(hidden_size / heads.max(1));
        if let Some(other) = self.find::<usize>("attention.value_length")?.filter(|other| *other != head_dim)
        {
            let key = self.key("attention.value_length");
            return Err(format!("`{key}` is {other}, the keys' width {head_dim}; it must be the same"));
        }
        let eps = match self.find::<f32>("attention.layer_norm_rms_epsilon")? {
            Some(eps) => eps,
            None => self.require("attention.layer_norm_epsilon")?,
        };
        let has = |tensor: &str| self.file.tensor(tensor).is_some();
        let ffn = self.each_layer("feed_forward_length")?;
        let json = json!({
            "model_type": family.model_type(),
            "vocab_size": self.rows("token_embd.weight")?,
            "hidden_size": hidden_size,
            "intermediate_size": ffn.map_or_else(|| self.require("expert_feed_forward_length"), Ok)?,
            "num_hidden_layers": self.require::<usize>("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.each_layer("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": self.require::<usize>("context_length")?,
            "rms_norm_eps": eps,
            "tie_word_embeddings": !has("output.weight"),
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_up.bias"),
        });
        match json {
            Json::Object(json) => Ok(json),
            _ => unreachable!("an object was made"),
        }
    }

    /// The rotary embedding.
    fn rope(&self, json: &mut Map<String, Json>) -> Result<(), String> {
        let head_dim = json.get("head_dim").and_then(Json::as_u64).unwrap_or(0) as usize;
        let rotated = self.find::<usize>("rope.dimension_count")?.unwrap_or(head_dim);
        if rotated != head_dim {
            json.insert("partial_rotary_factor".into(), json!(rotated as f64 / head_dim as f64));
        }
        let theta = self.find::<f32>("rope.freq_base")?.unwrap_or(10_000.0);
        json.insert("rope_theta".into(), json!(theta));
        let context = json.get("max_position_embeddings").and_then(Json::as_u64).unwrap_or(0);
        let original = self.find::<u64>("rope.scaling.original_context_length")?;
        let factor = match self.find::<f32>("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.find("rope.scale_linear")?,
        };
        let kind = self.find::<&str>("rope.scaling.type")?;
        if let Some(factors) = self.elements("rope_freqs.weight")? {
            let scaling = self.own_factors(&factors, f64::from(theta), original.unwrap_or(8192), context);
            json.insert("rope_scaling".into(), scaling);
            return Ok(());
        }
        let scaling = match (kind, self.elements("rope_factors_long.weight")?) {
            (_, Some(long)) => json!({
                "rope_type": "longrope",
                "long_factor": long,
                "short_factor": self.elements("rope_factors_short.weight")?.unwrap_or_else(|| long.clone()),
                "original_max_position_embeddings": original.unwrap_or(context),
                "attention_factor": self.find::<f32>("rope.scaling.attn_factor")?,
            }),
            (None | Some("linear"), None) => match factor.filter(|factor| *factor != 1.0 && *factor != 0.0) {
                Some(factor) => json!({"rope_type": "linear", "factor": factor}),
                None => return Ok(()),
            },
            (Some("none"), None) => return Ok(()),
            (Some("yarn"), None) => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original.unwrap_or(context),
                "beta_fast": self.find::<f32>("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                "beta_slow": self.find::<f32>("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }),
            (Some(kind), None) => {
                let key = self.key("rope.scaling.type");
                return Err(format!("`{key}` is `{kind}`; supported: none, linear, yarn, longrope"));
            }
        };
        json.insert("rope_scaling".into(), scaling);
        Ok(())
    }

    /// Divisors of the frequencies: Llama 3's rule where it gives these, else as they are.
    fn own_factors(&self, factors: &[f32], theta: f64, original: u64, context: u64) -> Json {
        let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
        let rule = llama3_factors(2 * factors.len(), theta, [factor, 1.0, 4.0, original as f64]);
        let is_rule =
            rule.iter().zip(factors).all(|(rule, found)| (rule / f64::from(*found) - 1.0).abs() < 1e-4);
        match is_rule {
            true => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }),
            false => json!({
                "rope_type": "longrope",
                "long_factor": factors,
                "short_factor": factors,
                "original_max_position_embeddings": context,
                "attention_factor": 1.0,
            }),
        }
    }

    /// What only some families have.
    fn peculiar(&self, family: Family, json: &mut Map<String, Json>) -> Result<(), String> {
        let mut set = |key: &str, value: Json| json.insert(key.to_owned(), value);
        let window = self.find::<u64>("attention.sliding_window")?.filter(|window| *window > 0);
        set("sliding_window", json!(window));
        match family {
            Family::Mixtral | Family::Qwen3Moe => {
                let count: usize = self.require("expert_count")?;
                set("num_experts", json!(count));
                set("num_local_experts", json!(count));
                set("num_experts_per_tok", json!(self.require::<usize>("expert_used_count")?));
                set("moe_intermediate_size", json!(self.find::<usize>("expert_feed_forward_length")?));
                set("norm_topk_prob", json!(true));
                set("use_sliding_window", json!(window.is_some()));
            }
            Family::Gemma2 | Family::Gemma3 => self.gemma(family, json)?,
            Family::Gpt2 => {
                for (own, usual) in [
                    ("n_embd", "hidden_size"),
                    ("n_head", "num_attention_heads"),
                    ("n_layer", "num_hidden_layers"),
                    ("n_inner", "intermediate_size"),
                    ("n_positions", "max_position_embeddings"),
                    ("layer_norm_epsilon", "rms_norm_eps"),
                ] {
                    let value = json.get(usual).cloned().unwrap_or_default();
                    json.insert(own.to_owned(), value);
                }
            }
            Family::Bert => {
                set("type_vocab_size", json!(self.rows("token_types.weight")?));
                let eps = json.get("rms_norm_eps").cloned().unwrap_or_default();
                json.insert("layer_norm_eps".into(), eps);
            }
            _ => {}
        }
        Ok(())
    }

    /// Gemma 2 and 3: soft caps, windows, and the scale of scores, which llama.cpp knows by the number of layers: the 27B
    /// models divide by the width for each head, all others by the heads' own width.
    fn gemma(&self, family: Family, json: &mut Map<String, Json>) -> Result<(), String> {
        let number = |key: &str| json.get(key).and_then(Json::as_f64).unwrap_or(0.0);
        let is_27b = number("num_hidden_layers") == if family == Family::Gemma2 { 46.0 } else { 62.0 };
        let scalar = match is_27b {
            true => number("hidden_size") / number("num_attention_heads").max(1.0),
            false => number("head_dim"),
        };
        let mut set = |key: &str, value: Json| json.insert(key.to_owned(), value);
        let own = self.find::<f32>("attention.scale")?.map(|scale| f64::from(scale).powi(-2));
        set("query_pre_attn_scalar", json!(own.unwrap_or(scalar)));
        let caps = family == Family::Gemma2;
        let cap = |found: Option<f32>, usual: f32| found.or(caps.then_some(usual));
        set("attn_logit_softcapping", json!(cap(self.find("attn_logit_softcapping")?, 50.0)));
        set("final_logit_softcapping", json!(cap(self.find("final_logit_softcapping")?, 30.0)));
        let local = self.find::<f32>("rope.freq_base_swa")?.unwrap_or(10_000.0);
        set("rope_local_base_freq", json!(local));
        if let Some(pattern) = self.find::<u64>("attention.sliding_window_pattern")? {
            set("sliding_window_pattern", json!(pattern));
        }
        Ok(())
    }

    /// A number that may be stored once for all layers or once for each; it must be the same in all.
    fn each_layer(&self, key: &str) -> Result<Option<usize>, String> {
        if !matches!(self.file.get(&self.key(key)), Some(Value::Array(_))) {
            return self.find(key);
        }
        let numbers: Vec<usize> = self.require(key)?;
        match numbers.first() {
            Some(first) if numbers.iter().all(|number| number == first) => Ok(Some(*first)),
            _ => Err(format!("`{}` differs from layer to layer, which is not supported", self.key(key))),
        }
    }

    /// The rows of a table.
    fn rows(&self, name: &str) -> Result<usize, String> {
        let table = self.file.tensor(name).ok_or_else(|| format!("the tensor `{name}` is missing"))?;
        Ok(table.dimensions.get(1).copied().unwrap_or(1))
    }

    /// The elements of a small f32 vector, if it is there.
    fn elements(&self, name: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        let bytes = self.file.bytes(tensor);
        let count: usize = tensor.dimensions.iter().product();
        let bytes = bytes.get(..4 * count).filter(|_| tensor.type_number == 0 && count <= 4096);
        let bytes =
            bytes.ok_or_else(|| format!("the tensor `{name}` is not a vector of f32 with its elements"))?;
        Ok(Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn missing(&self, key: &str) -> String {
        format!("the metadata key `{}` is missing", self.key(key))
    }

    fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, String> {
        self.file.require(&self.key(key)).map_err(plain)
    }

    fn find<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, String> {
        self.file.find(&self.key(key)).map_err(plain)
    }
}

/// The sentence of an error without the file's name, which the caller adds.
fn plain(error: base::Error) -> String {
    match error {
        base::Error::Gguf { reason, .. } => reason,
        error => error.to_string(),
    }
}
