//! From raw text to a scored model, in short form.
//!
//! It must not judge a model's quality: seconds of training teach little.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Folder, finished_run, run, run_recipe, succeed, taoye};

/// What a run leaves for people and for other programs.
const LEFT: [&str; 9] = [
    "recipe.toml",
    "manifest.json",
    "events.jsonl",
    "report.html",
    "summary.json",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
];

#[test]
fn a_speedrun_sizes_itself_and_goes_all_the_way() {
    let folder = Folder::new();
    folder.write_texts();
    let started = Instant::now();
    let mut command = taoye(["speedrun", "texts", "--minutes", "0.3", "--json"]);
    let finished = succeed(command.current_dir(folder.path()));
    for name in LEFT {
        let size = fs::metadata(folder.join("runs/speedrun").join(name)).unwrap().len();
        assert!(size > 0, "{name} is empty");
    }
    let summary: Value = serde_json::from_str(finished.out.lines().last().unwrap()).unwrap();
    for key in
        ["parameters", "bits", "accuracy_before", "accuracy_after", "seconds", "peak_rss_bytes", "cpu", "isa"]
    {
        assert!(!summary[key].is_null(), "{key}: {summary}");
    }
    assert!(summary["bits"]["bits_per_byte"].as_f64().unwrap() > 0.0, "{summary}");
    assert!(summary["bits"]["zstd_bits_per_byte"].as_f64().unwrap() > 0.0, "{summary}");
    assert_eq!(summary["tasks_after"].as_array().unwrap().len(), 7, "{summary}");

    // Again: nothing is left to do, and nothing changes.
    let weights = fs::read(folder.join("runs/speedrun/model/model.safetensors")).unwrap();
    let first = started.elapsed();
    let started = Instant::now();
    succeed(command.current_dir(folder.path()));
    assert!(started.elapsed() < first / 2 + Duration::from_secs(2), "{:?} of {first:?}", started.elapsed());
    assert_eq!(fs::read(folder.join("runs/speedrun/model/model.safetensors")).unwrap(), weights);
}

#[test]
fn a_run_says_what_it_did_and_what_comes_next() {
    let folder = Folder::new();
    folder.write_texts();
    let finished = succeed(&mut run_recipe(&folder, 1));
    for part in ["bits per byte", "zstd -19", "add_chinese", "taoye chat", "taoye serve", "report.html"] {
        assert!(finished.out.contains(part), "{part}: {}", finished.all());
    }
    assert!(finished.err.contains("documents: 4"), "{}", finished.all());
    let report = fs::read_to_string(folder.join("runs/small/report.html")).unwrap();
    assert!(report.contains("<svg"), "no curves");
    assert!(!report.contains("http://") && !report.contains("https://"), "the report asks the network");
}

#[test]
fn weights_depend_on_the_seed_and_on_nothing_else() {
    let weights = |threads: usize, isa: &str, seed: &str| {
        let folder = Folder::new();
        folder.write_texts();
        let mut command = run_recipe(&folder, threads);
        command
            .args(["--seed", seed])
            .args((!isa.is_empty()).then_some(["--isa", isa]).into_iter().flatten());
        succeed(&mut command);
        fs::read(folder.join("runs/small/model/model.safetensors")).unwrap()
    };
    let expected = fs::read(finished_run().join("model/model.safetensors")).unwrap();
    for (threads, isa) in [(1, ""), (3, ""), (2, "emulated16"), (2, "portable")] {
        assert!(weights(threads, isa, "7") == expected, "{threads} threads, instruction set {isa:?}");
    }
    assert!(weights(2, "", "8") != expected, "another seed gave the same weights");
}

#[test]
fn the_parts_work_alone() {
    let folder = Folder::new();
    folder.write_texts();
    let here = |arguments: &[&str]| succeed(taoye(arguments.iter().copied()).current_dir(folder.path()));
    let model = finished_run().join("model");
    let model = model.to_str().unwrap();
    here(&["corpus", "texts", "--out", "documents"]);
    let trained =
        here(&["tokenizer", "train", "texts", "--out", "tokenizer", "--vocab-size", "400", "--json"]);
    let trained: Value = serde_json::from_str(trained.out.trim()).unwrap();
    assert_eq!(trained["vocab_size"], 400);
    let encoded = here(&["tokenizer", "encode", "tokenizer", "炉火 12", "--json"]);
    let encoded: Value = serde_json::from_str(encoded.out.trim()).unwrap();
    let pieces = encoded["tokens"].as_array().unwrap();
    assert_eq!(pieces.len(), encoded["ids"].as_array().unwrap().len());
    let bits = here(&["eval", "bits", model, "texts", "--kilobytes", "4", "--json"]);
    let bits: Value = serde_json::from_str(bits.out.trim()).unwrap();
    assert!(
        bits["bytes"].as_u64().unwrap() <= 4_000 && bits["bits_per_byte"].as_f64().unwrap() > 0.0,
        "{bits}"
    );
    let tasks = here(&["eval", "tasks", model, "--items", "2", "--json"]);
    let tasks: Value = serde_json::from_str(tasks.out.trim()).unwrap();
    assert_eq!(tasks["families"].as_array().unwrap().len(), 7, "{tasks}");
}

#[test]
fn help_names_every_command() {
    let help = succeed(&mut taoye(["--help"])).out;
    for command in
        ["speedrun", "run", "train", "runs", "chat", "serve", "corpus", "tokenizer", "eval", "bench"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        let own = succeed(&mut taoye([command, "--help"])).out;
        assert!(own.contains("Usage: taoye"), "{own}");
    }
    assert_eq!(run(&mut taoye(["sing"])).status, Some(2));
}
