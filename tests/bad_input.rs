//! Bad input ends with a message that says what happened, where, and what to do, and with a status that is not 0.
//!
//! It must not accept a panic as a message.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Finished, Folder, RECIPE, copy, finished_run, run, run_recipe, succeed, taoye};

/// Runs in `folder` and expects a refusal whose message holds every part.
fn refused(folder: &Folder, command: &mut Command, parts: &[&str]) -> Finished {
    let finished = run(command.current_dir(folder.path()));
    assert!(!matches!(finished.status, Some(0 | 101) | None), "{command:?}\n{}", finished.all());
    assert!(!finished.err.contains("panicked"), "{command:?}\n{}", finished.all());
    for part in parts {
        assert!(finished.err.contains(part), "{part:?} is not said\n{command:?}\n{}", finished.all());
    }
    finished
}

#[test]
fn inputs_that_hold_nothing() {
    let folder = Folder::new();
    fs::create_dir(folder.join("empty")).unwrap();
    folder.write("binary/data.txt", [0_u8, 159, 146, 150, 0, 1, 2, 3].repeat(100));
    folder.write("tiny/a.md", "x");
    for (input, part) in
        [("missing", "missing"), ("empty", "empty"), ("binary", "dropped"), ("tiny", "dropped")]
    {
        refused(&folder, &mut taoye(["speedrun", input, "--minutes", "0.2", "--name", input]), &[part]);
        refused(&folder, &mut taoye(["corpus", input, "--out", "out"]), &[part]);
    }
    refused(&folder, &mut taoye(["tokenizer", "train", "missing", "--out", "out"]), &["missing"]);
}

/// A reader that leaves is no fault of anybody; a disk that is full is said.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_takes_nothing() {
    use std::process::Stdio;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    for (out, status, part) in [
        (Stdio::from(writer), 141, ""),
        (Stdio::from(full), 1, "error: standard output cannot be written: No space"),
    ] {
        let ended = taoye(["plan", "chips"]).stdout(out).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(status), "{said}");
        assert!(said.starts_with(part) && (said.is_empty() == part.is_empty()), "{said}");
    }
}

#[test]
fn recipes_that_cannot_be_read() {
    let folder = Folder::new();
    folder.write_texts();
    for (from, to, place, parts) in [
        (
            "held_out_share = 0.2",
            "held_out_shard = 0.2",
            "recipe.toml:8:1",
            &["held_out_shard", "held_out_share"][..],
        ),
        ("layers = 2", "layers = \"two\"", "recipe.toml:17:10", &["layers"]),
        ("steps = 24", "steps = -24", "recipe.toml:27:9", &["-24"]),
        ("[evaluate]", "[evaluat]", "recipe.toml", &["evaluat"]),
        ("seed = 7", "seed = ", "recipe.toml:3", &[]),
    ] {
        assert!(RECIPE.contains(from));
        folder.write("recipe.toml", RECIPE.replacen(from, to, 1));
        let mut command = taoye(["run", "recipe.toml", "--input", "texts"]);
        let finished = refused(&folder, &mut command, parts);
        assert!(finished.err.contains(place), "{place}: {}", finished.all());
    }
    for (from, to, part) in [
        ("family = \"qwen3\"", "family = \"parrot\"", "parrot"),
        ("heads = 2", "heads = 3", "heads"),
        ("context = 128", "context = 4096", "context"),
        ("vocab_size = 512", "vocab_size = 10", "vocab_size"),
        ("seed = 7", "seed = 7\nminutes = -1.0", "minutes"),
    ] {
        assert!(RECIPE.contains(from));
        folder.write("recipe.toml", RECIPE.replacen(from, to, 1));
        let name = format!("bad-{part}");
        refused(&folder, &mut taoye(["run", "recipe.toml", "--input", "texts", "--name", &name]), &[part]);
    }
    refused(&folder, &mut taoye(["run", "gone.toml"]), &["gone.toml"]);
}

#[test]
fn models_that_are_damaged_or_missing() {
    let folder = Folder::new();
    folder.write_texts();
    let model = finished_run().join("model");
    let ask = |parts: &[&str]| {
        refused(&folder, &mut taoye(["eval", "tasks", "model", "--items", "1"]), parts);
        refused(&folder, &mut taoye(["serve", "model", "--port", "0"]), parts);
    };
    ask(&["model"]);
    let damage = |name: &str, change: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(folder.join("model"));
        copy(&model, &folder.join("model"));
        change(&folder.join("model").join(name));
    };
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        damage(name, &|path| fs::remove_file(path).unwrap());
        ask(&[name]);
        damage(name, &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        });
        ask(&[name]);
    }
}

#[test]
fn shards_that_are_damaged() {
    let folder = Folder::new();
    folder.write_texts();
    succeed(&mut run_recipe(&folder, 2));
    let expected = fs::read(folder.join("runs/small/model/model.safetensors")).unwrap();
    let run_folder = folder.join("runs/small");
    let shard = run_folder.join("train.shard");
    let file = if shard.is_dir() {
        let files = fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
        files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    } else {
        shard
    };
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    // The stages after it are undone, so that the shard is read again.
    for name in ["base-model", "model", "checkpoints"] {
        fs::remove_dir_all(run_folder.join(name)).unwrap();
    }
    let finished = run(&mut run_recipe(&folder, 2));
    match finished.status {
        // Made anew, and said so; or refused, with its name.
        Some(0) => {
            let weights = fs::read(run_folder.join("model/model.safetensors")).unwrap();
            assert!(weights == expected, "trained on a damaged shard\n{}", finished.all());
        }
        Some(1) => assert!(finished.err.contains("train.shard"), "{}", finished.all()),
        _ => panic!("{}", finished.all()),
    }
}

#[test]
fn flags_that_make_no_sense() {
    let folder = Folder::new();
    folder.write_texts();
    for (arguments, part) in [
        (&["speedrun", "texts", "--minutes", "zero"][..], "--minutes"),
        (&["speedrun", "texts", "--minutes=-3"], "minutes"),
        (&["speedrun", "texts", "--threads", "0"], "--threads"),
        (&["speedrun", "texts", "--isa", "mmx"], "mmx"),
        (&["serve"], "MODEL"),
        (&["serve", "model", "--port", "70000"], "--port"),
        (&["corpus", "texts", "--out", "out", "--held-out-share", "3"], "held_out_share"),
    ] {
        refused(&folder, &mut taoye(arguments.iter().copied()), &[part]);
    }
    // --fresh deletes runs and nothing else.
    folder.write("mine/notes.txt", "keep");
    fs::create_dir_all(folder.join("runs")).unwrap();
    for (runs, name) in [("runs", ".."), ("runs", "../mine"), (".", "mine"), ("runs", "")] {
        let name = format!("--name={name}");
        refused(&folder, &mut taoye(["speedrun", "texts", "--fresh", "--runs", runs, &name]), &[]);
        assert!(
            folder.join("mine/notes.txt").exists() && folder.join("texts/0.md").exists(),
            "{runs} {name}"
        );
    }
    // The variable counts as the flag does.
    refused(&folder, taoye(["eval", "tasks", "model"]).env("TAOYE_ISA", "mmx"), &["mmx"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing_half_written() {
    let folder = Folder::new();
    folder.write_texts();
    succeed(&mut run_recipe(&folder, 2));
    let weights = folder.join("runs/small/model/model.safetensors");
    let expected = fs::read(&weights).unwrap();
    // A limit on the size of files stands for the full disk: writing past it fails.
    let limited = |kilobytes: u32, more: &str| {
        let mut command = Command::new("bash");
        let script = format!(
            "trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" run recipe.toml --input texts --threads 2 {more}"
        );
        command.args(["-c", &script, env!("CARGO_BIN_EXE_taoye")]).current_dir(folder.path());
        command
    };
    let finished = run(&mut limited(20, "--name full"));
    assert_eq!(finished.status, Some(1), "{}", finished.all());
    assert!(!finished.err.contains("panicked"), "{}", finished.all());
    assert!(finished.err.contains("full"), "the path is not named\n{}", finished.all());
    // With room again the same command ends as if nothing had been.
    succeed(run_recipe(&folder, 2).args(["--name", "full"]));
    assert!(fs::read(folder.join("runs/full/model/model.safetensors")).unwrap() == expected);
    assert!(fs::read(weights).unwrap() == expected);
}
