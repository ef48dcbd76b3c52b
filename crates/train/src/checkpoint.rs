//! Checkpoints: flat buffers and a header that says what they belong to, each with a checksum.
//!
//! A checkpoint is a folder `step-XXXXXXXX` with `header.json` and one file of little-endian f32 for each
//! buffer. It is written under another name, synced and renamed, so that it is whole or not there. It must
//! not know what the buffers mean.

use crate::course::Course;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the layout on disk.
const FORMAT: u32 = 2;
const HEADER: &str = "header.json";
/// The folder of the weights of the best evaluation, before its step.
const BEST: &str = "best-";
/// The buffer of what is trained, in the folder of the best evaluation.
const TRAINED: &str = "trained";
/// What a folder is called while it is being written or removed.
const PARTIAL: &str = ".partial-";
/// Bytes converted, hashed and written at once.
const BLOCK_BYTES: usize = 1 << 18;

/// What a checkpoint belongs to and how far it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    /// How far it has come.
    #[serde(flatten)]
    at: At,
    /// What decides the run's result.
    pub(crate) run: Identity,
    buffers: Vec<BufferEntry>,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct At {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Sequences that the run has taken: where the data's order goes on.
    pub(crate) samples: u64,
    /// What it remembers of its course.
    pub(crate) course: Course,
}

/// What decides a run's result, each part as a hash or in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The model's configuration.
    pub(crate) config: String,
    /// The training options that decide the weights.
    pub(crate) options: String,
    /// The training data.
    pub(crate) data: String,
    /// The initial weights.
    pub(crate) initial: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BufferEntry {
    name: String,
    elements: usize,
    blake3: String,
}

/// The header with the checksum of its own text.
#[derive(Serialize, Deserialize)]
struct Sealed {
    checksum: String,
    header: Header,
}

/// The checkpoints of one stage.
pub(crate) struct Store {
    folder: PathBuf,
    keep: usize,
}

/// A checkpoint that was loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) at: At,
    /// One message for each newer checkpoint that is damaged.
    pub(crate) damaged: Vec<String>,
}

/// How a buffer's file is opened for writing; another one in tests of a full disk.
type Create = fn(&Path) -> io::Result<Box<dyn SyncWrite>>;

/// A file that can be written and synced.
pub(crate) trait SyncWrite: Write {
    /// Brings what was written to the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl SyncWrite for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Store {
    /// The checkpoints in `folder`, which is made if it is missing; unfinished ones are removed.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be made or read.
    pub(crate) fn open(folder: &Path, keep: usize) -> Result<Store> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let store = Store { folder: folder.to_owned(), keep: keep.max(1) };
        for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
            let path = entry.map_err(Error::file(folder))?.path();
            if file_name(&path).starts_with(PARTIAL) {
                fs::remove_dir_all(&path).map_err(Error::file(&path))?;
            }
        }
        Ok(store)
    }

    /// Where the checkpoint of a step is.
    pub(crate) fn path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// Writes a checkpoint and removes those that are no longer kept; returns its size in bytes.
    ///
    /// # Errors
    /// [`Error::Write`]; then nothing of the new checkpoint is left and the previous ones are untouched.
    pub(crate) fn save(&self, at: &At, run: &Identity, buffers: &[(&str, &[f32])]) -> Result<u64> {
        self.save_with(create, at, run, buffers)
    }

    fn save_with(&self, create: Create, at: &At, run: &Identity, buffers: &[(&str, &[f32])]) -> Result<u64> {
        let bytes = self.write(create, &self.path(at.step), at, run, buffers)?;
        self.prune();
        Ok(bytes)
    }

    /// Writes the weights of the best evaluation in place of those of an earlier one.
    ///
    /// # Errors
    /// [`Error::Write`]; then the earlier ones are untouched.
    pub(crate) fn save_best(&self, at: &At, run: &Identity, trained: &[f32]) -> Result<()> {
        let path = self.best_path(at.step);
        self.write(create, &path, at, run, &[(TRAINED, trained)])?;
        for entry in fs::read_dir(&self.folder).map_err(Error::file(&self.folder))? {
            let other = entry.map_err(Error::file(&self.folder))?.path();
            if file_name(&other).starts_with(BEST) && other != path {
                self.discard(&other).map_err(Error::file(&other))?;
            }
        }
        Ok(())
    }

    /// Reads the weights of the best evaluation, which was after `step`.
    ///
    /// # Errors
    /// [`Error::AllDamaged`] when they are missing, damaged or those of another run.
    pub(crate) fn load_best(&self, step: usize, run: &Identity, trained: &mut [f32]) -> Result<()> {
        let path = self.best_path(step);
        let read = read_header(&path)
            .and_then(|header| read_buffers(&path, &header, run, &mut [(TRAINED, trained)]));
        let reason = match read {
            Ok(None) => return Ok(()),
            Ok(Some(difference)) => format!("{}: another run's, by {difference}", file_name(&path)),
            Err(reason) => format!("{}: {reason}", file_name(&path)),
        };
        Err(Error::AllDamaged { folder: self.folder.clone(), count: 1, reason })
    }

    fn write(
        &self,
        create: Create,
        path: &Path,
        at: &At,
        run: &Identity,
        buffers: &[(&str, &[f32])],
    ) -> Result<u64> {
        let partial = self.folder.join(format!("{PARTIAL}{}", file_name(path)));
        let header = Header { format: FORMAT, at: at.clone(), run: run.clone(), buffers: Vec::new() };
        let written = write_folder(create, &partial, header, buffers).and_then(|bytes| {
            if path.exists() {
                self.discard(path)?;
            }
            fs::rename(&partial, path)?;
            sync_folder(&self.folder)?;
            Ok(bytes)
        });
        written.map_err(|source| {
            // What cannot be removed now is removed when the folder is next opened.
            let _ = fs::remove_dir_all(&partial);
            Error::Write { path: path.to_owned(), kept: self.newest_name(usize::MAX), source }
        })
    }

    /// Loads the newest checkpoint that is whole into `buffers`, which must have the names and sizes that were
    /// saved. `None` when there is no checkpoint at all.
    ///
    /// # Errors
    /// [`Error::AllDamaged`] when there are checkpoints but none can be read; [`Error::OtherRun`] when the newest
    /// readable one belongs to another run. The buffers' contents are then undefined.
    pub(crate) fn load(&self, run: &Identity, buffers: &mut [(&str, &mut [f32])]) -> Result<Option<Loaded>> {
        let mut damaged = Vec::new();
        let steps = self.steps()?;
        for &step in steps.iter().rev() {
            let path = self.path(step);
            match read_header(&path)
                .and_then(|header| Ok((read_buffers(&path, &header, run, buffers)?, header)))
            {
                Ok((Some(difference), _)) => {
                    return Err(Error::OtherRun { folder: self.folder.clone(), difference });
                }
                Ok((None, header)) => {
                    return Ok(Some(Loaded { at: header.at, damaged }));
                }
                Err(reason) => damaged.push(format!("checkpoint {} is damaged: {reason}", path.display())),
            }
        }
        match damaged.into_iter().next() {
            None => Ok(None),
            Some(reason) => {
                Err(Error::AllDamaged { folder: self.folder.clone(), count: steps.len(), reason })
            }
        }
    }

    /// Removes checkpoints of later steps than `step`, which a run that goes on from there will write anew.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn forget_after(&self, step: usize) -> Result<()> {
        for later in self.steps()?.into_iter().filter(|&later| later > step) {
            let path = self.path(later);
            self.discard(&path).map_err(Error::file(&path))?;
        }
        Ok(())
    }

    /// The name of the newest checkpoint up to `step`, for messages.
    pub(crate) fn newest_name(&self, step: usize) -> String {
        let steps = self.steps().unwrap_or_default();
        match steps.into_iter().rfind(|saved| *saved <= step) {
            Some(step) => format!("checkpoint {} is untouched", self.path(step).display()),
            None => "there is no earlier checkpoint".to_owned(),
        }
    }

    fn best_path(&self, step: usize) -> PathBuf {
        self.folder.join(format!("{BEST}{step:08}"))
    }

    /// Steps with a checkpoint, ascending.
    fn steps(&self) -> Result<Vec<usize>> {
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::file(&self.folder))? {
            let path = entry.map_err(Error::file(&self.folder))?.path();
            steps.extend(
                file_name(&path).strip_prefix("step-").and_then(|digits| digits.parse::<usize>().ok()),
            );
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes all but the newest; what cannot be removed stays, and is tried again next time.
    fn prune(&self) {
        let steps = self.steps().unwrap_or_default();
        for &step in steps.iter().rev().skip(self.keep) {
            let _ = self.discard(&self.path(step));
        }
    }

    /// Removes a checkpoint without ever leaving half of it under its name.
    fn discard(&self, path: &Path) -> io::Result<()> {
        let aside = self.folder.join(format!("{PARTIAL}old-{}", file_name(path)));
        fs::rename(path, &aside)?;
        fs::remove_dir_all(aside)
    }
}

/// The hash of a buffer's little-endian bytes.
pub(crate) fn hash_floats(elements: &[f32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for_each_block(elements, &mut |block| {
        hasher.update(block);
        Ok(())
    })
    .expect("hashing does not fail");
    hasher.finalize().to_hex().to_string()
}

fn create(path: &Path) -> io::Result<Box<dyn SyncWrite>> {
    Ok(Box::new(File::create(path)?))
}

fn write_folder(
    create: Create,
    folder: &Path,
    mut header: Header,
    buffers: &[(&str, &[f32])],
) -> io::Result<u64> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder)?;
    let mut bytes = 0;
    for &(name, elements) in buffers {
        let mut file = create(&buffer_path(folder, name))?;
        let mut hasher = blake3::Hasher::new();
        for_each_block(elements, &mut |block| {
            hasher.update(block);
            file.write_all(block)
        })?;
        file.sync()?;
        bytes += 4 * elements.len() as u64;
        let blake3 = hasher.finalize().to_hex().to_string();
        header.buffers.push(BufferEntry { name: name.to_owned(), elements: elements.len(), blake3 });
    }
    let text = serde_json::to_string_pretty(&Sealed { checksum: header.checksum(), header })?;
    let mut file = create(&folder.join(HEADER))?;
    file.write_all(text.as_bytes())?;
    file.sync()?;
    sync_folder(folder)?;
    Ok(bytes + text.len() as u64)
}

impl Header {
    fn checksum(&self) -> String {
        let text = serde_json::to_string(self).expect("a header is plain data");
        base::hash::hash_bytes(text.as_bytes())
    }
}

fn read_header(folder: &Path) -> std::result::Result<Header, String> {
    let text = fs::read_to_string(folder.join(HEADER)).map_err(|error| format!("{HEADER}: {error}"))?;
    let sealed: Sealed = serde_json::from_str(&text).map_err(|error| format!("{HEADER}: {error}"))?;
    match (sealed.header.checksum() == sealed.checksum, sealed.header.format) {
        (false, _) => Err(format!("{HEADER}: the checksum does not match")),
        (true, FORMAT) => Ok(sealed.header),
        (true, other) => Err(format!("{HEADER}: format {other}; this program reads {FORMAT}")),
    }
}

/// Reads all buffers of a checkpoint of `run`; otherwise says in what it differs.
fn read_buffers(
    folder: &Path,
    header: &Header,
    run: &Identity,
    buffers: &mut [(&str, &mut [f32])],
) -> std::result::Result<Option<String>, String> {
    if let Some(difference) = header.run.difference(run) {
        return Ok(Some(difference.to_owned()));
    }
    if header.buffers.len() != buffers.len() {
        return Err(format!("{} buffers instead of {}", header.buffers.len(), buffers.len()));
    }
    for (entry, (name, elements)) in header.buffers.iter().zip(buffers) {
        if (entry.name.as_str(), entry.elements) != (*name, elements.len()) {
            return Err(format!("buffer {} has {} elements", entry.name, entry.elements));
        }
        let path = buffer_path(folder, name);
        read_buffer(&path, entry, elements).map_err(|reason| format!("{}: {reason}", file_name(&path)))?;
    }
    Ok(None)
}

fn read_buffer(path: &Path, entry: &BufferEntry, elements: &mut [f32]) -> std::result::Result<(), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let expected = 4 * elements.len() as u64;
    if length != expected {
        return Err(format!("{length} bytes instead of {expected}"));
    }
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    for elements in elements.chunks_mut(BLOCK_BYTES / 4) {
        let bytes = &mut block[..4 * elements.len()];
        file.read_exact(bytes).map_err(|error| error.to_string())?;
        hasher.update(bytes);
        for (element, bytes) in elements.iter_mut().zip(bytes.chunks_exact(4)) {
            *element = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    match hasher.finalize().to_hex().as_str() == entry.blake3 {
        true => Ok(()),
        false => Err("the checksum does not match".to_owned()),
    }
}

impl Identity {
    fn difference(&self, other: &Identity) -> Option<&'static str> {
        let parts = [
            (&self.config, &other.config, "the model's configuration"),
            (&self.options, &other.options, "the training options"),
            (&self.data, &other.data, "the training data"),
            (&self.initial, &other.initial, "the initial weights"),
        ];
        parts.into_iter().find(|(ours, theirs, _)| ours != theirs).map(|(_, _, name)| name)
    }
}

fn for_each_block(elements: &[f32], take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    for elements in elements.chunks(BLOCK_BYTES / 4) {
        for (bytes, element) in block.chunks_exact_mut(4).zip(elements) {
            bytes.copy_from_slice(&element.to_le_bytes());
        }
        take(&block[..4 * elements.len()])?;
    }
    Ok(())
}

fn buffer_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.f32"))
}

/// Makes names in a folder durable; folders can be synced on Unix only.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
