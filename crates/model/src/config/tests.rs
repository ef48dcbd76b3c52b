//! Every family's keys: read, written, read again; refusals by key.
#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::json;

/// A small `config.json` of every family, with what is peculiar to it.
fn examples() -> Vec<Value> {
    let base = json!({
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": [1, 2], "bos_token_id": 0,
    });
    let with = |changes: Value| {
        let mut value = base.clone();
        let object = value.as_object_mut().unwrap();
        object.extend(changes.as_object().unwrap().clone());
        value
    };
    let longrope = json!({
        "type": "longrope", "short_factor": vec![1.5; 6], "long_factor": vec![4.0; 6],
    });
    vec![
        with(json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true})),
        with(json!({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}})),
        with(
            json!({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 5e5}),
        ),
        with(json!({"model_type": "llama", "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 5e5,
        }})),
        with(json!({"model_type": "mistral", "sliding_window": 32})),
        with(json!({"model_type": "mistral", "sliding_window": null, "head_dim": 24})),
        with(json!({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2})),
        with(json!({"model_type": "qwen2", "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
        }})),
        with(
            json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 3}),
        ),
        with(json!({"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": true})),
        with(
            json!({"model_type": "qwen3_moe", "num_experts": 6, "moe_intermediate_size": 40, "norm_topk_prob": true,
            "num_experts_per_tok": 3, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
        ),
        with(json!({"model_type": "gemma", "head_dim": 20, "hidden_act": "gelu"})),
        with(json!({"model_type": "gemma2", "query_pre_attn_scalar": 144, "sliding_window": 16})),
        with(
            json!({"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 8, "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ),
        with(json!({"model_type": "phi3", "partial_rotary_factor": 0.75, "rope_scaling": longrope,
            "original_max_position_embeddings": 64, "sliding_window": 100})),
        json!({"model_type": "gpt2", "vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "eos_token_id": 99}),
        json!({"model_type": "bert", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4}),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let mut families = std::collections::BTreeSet::new();
    for example in examples() {
        let config = Config::from_json(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
        families.insert(config.family.model_type());
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config, "{example}");
    }
    assert_eq!(families.len(), Family::all().count(), "every family has an example");
}

#[test]
fn keys_become_choices() {
    let examples = examples();
    let read = |model_type: &str, number: usize| {
        let example = examples.iter().filter(|example| example["model_type"] == model_type).nth(number);
        Config::from_json(example.unwrap()).unwrap()
    };
    assert_eq!(read("llama", 2).max_positions, 1024, "dynamic scaling lengthens the context");
    assert_eq!(read("qwen2", 0).max_positions, 1024, "YaRN lengthens the context");
    assert_eq!(read("qwen2", 1).sliding.unwrap().layers, [false, false, false, true]);
    assert_eq!(read("qwen3_moe", 0).experts.unwrap().layers, [false, true, false, false]);
    assert_eq!(read("gemma2", 0).attention_scale, Some(1.0 / 12.0));
    assert_eq!(read("gemma2", 0).sliding.unwrap().layers, [true, false, true, false]);
    let gemma3 = read("gemma3_text", 0);
    assert_eq!((gemma3.rope.theta, &gemma3.rope.scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
    let sliding = gemma3.sliding.unwrap();
    assert_eq!((sliding.layers, sliding.rope), (vec![true, true, false, true], Some(Rope::plain(10_000.0))));
    assert_eq!(read("phi3", 0).rope.rotated(16), 12);
    assert_eq!(read("mistral", 0).attention(2).mask, Mask::Window(32));
    assert_eq!(read("bert", 0).attention(0).mask, Mask::Whole);
}

#[test]
fn both_forms_of_rope_keys_say_the_same() {
    let old = json!({"rope_theta": 5e5, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "yarn", "factor": 4.0}});
    let new = json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "partial_rotary_factor": 0.5,
        "factor": 4.0, "original_max_position_embeddings": 64}});
    let read = |changes: &Value| {
        let mut value = examples()[0].clone();
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Config::from_json(&value).unwrap()
    };
    assert_eq!(read(&old), read(&new));
}

#[test]
fn refusals_name_the_key() {
    let good = Config::llama(1000, 64, 2, 4).to_json();
    let scaling = |kind: &str| json!({"rope_type": kind, "factor": 4.0});
    let cases = [
        (
            "model_type",
            json!("mamba"),
            "`mamba` is not supported; supported: llama, mistral, mixtral, qwen2, qwen3",
        ),
        ("rope_parameters", scaling("spiral"), "the rope scaling `spiral` is not supported"),
        ("rope_parameters", json!({"rope_type": "linear"}), "`factor` is missing"),
        ("rope_parameters", json!({"rope_type": "longrope"}), "`short_factor` is missing"),
        ("rope_parameters", json!({"rope_theta": 0}), "`rope_theta` is 0"),
        ("rope_parameters", json!({"partial_rotary_factor": 0.35}), "`partial_rotary_factor` is 0.35"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "`layer_types` names windows"),
        ("layer_types", json!(["full_attention", "recurrent"]), "`layer_types` holds \"recurrent\""),
        ("quantization_config", json!({"bits": 4}), "`quantization_config` is set"),
        ("hidden_size", json!("big"), "`hidden_size` is \"big\""),
        ("hidden_size", json!(0), "`hidden_size` is 0"),
        ("num_key_value_heads", json!(3), "not a multiple"),
        ("hidden_act", json!("relu2"), "`hidden_act` is \"relu2\""),
        ("head_dim", json!(7), "`head_dim` is 7"),
        ("vocab_size", Value::Null, "`vocab_size` is missing"),
    ];
    for (key, value, expected) in cases {
        let mut json = good.clone();
        if key == "rope_parameters" {
            json.as_object_mut().unwrap().remove("rope_theta");
        }
        json[key] = value;
        let message = Config::from_json(&json).unwrap_err();
        assert!(message.contains(expected), "{key}: {message}");
    }
    let mut config = Config::llama(1000, 64, 2, 4);
    config.qk_norm = true;
    assert!(config.validate().unwrap_err().contains("not those of the family `llama`"));
}
