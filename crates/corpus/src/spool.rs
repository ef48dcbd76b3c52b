//! Documents that passed all steps, set aside on disk until the whole is known. It must not know why that is needed.

use crate::{Document, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// zstd's fastest regular level: the file is read once and removed.
const ZSTD_LEVEL: i32 = 1;
const BUFFER_BYTES: usize = 1 << 18;

/// Lines of JSON in a packed temporary file, which goes when this is dropped.
pub struct Spool {
    path: PathBuf,
    encoder: zstd::stream::write::Encoder<'static, File>,
    line: Vec<u8>,
    _guard: RemoveOnDrop,
}

impl Spool {
    /// An empty one beside the files to be written.
    pub fn create(folder: &Path) -> Result<Self> {
        base::fs::create_folder(folder)?;
        let path = base::fs::temporary_path(&folder.join("documents"));
        let guard = RemoveOnDrop(path.clone());
        let encoder = File::create_new(&path)
            .and_then(|file| zstd::stream::write::Encoder::new(file, ZSTD_LEVEL))
            .map_err(|error| base::Error::io("create", &path, error))?;
        Ok(Self { path, encoder, line: Vec::new(), _guard: guard })
    }

    /// Adds a document.
    pub fn push(&mut self, document: &Document) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, document)
            .map_err(std::io::Error::from)
            .and_then(|()| {
                self.line.push(b'\n');
                self.encoder.write_all(&self.line)
            })
            .map_err(|error| base::Error::io("write", &self.path, error).into())
    }

    /// Hands over each line with its index, in order.
    pub fn replay(self, mut visit: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let wrap = |error| base::Error::io("read back", &self.path, error);
        drop(self.encoder.finish().map_err(|error| base::Error::io("write", &self.path, error))?);
        let decoder = File::open(&self.path).and_then(zstd::stream::read::Decoder::new).map_err(wrap)?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, decoder);
        let mut line = self.line;
        for index in 0.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(wrap)? == 0 {
                break;
            }
            visit(index, &line)?;
        }
        Ok(())
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
