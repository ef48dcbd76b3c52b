//! Read-only memory maps. The only `unsafe` of this crate; it must not know what the bytes mean.

use crate::{Error, Result};
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// A file's bytes, mapped read-only. Dereferences to `[u8]`; an empty file gives an empty slice.
///
/// Files that this project maps are written by [`super::write_atomic`] and replaced by renaming, never changed in
/// place, so the mapped content is stable. Truncating a mapped file from outside ends the process with SIGBUS.
pub struct Mmap {
    map: Option<memmap2::Mmap>,
}

impl Mmap {
    /// Maps a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened or mapped.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let length = file.metadata().map_err(|error| Error::io("inspect", path, error))?.len();
        if length == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the map is private to reading, and the project never writes in place to a file that it maps
        // (see the type's documentation), so the bytes do not change under the slice.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| Error::io("map", path, error))?;
        Ok(Self { map: Some(map) })
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl std::fmt::Debug for Mmap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Mmap({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn maps_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0usize, 1, 4095, 4096, 100_001] {
            let path = folder.path().join("data.bin");
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            super::super::write_bytes(&path, &bytes).unwrap();
            assert_eq!(&*Mmap::open(&path).unwrap(), bytes);
        }
        assert!(matches!(Mmap::open(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
