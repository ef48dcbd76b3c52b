//! Atomic replacement of a file: a temporary name in the same folder, sync, rename, sync of the folder.
//! It must not know what is written.

use super::text::Compression;
use crate::{Error, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const BUFFER_BYTES: usize = 1 << 18;
const TEMPORARY_SUFFIX: &str = ".taoye-tmp";
/// zstd's level for files that are written once and read many times; its own default.
const ZSTD_LEVEL: i32 = 3;

/// Writes a file so that readers see the old content or the whole new one, never a part.
///
/// Missing parent folders are made. `write` fills a buffered temporary file in the same folder; then it is synced,
/// renamed over `path`, and the folder is synced. On any error the temporary is removed and the old file remains.
///
/// # Errors
/// [`Error::DiskFull`] where space ran out, else [`Error::Io`]; both name `path`.
pub fn write_atomic<F>(path: &Path, write: F) -> Result<()>
where
    F: FnOnce(&mut BufWriter<File>) -> io::Result<()>,
{
    let mut file = AtomicFile::create(path)?;
    write(file.writer()).map_err(|error| Error::io("write", path, error))?;
    file.commit()
}

/// [`write_atomic`], packed as the name's ending says: `.gz`, `.zst`, else plain.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_atomic_compressed<F>(path: &Path, write: F) -> Result<()>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()>,
{
    let mut file = PackedFile::create(path)?;
    write(&mut file).map_err(|error| Error::io("write", path, error))?;
    file.commit()
}

/// [`write_atomic`] for several files at once or over a long time: write, then [`AtomicFile::commit`].
/// Dropped without a commit, it removes its temporary and leaves the old file as it was.
pub struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    /// None once committed.
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Makes the temporary beside `path`, and missing parent folders.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn create(path: &Path) -> Result<Self> {
        create_folder(parent_of(path))?;
        let temporary = temporary_path(path);
        let file = File::create_new(&temporary).map_err(|error| Error::io("create", path, error))?;
        let writer = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { path: path.to_path_buf(), temporary, writer })
    }

    /// Syncs what was written and renames it into place.
    ///
    /// # Errors
    /// As [`write_atomic`]; the old file remains.
    pub fn commit(mut self) -> Result<()> {
        let writer = self.writer();
        writer
            .flush()
            .and_then(|()| writer.get_ref().sync_all())
            .map_err(|error| Error::io("write", &self.path, error))?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|error| Error::io("replace", &self.path, error))?;
        self.writer = None;
        sync_folder(parent_of(&self.path)).map_err(|error| Error::io("sync the folder of", &self.path, error))
    }

    fn writer(&mut self) -> &mut BufWriter<File> {
        self.writer.as_mut().expect("the writer is taken by commit alone, which consumes the file")
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Dismantled by hand: dropping the writer would try to flush once more into a full disk.
            let _ = writer.into_parts();
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// An [`AtomicFile`] packed as its name's ending says: `.gz`, `.zst`, else plain.
pub struct PackedFile {
    path: PathBuf,
    encoder: Encoder,
}

enum Encoder {
    Plain(AtomicFile),
    Gzip(flate2::write::GzEncoder<AtomicFile>),
    Zstd(zstd::stream::write::Encoder<'static, AtomicFile>),
}

impl PackedFile {
    /// As [`AtomicFile::create`].
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = AtomicFile::create(path)?;
        let encoder = match Compression::of(path) {
            Compression::None => Encoder::Plain(file),
            Compression::Gzip => {
                Encoder::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default()))
            }
            Compression::Zstd => Encoder::Zstd(
                zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)
                    .and_then(|mut encoder| encoder.include_checksum(true).map(|()| encoder))
                    .map_err(|error| Error::io("pack", path, error))?,
            ),
        };
        Ok(Self { path: path.to_path_buf(), encoder })
    }

    /// As [`AtomicFile::commit`].
    ///
    /// # Errors
    /// As [`write_atomic`]; the old file remains.
    pub fn commit(self) -> Result<()> {
        let file = match self.encoder {
            Encoder::Plain(file) => Ok(file),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        };
        file.map_err(|error| Error::io("write", &self.path, error))?.commit()
    }
}

impl Write for PackedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encoder {
            Encoder::Plain(file) => file.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Plain(file) => file.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// [`write_atomic`] of bytes that are already in memory.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |file| file.write_all(bytes))
}

/// Makes a folder and its missing parents; an existing one is fine.
///
/// # Errors
/// [`Error::Io`] naming the folder.
pub fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("create folder", folder, error))
}

/// A fresh name beside `path`, which [`remove_stale_temporaries`] recognises.
pub fn temporary_path(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent_of(path).join(format!(".{name}.{}.{count}{TEMPORARY_SUFFIX}", std::process::id()))
}

/// Removes temporaries that a killed process left directly in `folder`; returns how many.
/// Call it only while no other process writes there (a run's lock is held).
///
/// # Errors
/// [`Error::Io`] where the folder cannot be listed or a file not removed.
pub fn remove_stale_temporaries(folder: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))? {
        let entry = entry.map_err(|error| Error::io("list", folder, error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            std::fs::remove_file(entry.path()).map_err(|error| Error::io("remove", &entry.path(), error))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename durable; folders can be opened and synced on Unix only.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_makes_parents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.txt");
        for text in ["first", "second, longer"] {
            write_bytes(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(path.parent().unwrap()), ["file.txt"]);
    }

    #[test]
    fn packs_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let text = "陶冶 taoye\n".repeat(1000);
        for name in ["plain.txt", "packed.txt.gz", "packed.txt.zst"] {
            let path = folder.path().join(name);
            write_atomic_compressed(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(super::super::read_text(&path).unwrap(), text, "{name}");
            let size = std::fs::metadata(&path).unwrap().len() as usize;
            assert_eq!(size < text.len() / 10, name != "plain.txt", "{name}: {size} bytes");
        }
    }

    #[test]
    fn an_error_keeps_the_old_file_and_removes_the_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |file| {
            file.write_all(&vec![7; 3 * BUFFER_BYTES])?;
            Err(io::Error::other("pulled the plug"))
        });
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("weights.bin") && message.contains("pulled the plug"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["weights.bin"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |_| {
            File::options().write(true).open("/dev/full")?.write_all(b"no room here")
        });
        let error = failed.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        let message = error.to_string();
        for part in ["weights.bin", "disk is full", "Free space"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["weights.bin"]);
    }

    #[test]
    fn what_is_not_committed_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain.txt", "packed.gz", "packed.zst"] {
            let mut file = PackedFile::create(&folder.path().join(name)).unwrap();
            file.write_all(&vec![3; 2 * BUFFER_BYTES]).unwrap();
            assert_eq!(names(folder.path()).len(), 1);
            drop(file);
            assert!(names(folder.path()).is_empty(), "{name}");
        }
    }

    #[test]
    fn stale_temporaries_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        std::fs::write(temporary_path(&path), b"half").unwrap();
        std::fs::write(folder.path().join(".hidden"), b"mine").unwrap();
        write_bytes(&path, b"whole").unwrap();
        assert_eq!(remove_stale_temporaries(folder.path()).unwrap(), 1);
        assert_eq!(names(folder.path()), [".hidden", "model.bin"]);
    }
}
