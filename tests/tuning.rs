//! A model that exists, trained further on documents and on conversations.
//!
//! It must not judge a model's quality beyond that its loss falls.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Folder, finished_run, run, signal, start, succeed, taoye};

/// A folder with texts and conversations, and the command that trains the model of [`finished_run`] on some of them.
struct Case {
    folder: Folder,
}

impl Case {
    fn new() -> Case {
        let folder = Folder::new();
        folder.write_texts();
        folder.write("chat.jsonl", conversations(60));
        Case { folder }
    }

    fn train(&self, arguments: &str) -> Command {
        let model = finished_run().join("model");
        let mut command = taoye(["train", "--init", model.to_str().unwrap(), "--threads", "2"]);
        command.args(arguments.split(' ')).current_dir(self.folder.path());
        command
    }

    fn weights(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join(&format!("runs/{name}/model/model.safetensors"))).unwrap()
    }

    fn summary(&self, name: &str) -> Value {
        json(&self.folder.join(&format!("runs/{name}/summary.json")))
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Questions that one short answer fits.
fn conversations(count: usize) -> String {
    let mut lines = String::new();
    for number in 0..count {
        let question = format!("Which kiln is number {number}? 第{number}座窑叫什么？");
        let line = serde_json::json!({"messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "陶冶 kiln."},
        ]});
        let _ = writeln!(lines, "{line}");
    }
    lines
}

#[test]
fn documents_and_conversations_are_learned_and_the_model_is_used() {
    let case = Case::new();
    for (data, kind) in [("texts", "documents"), ("chat.jsonl", "chat")] {
        let arguments =
            format!("--data {data} --name {kind} --steps 30 --learning-rate 0.01 --batch 4 --context 128");
        let finished = succeed(&mut case.train(&arguments));
        for part in ["training loss", "evaluation loss", "samples", "taoye chat"] {
            assert!(finished.out.contains(part), "{part}: {}", finished.all());
        }
        let summary = case.summary(kind);
        assert_eq!(summary["data"], kind);
        let figure = |key: &str| summary["train"][key].as_f64().unwrap();
        assert_eq!(figure("steps"), 30.0);
        assert!(figure("loss") < figure("first_loss"), "{summary}");
        assert!(figure("evaluation_loss") < figure("first_evaluation_loss"), "{summary}");
        if kind == "documents" {
            let bits = |when: &str| summary[when]["bits"]["bits_per_byte"].as_f64().unwrap();
            assert!(bits("after") < bits("before"), "{summary}");
        }
        let folder = case.folder.join(&format!("runs/{kind}"));
        for name in ["recipe.toml", "manifest.json", "events.jsonl", "report.html", "model/tokenizer.json"] {
            assert!(folder.join(name).exists(), "{name}");
        }
        let model = folder.join("model");
        succeed(&mut taoye(["eval", "tasks", model.to_str().unwrap(), "--items", "1"]));
    }
    // The one answer that all conversations have is learned.
    let summary = case.summary("chat");
    assert_ne!(summary["before"]["samples"], summary["after"]["samples"]);
    let samples = case.summary("chat")["after"]["samples"].clone();
    assert!(samples.as_array().unwrap().iter().all(|sample| sample["answer"] == "陶冶 kiln."), "{samples}");
}

#[test]
fn flags_a_recipe_and_two_calls_end_in_the_same_bytes() {
    let case = Case::new();
    let flags = "--data chat.jsonl --steps 12 --batch 4 --context 96 --optimiser muon --checkpoint-every 2";
    succeed(&mut case.train(&format!("{flags} --name flags")));
    let model = finished_run().join("model");
    let recipe = format!(
        "init = {model:?}\nname = 'recipe'\ndata = ['chat.jsonl']\nsteps = 12\nbatch = 4\nmicro_batch = 2\n\
         context = 96\noptimiser = 'muon'\ncheckpointing = true\n"
    );
    case.folder.write("tune.toml", recipe);
    succeed(taoye(["run", "tune.toml", "--threads", "1"]).current_dir(case.folder.path()));
    assert!(case.weights("recipe") == case.weights("flags"));
    // Stopped at some moment, as Ctrl-C does, and called again.
    let mut command = case.train(&format!("{flags} --name twice"));
    for milliseconds in [150, 400, 700, 1000] {
        let child = start(&mut command);
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        signal(&child, "INT");
        child.wait_with_output().unwrap();
    }
    succeed(&mut command);
    assert!(case.weights("twice") == case.weights("flags"));
    // Another recipe of the same name is refused, not mixed in.
    let other = run(&mut case.train("--data chat.jsonl --steps 13 --name twice"));
    assert!(other.status == Some(1) && other.err.contains("--fresh"), "{}", other.all());
}

#[test]
fn evaluation_data_and_epochs_are_as_told() {
    let case = Case::new();
    case.folder.write("held.jsonl", conversations(7));
    let arguments =
        "--data chat.jsonl --eval-data held.jsonl --epochs 2 --batch 4 --context 64 --name told --json";
    let finished = succeed(&mut case.train(arguments));
    let summary: Value = serde_json::from_str(finished.out.trim()).unwrap();
    assert_eq!(summary["notices"][0], "60 conversations to learn, 7 held out");
    let tokens = summary["train"]["tokens"].as_u64().unwrap();
    let steps = summary["train"]["steps"].as_u64().unwrap();
    assert_eq!(tokens, steps * 4 * 64);
    assert!((2..=30).contains(&steps), "{summary}");
}

#[test]
fn what_cannot_be_learned_is_refused_where_it_stands() {
    let case = Case::new();
    let user = r#"{"role": "user", "content": "hi"}"#;
    let good = format!(r#"{{"messages": [{user}, {{"role": "assistant", "content": "ho"}}]}}"#);
    let folder = &case.folder;
    folder.write("no-answer.jsonl", format!("{good}\n{{\"messages\": [{user}]}}\n"));
    folder.write("broken.jsonl", format!("{good}\n{good}\n{{\"messages\": [\n"));
    folder.write("empty.jsonl", "");
    folder.write("mixed/a.jsonl", &good);
    folder.write("mixed/b.md", "# text");
    for (data, parts) in [
        ("no-answer.jsonl", &["no-answer.jsonl", "line 2", "assistant"][..]),
        ("broken.jsonl", &["broken.jsonl", "line 3"]),
        ("empty.jsonl", &["empty"]),
        ("mixed", &["a.jsonl", "b.md", "one or the other"]),
        ("missing.jsonl", &["missing.jsonl"]),
    ] {
        let finished = run(&mut case.train(&format!("--data {data} --name bad")));
        assert_eq!(finished.status, Some(1), "{}", finished.all());
        for part in parts {
            assert!(finished.err.contains(part), "{data}: {part:?}: {}", finished.all());
        }
    }
    let here = |arguments: &[&str]| run(taoye(arguments.iter().copied()).current_dir(folder.path()));
    let model = finished_run().join("model");
    for (name, part) in [
        ("tokenizer.json", "tokenizer.json"),
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
    ] {
        let copy = folder.join("model");
        let _ = fs::remove_dir_all(&copy);
        crate::harness::copy(&model, &copy);
        fs::remove_file(copy.join(name)).unwrap();
        let finished = here(&["train", "--init", "model", "--data", "chat.jsonl", "--steps", "1"]);
        assert!(finished.status == Some(1) && finished.err.contains(part), "{}", finished.all());
    }
    crate::harness::copy(&model, &folder.join("model"));
    let config = fs::read_to_string(folder.join("model/config.json")).unwrap().replace("qwen3", "parrot");
    folder.write("model/config.json", config);
    let finished = here(&["train", "--init", "model", "--data", "chat.jsonl"]);
    assert!(finished.status == Some(1) && finished.err.contains("parrot"), "{}", finished.all());
    for (arguments, part) in [
        (&["train", "--data", "chat.jsonl"][..], "--init"),
        (&["train", "--init", "model"], "--data"),
        (&["train", "--init", "model", "--data", "chat.jsonl", "--steps", "2", "--epochs", "1"], "--epochs"),
        (&["train", "--init", "model", "--data", "chat.jsonl", "--optimiser", "sgd"], "sgd"),
    ] {
        let finished = here(arguments);
        assert!(
            !matches!(finished.status, Some(0 | 101) | None) && finished.err.contains(part),
            "{}",
            finished.all()
        );
    }
}
