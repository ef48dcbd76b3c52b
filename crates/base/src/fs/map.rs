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

    /// Gives back the memory of the pages that were read: they stay in the system's cache of files as long as there is
    /// room, and are read again where they are touched again. Nothing happens where the system has no such call.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: the map is read-only and of a file that does not change, so the same bytes come back.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            // Advice that the system does not take costs memory alone.
            let _ = advised;
        }
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
            let map = Mmap::open(&path).unwrap();
            assert_eq!(&*map, bytes);
            map.release();
            assert_eq!(&*map, bytes, "what was given back is read again");
        }
        assert!(matches!(Mmap::open(&folder.path().join("none")), Err(Error::Io { .. })));
    }
}
