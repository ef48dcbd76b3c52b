//! A shape from the `config.json` of a Hugging Face folder, of whatever family: the keys that cost depends on, by the names
//! that families use. It must not refuse a family for what the decoder cannot compute: planning needs the shape alone.

use super::{Architecture, Experts, Latent, ModelError};
use serde_json::Value;

/// The shape that `text` describes; `place` is for messages.
///
/// # Errors
/// [`ModelError::Config`] when it is no JSON object or lacks a key.
pub fn from_config(text: &str, place: &str) -> Result<Architecture, ModelError> {
    let fault = |message: String| ModelError::Config { place: place.to_owned(), message };
    let json: Value = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
    let inner = if json["text_config"].is_object() { json["text_config"].clone() } else { json };
    let keys = Keys(&inner);
    let need =
        |names: &[&str]| keys.number(names).ok_or_else(|| fault(format!("it has no {}", names.join(" or "))));
    let hidden = need(&["hidden_size", "n_embd", "d_model"])?;
    let heads = need(&["num_attention_heads", "n_head", "n_heads"])?;
    let layers = need(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"])?;
    let latent = keys.number(&["kv_lora_rank"]).map(|kv_rank| Latent {
        query_rank: keys.number(&["q_lora_rank"]).unwrap_or(0.0),
        kv_rank,
        rope: keys.number(&["qk_rope_head_dim"]).unwrap_or(64.0),
        value: keys.number(&["v_head_dim"]).unwrap_or(128.0),
    });
    let head = match latent {
        Some(_) => keys.number(&["qk_nope_head_dim"]),
        None => keys.number(&["head_dim", "kv_channels"]),
    };
    let kind = inner["model_type"].as_str().unwrap_or("model");
    let is_ungated = ["gpt2", "gpt_neox", "bloom", "opt", "gptj", "phi", "falcon", "starcoder2", "nemotron"];
    let is_gated = !is_ungated.contains(&kind);
    let shape = Architecture {
        name: kind.to_owned(),
        source: place.to_owned(),
        layers,
        hidden,
        ffn: keys
            .number(&["intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"])
            .unwrap_or(4.0 * hidden),
        heads,
        kv_heads: keys.number(&["num_key_value_heads", "multi_query_group_num"]).unwrap_or(heads),
        head: head.unwrap_or(hidden / heads),
        vocabulary: need(&["vocab_size", "padded_vocab_size"])?,
        is_gated,
        is_tied: inner["tie_word_embeddings"].as_bool().unwrap_or(!is_gated),
        experts: experts(&keys, layers),
        latent,
    };
    Ok(shape)
}

fn experts(keys: &Keys, layers: f64) -> Option<Experts> {
    let count = keys.number(&["n_routed_experts", "num_local_experts", "num_experts"])?;
    let ffn = keys.number(&["moe_intermediate_size", "intermediate_size"])?;
    let shared_width = keys.number(&["shared_expert_intermediate_size"]).map(|width| width / ffn);
    let groups = keys.number(&["n_group"]).unwrap_or(1.0);
    Some(Experts {
        groups,
        chosen_groups: keys.number(&["topk_group"]).unwrap_or(groups),
        count,
        chosen: keys.number(&["num_experts_per_tok", "moe_topk", "moe_k"]).unwrap_or(2.0),
        shared: keys.number(&["n_shared_experts"]).or(shared_width).unwrap_or(0.0),
        ffn,
        dense_layers: keys.number(&["first_k_dense_replace"]).unwrap_or(0.0).min(layers),
    })
}

struct Keys<'a>(&'a Value);

impl Keys<'_> {
    /// The first of these keys that holds a number above zero.
    fn number(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| self.0[*name].as_f64()).filter(|number| *number > 0.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::known;
    use super::*;

    #[test]
    fn families_say_the_same_by_other_names() {
        let llama = r#"{"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
            "num_key_value_heads":8,"intermediate_size":14336,"vocab_size":128256,"tie_word_embeddings":false}"#;
        let shape = from_config(llama, "config.json").unwrap();
        assert_eq!(shape.parameters(), known("llama-3.1-8b").unwrap().parameters());
        let gpt2 = r#"{"model_type":"gpt2","n_embd":1600,"n_head":25,"n_layer":48,"vocab_size":50257}"#;
        assert!((from_config(gpt2, "c").unwrap().parameters() / 1.557e9 - 1.0).abs() < 0.01);
        let deepseek = r#"{"model_type":"deepseek_v3","hidden_size":7168,"num_attention_heads":128,
            "num_hidden_layers":61,"num_key_value_heads":128,"intermediate_size":18432,"vocab_size":129280,
            "q_lora_rank":1536,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,"v_head_dim":128,
            "n_routed_experts":256,"num_experts_per_tok":8,"n_shared_experts":1,"moe_intermediate_size":2048,
            "first_k_dense_replace":3,"n_group":8,"topk_group":4}"#;
        let shape = from_config(deepseek, "c").unwrap();
        assert_eq!(shape.parameters(), known("deepseek-v3").unwrap().parameters());
        assert_eq!(shape.experts, known("deepseek-v3").unwrap().experts);
        let message = from_config(r#"{"hidden_size":64}"#, "here/config.json").unwrap_err().to_string();
        assert!(message.contains("here/config.json") && message.contains("num_attention_heads"), "{message}");
    }
}
