//! Run folders: `runs/<name>/` with its lock, its layout and the manifest that says which stages are done.
//! It must not know what the stages do.

use crate::machine::{self, Machine};
use crate::{Error, Result, fs, hash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often, and after what pause, a lock that is taken is tried again.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A run's folder, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    manifest: Manifest,
    /// The lock lives as long as the open file; the system drops it even when the process is killed.
    _lock: File,
}

/// What `manifest.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The product's version that last wrote the manifest.
    pub version: String,
    /// The machine that last wrote it.
    pub machine: Machine,
    /// What the run read, each with its hash: the corpus, a tokenizer, a starting model.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Finished stages by name.
    #[serde(default)]
    pub stages: BTreeMap<String, StageRecord>,
}

/// One finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The hash over inputs and recipe that the stage ran with.
    pub fingerprint: String,
    /// What it made.
    pub outputs: Vec<Output>,
    /// When it finished, in milliseconds since 1970 (UTC).
    pub finished_unix_ms: u64,
}

/// One file that a stage made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Relative to the run's folder, with `/` between its parts.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its content.
    pub blake3: String,
}

impl RunFolder {
    /// Opens the folder, made if missing, and locks it. Temporaries of a killed process are removed.
    ///
    /// # Errors
    /// [`Error::RunLocked`] where another process holds it, [`Error::Manifest`] where its manifest is damaged,
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        for folder in [path.to_path_buf(), path.join("checkpoints"), path.join("model")] {
            fs::create_folder(&folder)?;
        }
        let lock_path = path.join(".lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| Error::io("open", &lock_path, error))?;
        let mut tries = 0;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // Somebody may only be asking whether the run is held.
                Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(Error::RunLocked { path: path.to_path_buf() }),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path, error)),
            }
        }
        fs::remove_stale_temporaries(path)?;
        for folder in subfolders(path)? {
            fs::remove_stale_temporaries(&folder)?;
        }
        let manifest = read_manifest(&path.join("manifest.json"))?;
        Ok(Self { path: path.to_path_buf(), manifest, _lock: lock })
    }

    /// Opens `root/name`; the name must be one plain folder name.
    ///
    /// # Errors
    /// [`Error::RunName`], else as [`RunFolder::open`].
    pub fn open_named(root: &Path, name: &str) -> Result<Self> {
        let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::RunName { name: name.to_string() });
        }
        Self::open(&root.join(name))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `recipe.toml`: the recipe as run.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// `events.jsonl`: every metric, a [`crate::journal::Journal`].
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `model/`: a Hugging Face folder.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// A file or folder of the run's own, such as `documents-train.jsonl.zst`.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// What is recorded of the run.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether a stage ran with this fingerprint and all that it made is still there with its recorded length.
    /// (Content is checked by whoever reads it: shards, checkpoints and weights carry checksums.)
    pub fn stage_done(&self, stage: &str, fingerprint: &str) -> bool {
        let there = |output: &Output| {
            std::fs::metadata(self.path.join(&output.path)).is_ok_and(|file| file.len() == output.bytes)
        };
        self.manifest
            .stages
            .get(stage)
            .is_some_and(|record| record.fingerprint == fingerprint && record.outputs.iter().all(there))
    }

    /// Records a finished stage with what it made: files, or folders with all files in them, inside the run.
    /// Written atomically, so a kill leaves the stage either done or not.
    ///
    /// # Errors
    /// [`Error::Io`] where an output is missing or the manifest cannot be written, [`Error::DiskFull`].
    pub fn mark_stage(&mut self, stage: &str, fingerprint: &str, outputs: &[PathBuf]) -> Result<()> {
        let mut files = Vec::new();
        for output in outputs {
            list_files(&self.path.join(output), &mut files)?;
        }
        let outputs = files.iter().map(|file| self.describe_output(file)).collect::<Result<_>>()?;
        let record =
            StageRecord { fingerprint: fingerprint.to_string(), outputs, finished_unix_ms: now_unix_ms() };
        let mut manifest = self.manifest.clone();
        manifest.stages.insert(stage.to_string(), record);
        self.store(manifest)
    }

    /// Records something that the run reads, with its hash or fingerprint.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DiskFull`].
    pub fn record_input(&mut self, name: &str, hash: &str) -> Result<()> {
        let mut manifest = self.manifest.clone();
        manifest.inputs.insert(name.to_string(), hash.to_string());
        self.store(manifest)
    }

    fn store(&mut self, mut manifest: Manifest) -> Result<()> {
        manifest.version = env!("CARGO_PKG_VERSION").to_string();
        manifest.machine = machine::describe();
        let path = self.path.join("manifest.json");
        fs::write_atomic(&path, |file| Ok(serde_json::to_writer_pretty(file, &manifest)?))?;
        self.manifest = manifest;
        Ok(())
    }

    fn describe_output(&self, file: &Path) -> Result<Output> {
        let bytes = std::fs::metadata(file).map_err(|error| Error::io("inspect", file, error))?.len();
        let relative = file.strip_prefix(&self.path).unwrap_or(file);
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let path = if relative.is_absolute() { relative.display().to_string() } else { parts.join("/") };
        Ok(Output { path, bytes, blake3: hash::hash_file(file)? })
    }
}

/// Whether a process holds the run in a folder now. Takes nothing that another process would have to wait for long.
///
/// # Errors
/// [`Error::Io`] where the lock cannot be read.
pub fn is_held(path: &Path) -> Result<bool> {
    let lock_path = path.join(".lock");
    let lock = match File::open(&lock_path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("open", &lock_path, error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &lock_path, error)),
    }
}

/// One fingerprint for a stage: a hash over its inputs' hashes and the recipe's lines that concern it.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    hash::hash_parts(parts)
}

fn read_manifest(path: &Path) -> Result<Manifest> {
    if !path.exists() {
        let version = env!("CARGO_PKG_VERSION").to_string();
        return Ok(Manifest { version, machine: machine::describe(), ..Manifest::default() });
    }
    let text = fs::read_text(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Manifest { path: path.to_path_buf(), reason: error.to_string() })
}

/// The folders that lie directly in `path`.
fn subfolders(path: &Path) -> Result<Vec<PathBuf>> {
    let wrap = |error| Error::io("list", path, error);
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(path).map_err(wrap)?.collect();
    let paths: Vec<PathBuf> = entries.map_err(wrap)?.iter().map(|entry| entry.path()).collect();
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// The file itself, or all files below a folder, sorted by name.
fn list_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let wrap = |error| Error::io("list", path, error);
    if !std::fs::metadata(path).map_err(wrap)?.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(path).map_err(wrap)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(wrap)?.iter().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().try_for_each(|path| list_files(path, files))
}

fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stage_is_done_until_inputs_or_outputs_change() {
        let root = tempfile::tempdir().unwrap();
        let mut run = RunFolder::open_named(root.path(), "试验-1").unwrap();
        let old = fingerprint(["recipe", "inputs"]);
        assert!(!run.stage_done("corpus", &old));
        fs::write_bytes(&run.join("documents.jsonl"), b"{}\n").unwrap();
        fs::write_bytes(&run.model().join("config.json"), b"{}").unwrap();
        run.mark_stage("corpus", &old, &["documents.jsonl".into(), "model".into()]).unwrap();
        run.record_input("corpus", &hash::hash_bytes(b"all files")).unwrap();
        drop(run);

        let mut run = RunFolder::open_named(root.path(), "试验-1").unwrap();
        assert!(run.stage_done("corpus", &old));
        assert_eq!(run.manifest().inputs["corpus"], hash::hash_bytes(b"all files"));
        assert!(!run.stage_done("corpus", &fingerprint(["recipe", "other inputs"])));
        assert!(!run.stage_done("train", &old));
        let outputs = &run.manifest().stages["corpus"].outputs;
        let paths: Vec<&str> = outputs.iter().map(|output| output.path.as_str()).collect();
        assert_eq!(paths, ["documents.jsonl", "model/config.json"]);
        assert_eq!(outputs[1].blake3, hash::hash_bytes(b"{}"));

        fs::write_bytes(&run.join("documents.jsonl"), b"{}").unwrap();
        assert!(!run.stage_done("corpus", &old), "a shortened output");
        fs::write_bytes(&run.join("documents.jsonl"), b"{}\n").unwrap();
        assert!(run.stage_done("corpus", &old));
        std::fs::remove_file(run.model().join("config.json")).unwrap();
        assert!(!run.stage_done("corpus", &old), "a missing output");
        assert!(run.mark_stage("x", &old, &["nothing".into()]).unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn what_a_kill_left_half_written_is_removed_from_every_folder() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::open(root.path()).unwrap();
        let left =
            ["manifest.json", "model/config.json", "base-model/config.json", "tokenizer/tokenizer.json"]
                .map(|name| fs::temporary_path(&run.join(name)));
        for path in &left {
            fs::create_folder(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"half").unwrap();
        }
        drop(run);
        let _run = RunFolder::open(root.path()).unwrap();
        for path in left {
            assert!(!path.exists(), "{}", path.display());
        }
    }

    #[test]
    fn two_holders_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = RunFolder::open(root.path()).unwrap();
        let error = RunFolder::open(root.path()).unwrap_err();
        assert!(matches!(error, Error::RunLocked { .. }), "{error}");
        assert!(is_held(root.path()).unwrap());
        drop(first);
        assert!(!is_held(root.path()).unwrap() && !is_held(&root.path().join("none")).unwrap());
        assert!(RunFolder::open(root.path()).is_ok());
    }

    #[test]
    fn bad_names_and_bad_manifests() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", "..", "a/b", ".lock", "a b"] {
            assert!(matches!(RunFolder::open_named(root.path(), name), Err(Error::RunName { .. })), "{name}");
        }
        std::fs::write(root.path().join("manifest.json"), b"{ half").unwrap();
        let error = RunFolder::open(root.path()).unwrap_err();
        assert!(matches!(error, Error::Manifest { .. }), "{error}");
    }
}
