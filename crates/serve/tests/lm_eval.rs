//! The requests that lm-evaluation-harness's `local-completions` sends give the log-likelihoods that its `hf` backend
//! computes (`fixtures/make_lm_eval_fixture.py`).
#![allow(clippy::unwrap_used)]

mod client;

use chat::{Local, LocalOptions};
use client::Running;
use engine::{Device, Isa};
use serde_json::Value;
use serve::ServeOptions;
use std::path::Path;
use token::Tokenizer;

/// The folder that the fixture's script asked `hf` about.
fn folder() -> tempfile::TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        ("lm_eval", &["config.json", "model.safetensors"][..]),
        ("tokenizer", &["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]),
    ];
    for (part, names) in parts {
        for name in names {
            std::fs::copy(fixtures.join(part).join(name), folder.path().join(name)).unwrap();
        }
    }
    folder
}

fn requests() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/lm_eval/requests.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What the harness makes of one choice: the sum from a place on but for the token that was generated, and whether each
/// was the most probable one.
fn parse_logprobs(choice: &Value, from: usize) -> (f64, bool) {
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap();
    let (tokens, tops) = (list("token_logprobs"), list("top_logprobs"));
    let counted = from..tokens.len() - 1;
    let value = |value: &Value| value.as_f64().unwrap();
    let best = |top: &Value| top.as_object().unwrap().values().map(value).fold(f64::NEG_INFINITY, f64::max);
    let sum = tokens[counted.clone()].iter().map(value).sum();
    (sum, counted.into_iter().all(|index| value(&tokens[index]) == best(&tops[index])))
}

#[test]
fn the_harness_gets_the_log_likelihoods_of_its_hf_backend() {
    let folder = folder();
    let engine =
        engine::Options { max_sequences: 4, kv_type: engine::KvType::F32, ..engine::Options::default() };
    let options = LocalOptions { name: Some("tiny".into()), engine, ..LocalOptions::default() };
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let model = Local::load(folder.path(), device, options).unwrap();
    let server = Running::with_model(model, ServeOptions::default());
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let (mut ended, mut greedy, mut windows, mut largest) = (0, 0, 0, 0.0f64);
    for request in requests() {
        let (mut sum, mut is_greedy) = (0.0, true);
        for sent in request["sent"].as_array().unwrap() {
            let prompts = sent["body"]["prompt"].as_array().unwrap();
            let (status, answer) = server.post("/v1/completions", &sent["body"]);
            assert_eq!(status, 200, "{answer}");
            let mut choices = answer["choices"].as_array().unwrap().clone();
            choices.sort_by_key(|choice| choice["index"].as_u64());
            assert_eq!(choices.len(), prompts.len());
            for ((choice, prompt), from) in
                choices.iter().zip(prompts).zip(sent["sums_from"].as_array().unwrap())
            {
                let scored = choice["logprobs"]["token_logprobs"].as_array().unwrap().len();
                assert_eq!(scored, prompt.as_array().unwrap().len() + 1, "prompt and one token: {choice}");
                let (part, all) = parse_logprobs(choice, from.as_u64().unwrap() as usize);
                (sum, is_greedy) = (sum + part, is_greedy && all);
                ended += usize::from(choice["finish_reason"] == "stop");
                windows += 1;
            }
        }
        let expected = request["loglikelihood"].as_f64().unwrap();
        largest = largest.max((sum - expected).abs() / expected.abs().max(1.0));
        assert!((sum - expected).abs() < 1e-5 * expected.abs().max(1.0), "{sum} for {expected}: {request}");
        if let (Some(context), Some(continuation)) =
            (request["context"].as_str(), request["continuation"].as_str())
        {
            assert_eq!(request["is_greedy"], is_greedy, "{request}");
            greedy += usize::from(is_greedy);
            let prompt = request["sent"][0]["body"]["prompt"][0].as_array().unwrap();
            let ids: Vec<u64> = prompt.iter().map(|id| id.as_u64().unwrap()).collect();
            // The harness takes the context's ids, and those of both together from there on. Where there is no context,
            // the token that ends texts stands for it.
            let mut ours = tokenizer.encode(context);
            let both = tokenizer.encode(&format!("{context}{continuation}"));
            ours.extend_from_slice(&both[ours.len()..]);
            let ours: Vec<u64> = ours.into_iter().map(u64::from).collect();
            assert_eq!(ours, ids[usize::from(context.is_empty())..], "{request}");
        }
    }
    println!(
        "{windows} prompts, {greedy} greedy, {ended} followed by the end; largest relative difference {largest:.1e}"
    );
    assert!(windows > 30 && greedy > 2 && ended > 2, "{windows} prompts, {greedy} greedy, {ended} ended");
}
