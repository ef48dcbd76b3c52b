//! Killed at many points, a run that is started again ends with the weights of one that never stopped.
//!
//! It must not know where checkpoints lie or what they hold, only that they are files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{Folder, finished_run, run, run_recipe, signal, start, succeed};

/// How many places of a run it is killed at.
const KILLS: u32 = 10;

fn weights(run_folder: &Path) -> Vec<u8> {
    fs::read(run_folder.join("model/model.safetensors")).unwrap()
}

/// How long an undisturbed run takes.
fn duration() -> Duration {
    let folder = Folder::new();
    folder.write_texts();
    let started = Instant::now();
    succeed(&mut run_recipe(&folder, 2));
    started.elapsed()
}

#[test]
fn killed_anywhere_it_ends_with_the_same_weights() {
    let expected = weights(finished_run());
    let duration = duration();
    for kill in 0..KILLS {
        let folder = Folder::new();
        folder.write_texts();
        let mut child = start(&mut run_recipe(&folder, 2));
        std::thread::sleep(duration * (2 * kill + 1) / (2 * KILLS));
        signal(&child, "KILL");
        child.wait().unwrap();
        // Taken up by another number of threads: that must not matter either.
        succeed(&mut run_recipe(&folder, 1 + kill as usize % 3));
        assert!(weights(&folder.join("runs/small")) == expected, "killed at {kill} of {KILLS}");
        no_leftovers(&folder.join("runs/small"));
    }
}

#[test]
fn killed_again_and_again_it_still_ends_with_the_same_weights() {
    let expected = weights(finished_run());
    let duration = duration();
    let folder = Folder::new();
    folder.write_texts();
    let mut kills = 0;
    loop {
        let mut child = start(&mut run_recipe(&folder, 1 + kills % 2));
        let started = Instant::now();
        // Each life is longer than the last, so that some life is long enough to end.
        let life = duration / 4 + duration * kills as u32 / 20;
        while started.elapsed() < life && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "after {kills} kills: {status}");
            break;
        }
        signal(&child, "KILL");
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 40, "no progress in {kills} lives");
    }
    assert!(kills > 0, "it was never killed");
    assert!(weights(&folder.join("runs/small")) == expected, "after {kills} kills");
}

#[test]
fn an_interrupt_saves_what_was_done() {
    let expected = weights(finished_run());
    let duration = duration();
    let folder = Folder::new();
    folder.write_texts();
    let child = start(&mut run_recipe(&folder, 2));
    std::thread::sleep(duration / 2);
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on") || said.contains("The same command goes on"), "{said}");
    succeed(&mut run_recipe(&folder, 1));
    assert!(weights(&folder.join("runs/small")) == expected);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let expected = weights(finished_run());
    let folder = Folder::new();
    folder.write_texts();
    let checkpoints = folder.join("runs/small/checkpoints");
    let mut child = start(&mut run_recipe(&folder, 2));
    let started = Instant::now();
    // Two checkpoints of one stage: one to damage and one to fall back to.
    while saved(&checkpoints).len() < 2 && started.elapsed() < Duration::from_secs(120) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it had two checkpoints at once");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, "KILL");
    child.wait().unwrap();
    let newest = saved(&checkpoints).pop().unwrap();
    let damaged = largest_file(&newest);
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&damaged, bytes).unwrap();
    let finished = run(&mut run_recipe(&folder, 2));
    assert_eq!(finished.status, Some(0), "{}", finished.all());
    assert!(finished.err.contains("damaged") || finished.err.contains("checksum"), "{}", finished.all());
    assert!(weights(&folder.join("runs/small")) == expected);
}

#[test]
fn another_recipe_does_not_go_on_from_this_run() {
    let folder = Folder::new();
    folder.write_texts();
    succeed(&mut run_recipe(&folder, 2));
    let finished = run(run_recipe(&folder, 2).args(["--seed", "9"]));
    assert_eq!(finished.status, Some(1), "{}", finished.all());
    assert!(finished.err.contains("--fresh"), "{}", finished.all());
    succeed(run_recipe(&folder, 2).args(["--seed", "9", "--fresh"]));
}

/// Whole checkpoints, oldest first, of all stages; files or folders.
fn saved(checkpoints: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let is_whole = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        !name.starts_with('.') && !name.contains("tmp") && !name.contains("partial")
    };
    let mut found: Vec<PathBuf> =
        entries(checkpoints).iter().flat_map(|stage| entries(stage)).filter(is_whole).collect();
    found.sort();
    found
}

fn largest_file(path: &Path) -> PathBuf {
    if path.is_file() {
        return path.to_owned();
    }
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap()
}

/// Nothing half-written is left in a finished run.
fn no_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.ends_with("-tmp") && !name.contains(".partial"), "{}", path.display());
        if path.is_dir() {
            no_leftovers(&path);
        }
    }
}
