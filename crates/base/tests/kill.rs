//! Kills a writing process at random moments: files are old or new, never half; journals keep all but a torn tail.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use base::fs::{remove_stale_temporaries, write_atomic};
use base::journal::{self, Journal, SyncPolicy};
use base::seed::Rng;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "TAOYE_TEST_KILL_FOLDER";
const BLOCK_BYTES: usize = 1 << 16;
const BLOCKS: usize = 8;

/// What the child process runs: it writes until it is killed. Without the variable there is nothing to write.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let mut journal = Journal::open(&folder.join("events.jsonl"), SyncPolicy::Never).unwrap().journal;
    for round in 0..20_000u32 {
        let block = vec![round as u8; BLOCK_BYTES];
        let write_blocks = |file: &mut dyn Write| (0..BLOCKS).try_for_each(|_| file.write_all(&block));
        write_atomic(&folder.join("weights.bin"), |file| write_blocks(file)).unwrap();
        for _ in 0..20 {
            let record = serde_json::json!({ "round": round, "note": "步".repeat(300) });
            journal.append(&record).unwrap();
        }
    }
}

#[test]
fn nothing_half_written_is_taken_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("weights.bin");
    let mut rng = Rng::new(11, 0);
    let mut records = 0;
    for _ in 0..15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !weights.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(20_000 + rng.below(60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        check_weights(&weights);
        remove_stale_temporaries(folder.path()).unwrap();
        records = check_journal(&folder.path().join("events.jsonl"), records);
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["events.jsonl", "weights.bin"]);
    }
    assert!(records >= 20, "the child got somewhere: {records}");
}

fn check_weights(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len(), BLOCKS * BLOCK_BYTES);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two rounds");
}

/// Nothing that was there before is gone, and the journal opens for appending with all its whole records.
fn check_journal(path: &Path, records_before: usize) -> usize {
    let records = journal::read(path).unwrap().records.len();
    assert!(records >= records_before, "records vanished");
    let opened = Journal::open(path, SyncPolicy::EveryRecord).unwrap();
    assert_eq!(opened.journal.next_seq() as usize, records);
    records
}
