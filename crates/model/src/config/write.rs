//! Choices into a `config.json` that transformers reads. What a family's keys cannot say is not written;
//! `Config::validate` finds that out by reading it back.

use super::read::ACTIVATIONS;
use super::{Config, Rope, RopeScaling};
use serde_json::{Value, json};
use tensor::{Activation, ExpertWeighting};

pub(super) fn to_json(config: &Config) -> Value {
    let row = config.family.row();
    let mut json = json!({
        "architectures": [row.architecture],
        "model_type": row.model_type,
        "vocab_size": config.vocab_size,
        "initializer_range": 0.02,
        "use_cache": true,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": match config.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        },
        "torch_dtype": "float32",
    });
    (row.write)(config, &mut json);
    json
}

pub(super) fn llama(config: &Config, json: &mut Value) {
    decoder(config, json);
    json["attention_bias"] = json!(config.qkv_bias);
    json["mlp_bias"] = json!(config.mlp_bias);
}

pub(super) fn mistral(config: &Config, json: &mut Value) {
    decoder(config, json);
    json["sliding_window"] = json!(config.sliding.as_ref().map(|sliding| sliding.tokens));
}

pub(super) fn mixtral(config: &Config, json: &mut Value) {
    mistral(config, json);
    if let Some(experts) = &config.experts {
        json["num_local_experts"] = json!(experts.count);
        json["num_experts_per_tok"] = json!(experts.top_k);
    }
}

pub(super) fn qwen2(config: &Config, json: &mut Value) {
    decoder(config, json);
    if let Some(sliding) = &config.sliding {
        json["use_sliding_window"] = json!(true);
        json["sliding_window"] = json!(sliding.tokens);
        layer_types(&sliding.layers, json);
    }
}

pub(super) fn qwen3(config: &Config, json: &mut Value) {
    qwen2(config, json);
    json["attention_bias"] = json!(config.qkv_bias);
}

pub(super) fn qwen3_moe(config: &Config, json: &mut Value) {
    decoder(config, json);
    json["attention_bias"] = json!(config.qkv_bias);
    if let Some(sliding) = &config.sliding {
        json["use_sliding_window"] = json!(true);
        json["sliding_window"] = json!(sliding.tokens);
    }
    if let Some(experts) = &config.experts {
        json["num_experts"] = json!(experts.count);
        json["num_experts_per_tok"] = json!(experts.top_k);
        json["moe_intermediate_size"] = json!(experts.intermediate_size);
        json["norm_topk_prob"] = json!(experts.weighting == ExpertWeighting::OfChosen);
        let plain = (0..config.layers).filter(|layer| !experts.layers.get(*layer).is_some_and(|has| *has));
        json["mlp_only_layers"] = plain.collect();
    }
}

pub(super) fn gemma(config: &Config, json: &mut Value) {
    decoder(config, json);
    json["hidden_activation"] = json["hidden_act"].clone();
    json["attention_bias"] = json!(config.qkv_bias);
}

pub(super) fn gemma2(config: &Config, json: &mut Value) {
    gemma(config, json);
    json["attn_logit_softcapping"] = json!(config.attention_soft_cap.map(f64::from));
    json["final_logit_softcapping"] = json!(config.logit_soft_cap.map(f64::from));
    if let Some(scale) = config.attention_scale {
        let scalar = f64::from(scale).powi(-2);
        // A whole number but for the rounding of the scale.
        let is_whole = (scalar - scalar.round()).abs() < 1e-5 * scalar;
        json["query_pre_attn_scalar"] = if is_whole { json!(scalar.round() as u64) } else { json!(scalar) };
    }
    let none = vec![false; config.layers];
    layer_types(config.sliding.as_ref().map_or(&none, |sliding| &sliding.layers), json);
    json["sliding_window"] = json!(config.sliding.as_ref().map(|sliding| sliding.tokens));
}

pub(super) fn gemma3(config: &Config, json: &mut Value) {
    gemma2(config, json);
    let global = json["rope_parameters"].take();
    let local = config.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref()).map(rope);
    json["rope_parameters"] = json!({"full_attention": global});
    if let Some(local) = local {
        json["rope_parameters"]["sliding_attention"] = local;
    }
    if let Some(object) = json.as_object_mut() {
        object.remove("rope_theta");
    }
}

pub(super) fn phi3(config: &Config, json: &mut Value) {
    mistral(config, json);
    if let RopeScaling::LongRope { original, .. } = &config.rope.scaling {
        json["original_max_position_embeddings"] = json!(original);
    }
    // Of the base class, and outside the vocabulary of a small model.
    json["pad_token_id"] = Value::Null;
}

pub(super) fn gpt2(config: &Config, json: &mut Value) {
    json["n_embd"] = json!(config.hidden_size);
    json["n_inner"] = json!(config.intermediate_size);
    json["n_layer"] = json!(config.layers);
    json["n_head"] = json!(config.heads);
    json["n_positions"] = json!(config.max_positions);
    json["layer_norm_epsilon"] = json!(f64::from(config.norm_eps));
    json["activation_function"] = match config.activation {
        Activation::GeluTanh => json!("gelu_new"),
        other => activation(other),
    };
}

pub(super) fn bert(config: &Config, json: &mut Value) {
    json["hidden_size"] = json!(config.hidden_size);
    json["intermediate_size"] = json!(config.intermediate_size);
    json["num_hidden_layers"] = json!(config.layers);
    json["num_attention_heads"] = json!(config.heads);
    json["max_position_embeddings"] = json!(config.max_positions);
    json["layer_norm_eps"] = json!(f64::from(config.norm_eps));
    json["hidden_act"] = activation(config.activation);
    json["type_vocab_size"] = json!(config.token_types);
    json["position_embedding_type"] = json!("absolute");
}

/// What decoders from Llama on have in common.
fn decoder(config: &Config, json: &mut Value) {
    json["hidden_size"] = json!(config.hidden_size);
    json["intermediate_size"] = json!(config.intermediate_size);
    json["num_hidden_layers"] = json!(config.layers);
    json["num_attention_heads"] = json!(config.heads);
    json["num_key_value_heads"] = json!(config.kv_heads);
    json["head_dim"] = json!(config.head_dim);
    json["rms_norm_eps"] = json!(f64::from(config.norm_eps));
    json["hidden_act"] = activation(config.activation);
    json["attention_dropout"] = json!(0.0);
    json["max_position_embeddings"] = json!(match config.rope.scaling {
        RopeScaling::Dynamic { original, .. } => original,
        _ => config.max_positions,
    });
    // For readers from before transformers 5, which know no `rope_parameters`.
    json["rope_theta"] = json!(config.rope.theta);
    json["rope_parameters"] = rope(&config.rope);
    if config.rope.scaling != RopeScaling::None {
        json["rope_scaling"] = json["rope_parameters"].clone();
    }
    if config.rope.fraction != 1.0 {
        json["partial_rotary_factor"] = json!(config.rope.fraction);
    }
}

fn activation(wanted: Activation) -> Value {
    let name = ACTIVATIONS.iter().find(|(_, activation)| *activation == wanted);
    json!(name.expect("every activation has a name").0)
}

fn layer_types(is_sliding: &[bool], json: &mut Value) {
    let name = |is_sliding: &bool| if *is_sliding { "sliding_attention" } else { "full_attention" };
    json["layer_types"] = is_sliding.iter().map(name).collect();
}

fn rope(rope: &Rope) -> Value {
    let mut json = match &rope.scaling {
        RopeScaling::None => json!({"rope_type": "default"}),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
        RopeScaling::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
        }),
        RopeScaling::LongRope { short, long, original, factor, .. } => json!({
            "rope_type": "longrope",
            "factor": factor,
            "short_factor": short,
            "long_factor": long,
            "original_max_position_embeddings": original,
        }),
    };
    let (factor, mscale, mscale_all_dim) = match &rope.scaling {
        RopeScaling::Yarn { attention_factor, mscale, mscale_all_dim, .. } => {
            (*attention_factor, *mscale, *mscale_all_dim)
        }
        RopeScaling::LongRope { attention_factor, .. } => (*attention_factor, None, None),
        _ => (None, None, None),
    };
    let optional = [("attention_factor", factor), ("mscale", mscale), ("mscale_all_dim", mscale_all_dim)];
    for (key, value) in optional.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        json[key] = json!(value);
    }
    json["rope_theta"] = json!(rope.theta);
    if rope.fraction != 1.0 {
        json["partial_rotary_factor"] = json!(rope.fraction);
    }
    json
}
