//! Runs seen from outside: told before they begin, listed, watched while they train, compared, and stopped when their
//! loss explodes.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Finished, Folder, RECIPE, finished_run, run, run_recipe, start, succeed, taoye};

fn tune(folder: &Folder, arguments: &str) -> Command {
    let model = finished_run().join("model");
    let mut command = taoye(["train", "--init", model.to_str().unwrap(), "--data", "texts"]);
    command.args(["--threads", "2", "--context", "64", "--batch", "2"]);
    command.args(arguments.split(' ')).current_dir(folder.path());
    command
}

fn in_folder(folder: &Folder, arguments: &str) -> Finished {
    run(taoye(arguments.split(' ')).current_dir(folder.path()))
}

fn last_json(finished: &Finished) -> Value {
    serde_json::from_str(finished.out.lines().last().unwrap()).unwrap()
}

#[test]
fn a_dry_run_tells_everything_and_leaves_nothing() {
    let folder = Folder::new();
    folder.write_texts();
    folder.write("recipe.toml", RECIPE);
    let answer =
        r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho ho"}]}"#;
    folder.write("chat.jsonl", format!("{answer}\n").repeat(4));
    let before = fs::read_dir(folder.path()).unwrap().count();
    let model = finished_run().join("model");
    let model = model.to_str().unwrap();
    let chat =
        format!("train --init {model} --data chat.jsonl --lora-rank 2 --context 32 --batch 2 --dry-run");
    let parts = ["parameters", "sequences of", "tokens/s", "optimiser", "learning rate", "first batch"];
    for (arguments, more) in [
        (
            "run recipe.toml --input texts --dry-run".to_owned(),
            &["pretrain", "finetune", "── next document ──", "⟦"][..],
        ),
        ("speedrun texts --minutes 0.5 --dry-run".to_owned(), &["pretrain", "finetune"]),
        (chat, &["⟧ho ho<|im_end|>", "times through the data", "adapters"]),
    ] {
        let finished = in_folder(&folder, &arguments);
        assert_eq!(finished.status, Some(0), "{}", finished.all());
        for part in parts.iter().chain(more) {
            assert!(finished.out.contains(part), "{part}: {}", finished.all());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "{arguments}");
    }
    let finished = in_folder(&folder, "run recipe.toml --input texts --dry-run --json");
    let stages = last_json(&finished)["stages"].clone();
    assert_eq!((&stages[0]["steps"], &stages[1]["steps"]), (&24.into(), &16.into()), "{stages}");
    assert_eq!(stages[0]["first_batch"].as_array().unwrap().len(), 4);
    // What a model does not fit into is refused, here as in a run.
    let huge = RECIPE
        .replace("max_positions = 256", "max_positions = 4000000")
        .replace("context = 128", "context = 4000000")
        .replace("batch_sequences = 4", "batch_sequences = 400");
    folder.write("huge.toml", huge);
    for arguments in ["run huge.toml --input texts --dry-run", "run huge.toml --input texts --name huge"] {
        let finished = in_folder(&folder, arguments);
        assert!(finished.status == Some(1) && finished.err.contains("of memory"), "{}", finished.all());
    }
}

#[test]
fn an_exploding_run_stops_says_where_and_is_listed_as_failed() {
    let folder = Folder::new();
    folder.write_texts();
    let absurd =
        "--learning-rate 5 --warmup-share 0 --schedule constant --checkpoint-every 1 --explosion-steps 3";
    let finished = run(&mut tune(&folder, &format!("--steps 60 --name absurd {absurd}")));
    assert_eq!(finished.status, Some(1), "{}", finished.all());
    for part in
        ["nats above", "the largest gradient is that of model.", "step-", "is untouched", "learning rate"]
    {
        assert!(finished.err.contains(part), "{part}: {}", finished.all());
    }
    let (_, rest) = finished.err.split_once("checkpoint ").unwrap();
    let kept = rest.split_whitespace().next().unwrap();
    assert!(folder.join(kept).join("header.json").is_file(), "{kept}");
    succeed(&mut tune(&folder, "--steps 4 --name calm"));
    let listed = in_folder(&folder, "runs");
    assert!(listed.out.contains("failed") && listed.out.contains("finished"), "{}", listed.all());
    let listed = last_json(&in_folder(&folder, "runs --json"));
    let of = |name: &str| {
        listed["runs"].as_array().unwrap().iter().find(|run| run["name"] == name).unwrap().clone()
    };
    assert_eq!((&of("calm")["state"], &of("calm")["step"]), (&"finished".into(), &4.into()), "{listed}");
    assert_eq!(of("absurd")["state"], "failed");
    assert!(of("absurd")["failure"].as_str().unwrap().contains("nats above"), "{listed}");
    assert!(of("calm")["best_evaluation"].as_f64().unwrap() > 0.0, "{listed}");
    // Compared with one another, by what they differ in.
    let compared = in_folder(&folder, "runs compare calm absurd --out both.html");
    assert_eq!(compared.status, Some(0), "{}", compared.all());
    assert!(compared.out.contains("learning_rate: ") && compared.out.contains("| 5"), "{}", compared.all());
    let report = fs::read_to_string(folder.join("both.html")).unwrap();
    for part in ["Loss by tokens", "Loss by seconds", "Evaluation loss", "learning_rate", "calm", "absurd"] {
        assert!(report.contains(part), "{part}");
    }
    for (arguments, part) in [
        ("runs compare calm none", "none"),
        ("runs watch none", "no run in"),
        ("runs --runs nowhere", "nowhere"),
        ("runs compare a b c d e f g h i", "9 runs"),
    ] {
        let finished = in_folder(&folder, arguments);
        assert!(finished.status == Some(1) && finished.err.contains(part), "{}", finished.all());
    }
}

#[test]
fn a_run_is_watched_while_another_process_trains_it() {
    let folder = Folder::new();
    folder.write_texts();
    let training = start(&mut run_recipe(&folder, 1));
    while !folder.join("runs/small/events.jsonl").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let watched = in_folder(&folder, "runs watch small");
    assert_eq!(watched.status, Some(0), "{}", watched.all());
    assert!(training.wait_with_output().unwrap().status.success(), "watching disturbed it");
    assert!(watched.out.lines().next().unwrap().contains("running"), "{}", watched.all());
    let last = watched.out.lines().last().unwrap();
    assert!(last.contains("small · finetune · finished · step 16 of 16 (100 %)"), "{}", watched.all());
}

#[test]
fn patience_ends_a_run_and_the_best_weights_are_kept() {
    let folder = Folder::new();
    folder.write_texts();
    let arguments =
        "--steps 200 --eval-every 2 --patience 3 --keep-best --learning-rate 0.05 --name patient --json";
    let finished = succeed(&mut tune(&folder, &format!("{arguments} --explosion-nats 0")));
    let figures = last_json(&finished)["train"].clone();
    let (steps, best) = (figures["steps"].as_u64().unwrap(), figures["best_evaluation"][0].as_u64().unwrap());
    assert_eq!(steps, best + 6, "{figures}");
    let report = fs::read_to_string(folder.join("runs/patient/report.html")).unwrap();
    assert!(report.contains("stopped after step") && report.contains("the weights are those of step"));
}
