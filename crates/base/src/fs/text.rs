//! Reading whole files, unpacked by the ending of their name and bounded against decompression bombs.
//! It must not know what the text means.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The bound of [`read_text`]: 1 GiB after unpacking.
pub const READ_TEXT_LIMIT_BYTES: u64 = 1 << 30;
const BUFFER_BYTES: usize = 1 << 17;
/// zstd frames whose window is larger than 2^27 bytes (128 MiB) are refused, as the zstd tool does by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a file is packed, told by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Any other ending.
    None,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Compression {
    /// The compression that a path's ending names, upper or lower case.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("gz") => Compression::Gzip,
            Some(extension) if extension.eq_ignore_ascii_case("zst") => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Opens a file for buffered reading, unpacked by its name. A truncated packed file gives
/// `UnexpectedEof` where it ends.
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened.
pub fn open_reader(path: &Path) -> Result<BufReader<Box<dyn Read + Send>>> {
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let reader: Box<dyn Read + Send> = match Compression::of(path) {
        Compression::None => Box::new(file),
        Compression::Gzip => {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, file);
            Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
        }
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::new(file).map_err(|error| Error::io("unpack", path, error))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| Error::io("unpack", path, error))?;
            Box::new(decoder)
        }
    };
    Ok(BufReader::with_capacity(BUFFER_BYTES, reader))
}

/// Reads a whole file, unpacked by its name, of at most `limit_bytes` after unpacking.
///
/// # Errors
/// [`Error::TooLarge`] over the limit, [`Error::Io`] where reading or unpacking fails.
pub fn read_bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_reader(path)?
        .take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::TooLarge { path: path.to_path_buf(), limit_bytes });
    }
    Ok(bytes)
}

/// Reads a whole UTF-8 text, unpacked by its name, of at most [`READ_TEXT_LIMIT_BYTES`].
///
/// # Errors
/// As [`read_bytes`], and [`Error::NotUtf8`].
pub fn read_text(path: &Path) -> Result<String> {
    read_text_limited(path, READ_TEXT_LIMIT_BYTES)
}

/// [`read_text`] with a limit of the caller's, in bytes after unpacking.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_limited(path: &Path, limit_bytes: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, limit_bytes)?).map_err(|error| Error::NotUtf8 {
        path: path.to_path_buf(),
        offset: error.utf8_error().valid_up_to() as u64,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::write_atomic_compressed;
    use super::*;

    #[test]
    fn a_bomb_is_refused_and_a_truncated_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for ending in ["gz", "zst"] {
            let path = folder.path().join(format!("zeros.txt.{ending}"));
            write_atomic_compressed(&path, |out| out.write_all(&vec![b' '; 4 << 20])).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() < 8192);
            let error = read_text_limited(&path, 1 << 20).unwrap_err();
            assert!(matches!(error, Error::TooLarge { limit_bytes: 1_048_576, .. }), "{error}");
            assert_eq!(read_text_limited(&path, 4 << 20).unwrap().len(), 4 << 20);

            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            let error = read_text(&path).unwrap_err();
            assert!(error.to_string().contains("zeros.txt"), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_located() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latin1.txt");
        std::fs::write(&path, b"caf\xe9").unwrap();
        let error = read_text(&path).unwrap_err();
        assert!(matches!(error, Error::NotUtf8 { offset: 3, .. }), "{error}");
        assert!(matches!(read_text(&folder.path().join("none")).unwrap_err(), Error::Io { .. }));
    }
}
