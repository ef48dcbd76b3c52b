//! `taoye plan` as a person and a script use it: published runs from the command line, JSON, pages, and bad input.
//!
//! It must not know a formula.

use serde_json::Value;

use crate::harness::{Folder, run, succeed, taoye};

/// The last line of a command's standard output as JSON.
fn json(arguments: &[&str]) -> Value {
    let finished = succeed(&mut taoye(arguments.iter().copied().chain(["--json"])));
    let line = finished.out.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn gpt_3_takes_thirty_four_days() {
    let plan = json(&[
        "plan",
        "train",
        "--model",
        "gpt-3",
        "--tokens",
        "300B",
        "--chip",
        "a100-sxm-80g",
        "--chips",
        "1024",
        "--tflops-per-chip",
        "140",
    ]);
    assert!((number(&plan, "days") / 34.0 - 1.0).abs() < 0.05, "{plan}");
    assert!((number(&plan, "tflops_per_chip") - 140.0).abs() < 1e-6);
    for key in [
        "flops_total",
        "chips",
        "days",
        "chip_hours",
        "tflops_per_chip",
        "mfu",
        "hfu",
        "step_seconds",
        "memory_bytes_per_chip",
        "goodput",
    ] {
        assert!(number(&plan, key) > 0.0, "{key}");
    }
    assert!(plan["assumptions"].as_array().unwrap().iter().all(|one| one["assumed"].is_string()));
    assert!((number(&plan, "chip_hours") / (number(&plan, "days") * 24.0 * 1024.0) - 1.0).abs() < 1e-9);
}

#[test]
fn any_three_and_a_configuration_file() {
    let folder = Folder::new();
    let config = r#"{"model_type":"llama","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,
        "num_key_value_heads":8,"intermediate_size":14336,"vocab_size":128256,"tie_word_embeddings":false}"#;
    let file = folder.write("config.json", config);
    let of_file = json(&[
        "plan",
        "train",
        "--model",
        file.to_str().unwrap(),
        "--tokens",
        "1T",
        "--chip",
        "h100",
        "--chips",
        "64",
    ]);
    let of_name = json(&[
        "plan",
        "train",
        "--model",
        "llama-3.1-8b",
        "--tokens",
        "1T",
        "--chip",
        "h100",
        "--chips",
        "64",
    ]);
    assert_eq!(of_file["days"], of_name["days"]);
    let days = format!("{}d", number(&of_name, "days") * 1.01);
    let found = json(&[
        "plan",
        "train",
        "--model",
        "llama-3.1-8b",
        "--tokens",
        "1T",
        "--chip",
        "h100",
        "--days",
        &days,
    ]);
    assert!(number(&found, "chips") <= 64.0, "{found}");
}

#[test]
fn pages_explanations_and_the_other_commands() {
    let folder = Folder::new();
    let page = folder.join("plan.html");
    let train = ["plan", "train", "--model", "7B", "--tokens", "100B", "--chip", "a100", "--chips", "64"];
    succeed(&mut taoye(train.iter().copied().chain(["--html", page.to_str().unwrap()])));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.matches("<svg").count() >= 4 && !html.contains("<script"), "{html}");
    let explained = succeed(&mut taoye(train.iter().copied().chain(["--explain=mfu"])));
    assert!(explained.out.contains("mfu = ") && explained.out.contains("Chowdhery"), "{}", explained.out);
    let served = json(&["plan", "serve", "--model", "llama-3.1-8b", "--chip", "h100", "--price", "2"]);
    assert!(
        number(&served, "tokens_per_second") > 100.0 && number(&served, "money_usd_per_million_tokens") > 0.0
    );
    let chips = json(&["plan", "chips"]);
    assert!(chips["chips"].as_array().unwrap().len() >= 17);
    let sheet = succeed(&mut taoye(["plan", "chips", "tensor-g3"]));
    assert!(sheet.out.contains("not known: Google does not publish it"), "{}", sheet.out);
    let forecast = json(&["plan", "forecast"]);
    assert_eq!(number(&forecast, "stated_growth_percent"), 320.0);
    let proof = json(&["plan", "proof"]);
    assert!(proof["runs"].as_array().unwrap().len() >= 50);
}

#[test]
fn own_chips_replace_and_add() {
    let folder = Folder::new();
    let mine = "[[chip]]\nname = \"mine\"\nclass = \"ampere\"\nnode = 8\npeak = { bf16 = { is = 100, by = \"measured\" } }\n\
                memory = { is = 80, by = \"m\" }\nbandwidth = { is = 1000, by = \"m\" }\nlink = { is = 300, by = \"m\" }\n";
    let file = folder.write("mine.toml", mine);
    let plan = json(&[
        "plan",
        "train",
        "--model",
        "1B",
        "--tokens",
        "1B",
        "--chip",
        "mine",
        "--chips",
        "8",
        "--catalog",
        file.to_str().unwrap(),
    ]);
    assert_eq!(plan["chip"], "mine");
}

/// The command fails, and says each of the parts.
fn is_refused(folder: &Folder, arguments: &[&str], parts: &[&str]) {
    let finished = run(taoye(arguments.iter().copied()).current_dir(folder.path()));
    assert!(!matches!(finished.status, Some(0 | 101) | None), "{arguments:?}\n{}", finished.all());
    for part in parts {
        assert!(finished.err.contains(part), "{part:?} is not said: {arguments:?}\n{}", finished.all());
    }
}

#[test]
fn what_is_wrong_with_a_training_run_is_named() {
    let folder = Folder::new();
    folder.write("bad.toml", "[[chip]]\nname = \"x\"\n");
    folder.write("empty/config.json", "{}");
    let base = ["--tokens", "1T", "--chip", "a100", "--chips", "64"];
    let train = |more: &[&'static str]| [&["plan", "train"][..], more].concat();
    for (arguments, parts) in [
        (
            train(&["--model", "7B", "--tokens", "1PB", "--chip", "a100", "--chips", "64"]),
            &["--tokens", "PB", "--raw"][..],
        ),
        (
            train(&["--model", "7B", "--tokens", "1T", "--chip", "a100", "--days", "3m"]),
            &["--days", "minutes or months"],
        ),
        (
            train(&["--model", "7X", "--tokens", "1T", "--chip", "a100", "--chips", "64"]),
            &["--model", "7X", "gpt-3-175b"],
        ),
        (
            train(&["--model", "7B", "--tokens", "1T", "--chip", "a101", "--chips", "64"]),
            &["--chip", "a101", "a100-sxm-80g"],
        ),
        (
            train(&["--model", "7B", "--tokens", "1T", "--chip", "a100", "--chips", "6.5"]),
            &["--chips", "whole"],
        ),
        (train(&["--model", "7B", "--tokens", "1T", "--chip", "a100"]), &["--chips", "--days"]),
        (train(&[&["--model", "7B", "--mfu", "1.5"][..], &base].concat()), &["1.5", "at most 1"]),
        (train(&[&["--model", "7B", "--tflops-per-chip", "500"][..], &base].concat()), &["500", "peak"]),
        (train(&[&["--model", "7B", "--tp", "3"][..], &base].concat()), &["--tp 3", "heads"]),
        (train(&[&["--model", "7B", "--dp", "5"][..], &base].concat()), &["cannot be divided", "heads"]),
        (train(&[&["--model", "7B", "--pp", "64"][..], &base].concat()), &["--pp 64", "layers"]),
        (train(&[&["--model", "7B", "--ep", "4"][..], &base].concat()), &["--ep 4", "no experts"]),
        (
            train(&[&["--model", "7B", "--restart", "10"][..], &base].concat()),
            &["--restart", "no unit", "min"],
        ),
        (train(&[&["--model", "7B", "--explain=nothing"][..], &base].concat()), &["nothing", "mfu"]),
        (train(&[&["--model", "7B", "--precision", "fp7"][..], &base].concat()), &["fp7", "bf16"]),
        (train(&[&["--model", "7B", "--catalog", "bad.toml"][..], &base].concat()), &["bad.toml", "class"]),
        (train(&[&["--model", "empty"][..], &base].concat()), &["config.json", "hidden_size"]),
        (
            train(&["--model", "405B", "--tokens", "1T", "--chip", "a100", "--chips", "8"]),
            &["no split", "at least", "hold at most"],
        ),
        (
            train(&["--model", "175B", "--tokens", "1T", "--chip", "a100", "--days", "60s"]),
            &["no cluster", "nearest possible"],
        ),
        (
            train(&["--model", "70B", "--tokens", "1T", "--chip", "h100", "--chips", "64", "--days", "1d"]),
            &["Nearest possible"],
        ),
    ] {
        is_refused(&folder, &arguments, parts);
    }
}

#[test]
fn what_is_wrong_with_another_question_is_named() {
    let folder = Folder::new();
    for (arguments, parts) in [
        (vec!["plan", "serve", "--model", "405B", "--chip", "a100", "--chips", "2"], &["do not fit"][..]),
        (
            vec!["plan", "serve", "--model", "70B", "--chip", "a100", "--latency", "30"],
            &["--latency", "no unit"],
        ),
        (
            vec!["plan", "serve", "--model", "70B", "--chip", "a100", "--latency", "1us"],
            &["nearest possible"],
        ),
        (vec!["plan", "serve", "--model", "70B", "--chip", "tensor-g3"], &["tensor-g3"]),
        (vec!["plan", "chips", "h1000"], &["h1000"]),
        (vec!["plan", "forecast", "gone.toml"], &["gone.toml"]),
        (vec!["plan", "--here", "--hours=-1"], &["--hours"]),
    ] {
        is_refused(&folder, &arguments, parts);
    }
}
