//! Walks one folder, or takes one file, without following links below it. It must not open files or know groups.

use super::{Listing, SourceFile, file_type};
use crate::{Dropped, Reason, Result};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Folders of build outputs and of other people's packages, as tools name them.
const BUILD_FOLDERS: [&str; 5] =
    ["target", "node_modules", "__pycache__", "bower_components", "site-packages"];
/// Folders nested deeper than this are passed over; file systems allow paths that no program wants.
const DEPTH_MAX: usize = 64;

/// Lists what lies under `root`; each name begins with `prefix`. The files' groups are left empty.
///
/// # Errors
/// [`crate::Error::Base`] where the root itself cannot be listed; below it, that is a reason.
pub fn walk(root: &Path, prefix: &str) -> Result<Listing> {
    let mut listing = Listing::default();
    let metadata = std::fs::metadata(root).map_err(|error| base::Error::io("read", root, error))?;
    if !metadata.is_dir() {
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        add_file(&mut listing, root.to_path_buf(), format!("{prefix}{name}"), &metadata);
        return Ok(listing);
    }
    let entries = std::fs::read_dir(root).map_err(|error| base::Error::io("list", root, error))?;
    let mut folders = vec![(entries, prefix.to_string(), 0)];
    while let Some((entries, prefix, depth)) = folders.pop() {
        for entry in entries {
            let Ok(entry) = entry else {
                listing.dropped.push(Dropped::new(&prefix, Reason::Unreadable, 0));
                continue;
            };
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match judge_entry(&path) {
                Ok((metadata, false)) => add_file(&mut listing, path, name, &metadata),
                Ok((_, true)) if depth == DEPTH_MAX => {
                    listing.dropped.push(Dropped::new(&name, Reason::Unreadable, 0));
                }
                Ok((_, true)) => match std::fs::read_dir(&path) {
                    Ok(entries) => folders.push((entries, format!("{name}/"), depth + 1)),
                    Err(_) => listing.dropped.push(Dropped::new(&name, Reason::Unreadable, 0)),
                },
                Err(reason) => listing.dropped.push(Dropped::new(&name, reason, 0)),
            }
        }
    }
    Ok(listing)
}

/// The entry's own metadata and whether it is a folder, or why it is passed over.
fn judge_entry(path: &Path) -> std::result::Result<(Metadata, bool), Reason> {
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let metadata = std::fs::symlink_metadata(path).map_err(|_| Reason::Unreadable)?;
    if metadata.is_symlink() {
        return Err(Reason::Symlink);
    }
    if file_name.starts_with('.') {
        return Err(Reason::Hidden);
    }
    if metadata.is_dir() {
        let is_build = BUILD_FOLDERS.contains(&&*file_name) && is_build_folder(path, &file_name);
        return if is_build { Err(Reason::BuildOutput) } else { Ok((metadata, true)) };
    }
    // Sockets, pipes and devices could block or never end.
    if metadata.is_file() { Ok((metadata, false)) } else { Err(Reason::UnsupportedType) }
}

/// `target` is also a word: only Cargo's, which it marks, is passed over.
fn is_build_folder(path: &Path, name: &str) -> bool {
    name != "target" || path.join("CACHEDIR.TAG").exists()
}

fn add_file(listing: &mut Listing, path: PathBuf, name: String, metadata: &Metadata) {
    let bytes = metadata.len();
    let file_name = name.rsplit('/').next().unwrap_or(&name);
    match file_type(file_name) {
        Ok(file_type) => {
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified_unix_ns = modified.map_or(0, |elapsed| elapsed.as_nanos());
            let group = String::new();
            listing.files.push(SourceFile { path, name, group, bytes, modified_unix_ns, file_type });
        }
        Err(reason) => listing.dropped.push(Dropped::new(&name, reason, bytes)),
    }
}
