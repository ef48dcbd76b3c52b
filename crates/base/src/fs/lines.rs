//! Lines of a text file, unpacked by its name, each bounded so that a hostile file cannot fill the memory.
//! It must not know what a line holds.

use super::text::open_reader;
use crate::{Error, Result};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest line that the iterator of [`open_lines`] accepts: 64 MiB.
const LINE_LIMIT_BYTES: usize = 64 << 20;

/// What [`Lines::read_into`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineRead {
    /// The buffer holds a line without its ending.
    Line,
    /// The line is longer than the limit: skipped up to its end; the buffer is empty.
    TooLong,
    /// The file has ended.
    End,
}

/// Lines of a file, in order. As an iterator it yields UTF-8 text without line endings.
pub struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    path: PathBuf,
    line_count: u64,
}

/// Opens a text file for reading line by line, unpacked by its name (`.gz`, `.zst`).
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened.
pub fn open_lines(path: &Path) -> Result<Lines> {
    Ok(Lines { reader: open_reader(path)?, path: path.to_path_buf(), line_count: 0 })
}

impl Lines {
    /// How many lines were read so far, so the number of the last one counted from one.
    pub fn line_count(&self) -> u64 {
        self.line_count
    }

    /// Reads the next line's bytes, without `\n` or `\r\n`, into `buffer` (cleared first). A line over
    /// `limit_bytes` is skipped without being held in memory.
    ///
    /// # Errors
    /// [`Error::Io`] where reading or unpacking fails, such as a truncated `.gz`.
    pub fn read_into(&mut self, buffer: &mut Vec<u8>, limit_bytes: usize) -> Result<LineRead> {
        buffer.clear();
        let wrap = |error| Error::io("read", &self.path, error);
        let limit = limit_bytes as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', buffer).map_err(wrap)?;
        if read == 0 {
            return Ok(LineRead::End);
        }
        self.line_count += 1;
        if buffer.last() == Some(&b'\n') {
            buffer.pop();
            if buffer.last() == Some(&b'\r') {
                buffer.pop();
            }
        } else if read as u64 == limit {
            buffer.clear();
            self.skip_line()?;
            return Ok(LineRead::TooLong);
        }
        Ok(LineRead::Line)
    }

    fn skip_line(&mut self) -> Result<()> {
        loop {
            let available = self.reader.fill_buf().map_err(|error| Error::io("read", &self.path, error))?;
            let (used, ended) = match available.iter().position(|&byte| byte == b'\n') {
                Some(position) => (position + 1, true),
                None => (available.len(), available.is_empty()),
            };
            self.reader.consume(used);
            if ended {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        match self.read_into(&mut buffer, LINE_LIMIT_BYTES) {
            Ok(LineRead::End) => None,
            Ok(LineRead::Line) => Some(String::from_utf8(buffer).map_err(|error| Error::NotUtf8 {
                path: self.path.clone(),
                offset: error.utf8_error().valid_up_to() as u64,
            })),
            Ok(LineRead::TooLong) => {
                Some(Err(Error::TooLarge { path: self.path.clone(), limit_bytes: LINE_LIMIT_BYTES as u64 }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn splits_and_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.txt");
        let long = "x".repeat(300_000);
        std::fs::write(&path, format!("one\r\n\n{long}\n12345678\n123456789\nlast")).unwrap();
        let mut lines = open_lines(&path).unwrap();
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        loop {
            match lines.read_into(&mut buffer, 8).unwrap() {
                LineRead::End => break,
                kind => found.push((kind, String::from_utf8(buffer.clone()).unwrap())),
            }
        }
        let expected = [
            (LineRead::Line, "one"),
            (LineRead::Line, ""),
            (LineRead::TooLong, ""),
            (LineRead::Line, "12345678"),
            (LineRead::TooLong, ""),
            (LineRead::Line, "last"),
        ];
        assert_eq!(found, expected.map(|(kind, text)| (kind, text.to_string())));
        assert_eq!(lines.line_count(), 6);
        let lengths: Vec<usize> = open_lines(&path).unwrap().map(|line| line.unwrap().len()).collect();
        assert_eq!(lengths, [3, 0, 300_000, 8, 9, 4]);
    }
}
