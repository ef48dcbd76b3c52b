//! Where documents come from: folders, single files, the crates of a Cargo registry. Lists files in an order that does
//! not depend on the file system, and reads one at a time. It must not know how documents are judged.

pub mod cargo_registry;
mod decode;
mod file_type;
mod json;
mod read;
mod walk;

pub use decode::decode;
pub use file_type::{FileType, file_type};
pub use read::{Sink, read_file};

use crate::{Dropped, Error, Result};
use std::path::{Path, PathBuf};

/// One file that will be read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name in the corpus: relative to the folder given, with `/` between its parts.
    pub name: String,
    /// Its group, which the split does not tear apart.
    pub group: String,
    /// Its length on disk.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970; zero where unknown.
    pub modified_unix_ns: u128,
    /// How it will be read.
    pub file_type: FileType,
}

/// The files of an input, sorted by name, and what was passed over while listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// For people: what was listed.
    pub source: String,
    /// In order of their names.
    pub files: Vec<SourceFile>,
    /// Passed over, with reasons.
    pub dropped: Vec<Dropped>,
}

/// Lists folders and files that were given by hand. The group of a file is the first part of its path under the folder
/// given. With several folders, names begin with the folder's own.
///
/// # Errors
/// [`Error::MissingInput`], [`Error::EmptyInput`] where nothing readable was found, [`Error::Base`] where a folder that
/// was given cannot be listed.
pub fn list_folders(inputs: &[PathBuf]) -> Result<Listing> {
    let places: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
    let mut listing = Listing { source: places.join(", "), ..Listing::default() };
    for (index, input) in inputs.iter().enumerate() {
        if !input.exists() {
            return Err(Error::MissingInput { path: input.clone() });
        }
        let prefix = if inputs.len() > 1 { prefix_of(index, input) } else { String::new() };
        let mut found = walk::walk(input, &prefix)?;
        for file in &mut found.files {
            file.group = group_of(&file.name, &prefix);
        }
        listing.files.append(&mut found.files);
        listing.dropped.append(&mut found.dropped);
    }
    if listing.files.is_empty() {
        return Err(Error::EmptyInput { places: listing.source });
    }
    sort(&mut listing);
    Ok(listing)
}

pub(crate) fn sort(listing: &mut Listing) {
    listing.files.sort_by(|left, right| left.name.cmp(&right.name));
    listing.dropped.sort_by(|left, right| (&left.path, left.reason).cmp(&(&right.path, right.reason)));
}

/// Names of different inputs must differ even where the folders' names agree.
fn prefix_of(index: usize, input: &Path) -> String {
    let name = input.file_name().map_or_else(|| "input".into(), |name| name.to_string_lossy());
    format!("{}-{name}/", index + 1)
}

fn group_of(name: &str, prefix: &str) -> String {
    let below = name.strip_prefix(prefix).unwrap_or(name);
    format!("{prefix}{}", below.split('/').next().unwrap_or(below))
}
