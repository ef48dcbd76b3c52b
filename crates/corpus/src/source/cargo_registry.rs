//! The default corpus: the unpacked crates of the local Cargo registry, or of `vendor/`. A crate's name without its
//! version is the group; of several versions the newest is taken. It must not know how documents are judged.

use super::{Listing, sort, walk};
use crate::{Dropped, Error, Reason, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One unpacked crate.
#[derive(Clone, Debug, PartialEq)]
pub struct CrateFolder {
    /// The crate's name without its version.
    pub name: String,
    /// Its version; empty for a folder of `vendor/` without one.
    pub version: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Looks for crates: first in `vendor/` of the working folder, else in the registry of `CARGO_HOME` or `~/.cargo`.
///
/// # Errors
/// [`Error::NoCrates`] where neither holds any.
pub fn find(working_folder: &Path) -> Result<Listing> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    find_in(&working_folder.join("vendor"), home.as_deref())
}

/// As [`find`], with both places given.
///
/// # Errors
/// [`Error::NoCrates`], [`Error::Base`].
pub fn find_in(vendor: &Path, cargo_home: Option<&Path>) -> Result<Listing> {
    let registry = cargo_home.map(|home| home.join("registry").join("src"));
    for crates in [crates_below(vendor), registry.as_deref().map(crates_of_registry).unwrap_or_default()] {
        if !crates.is_empty() {
            return list(&crates);
        }
    }
    let places = [Some(vendor), registry.as_deref()];
    let places: Vec<String> = places.iter().flatten().map(|place| place.display().to_string()).collect();
    Err(Error::NoCrates { looked_in: places.join(" and ") })
}

/// Lists the files of the newest version of each crate; older ones are one dropped entry each.
///
/// # Errors
/// [`Error::EmptyInput`] where the crates hold no readable file.
pub fn list(crates: &[CrateFolder]) -> Result<Listing> {
    let mut newest: BTreeMap<&str, &CrateFolder> = BTreeMap::new();
    let mut listing = Listing::default();
    for candidate in crates {
        let Some(present) = newest.get_mut(candidate.name.as_str()) else {
            newest.insert(&candidate.name, candidate);
            continue;
        };
        let older = if version_key(&candidate.version) > version_key(&present.version) {
            std::mem::replace(present, candidate)
        } else {
            candidate
        };
        listing.dropped.push(Dropped::new(&folder_name(&older.path), Reason::OldVersion, 0));
    }
    listing.source = format!("the sources of {} crates", newest.len());
    for (name, chosen) in &newest {
        let prefix = format!("{}/", folder_name(&chosen.path));
        match walk::walk(&chosen.path, &prefix) {
            Ok(found) => {
                listing.dropped.extend(found.dropped);
                listing.files.extend(found.files.into_iter().map(|mut file| {
                    file.group = (*name).to_string();
                    file
                }));
            }
            Err(_) => listing.dropped.push(Dropped::new(&folder_name(&chosen.path), Reason::Unreadable, 0)),
        }
    }
    if listing.files.is_empty() {
        return Err(Error::EmptyInput { places: listing.source });
    }
    sort(&mut listing);
    Ok(listing)
}

/// `registry/src/<index>-<hash>/<name>-<version>`, for every index.
fn crates_of_registry(source_folder: &Path) -> Vec<CrateFolder> {
    sub_folders(source_folder).iter().flat_map(|index| crates_below(index)).collect()
}

fn crates_below(folder: &Path) -> Vec<CrateFolder> {
    let with_manifest = sub_folders(folder).into_iter().filter(|path| path.join("Cargo.toml").is_file());
    with_manifest
        .map(|path| {
            let folder_name = folder_name(&path);
            let (name, version) = split_version(&folder_name);
            CrateFolder { name: name.to_string(), version: version.to_string(), path }
        })
        .collect()
}

/// Sorted; nothing where the folder is missing or cannot be listed.
fn sub_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn folder_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `serde-1.0.228` to `serde` and `1.0.228`: the version begins at the first `-` after which three numbers follow.
fn split_version(folder_name: &str) -> (&str, &str) {
    let starts = folder_name.match_indices('-').map(|(at, _)| at);
    let version = |at: usize| &folder_name[at + 1..];
    match starts.into_iter().find(|&at| numbers(version(at)).is_some()) {
        Some(at) => (&folder_name[..at], version(at)),
        None => (folder_name, ""),
    }
}

/// Major, minor and patch of a version, if it has them.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let core = version.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

/// Versions in order: numbers first; a release is above its own pre-releases (Semantic Versioning 2.0.0, section 11).
/// Pre-releases of one version are compared as text with numbers padded, which suffices to choose one.
fn version_key(version: &str) -> ([u64; 3], bool, String) {
    let pre_release = version.split('+').next().unwrap_or("").split_once('-').map_or("", |(_, tail)| tail);
    let padded: Vec<String> = pre_release.split('.').map(|part| format!("{part:0>12}")).collect();
    (numbers(version).unwrap_or_default(), pre_release.is_empty(), padded.join("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base::fs::write_bytes;

    #[test]
    fn names_and_versions_come_apart() {
        for (folder, expected) in [
            ("serde-1.0.228", ("serde", "1.0.228")),
            ("md-5-0.10.6", ("md-5", "0.10.6")),
            ("wasi-0.11.0+wasi-snapshot-preview1", ("wasi", "0.11.0+wasi-snapshot-preview1")),
            ("rand-0.9.0-alpha.1", ("rand", "0.9.0-alpha.1")),
            ("windows-sys", ("windows-sys", "")),
            ("x86-64", ("x86-64", "")),
        ] {
            assert_eq!(split_version(folder), expected);
        }
        let ascending = ["", "0.9.9", "0.10.0-alpha.2", "0.10.0-alpha.10", "0.10.0", "0.10.1", "1.0.0+build"];
        for pair in ascending.windows(2) {
            assert!(version_key(pair[0]) < version_key(pair[1]), "{pair:?}");
        }
    }

    fn add_crate(folder: &Path, name: &str) {
        write_bytes(&folder.join(name).join("Cargo.toml"), b"[package]\n").unwrap();
        write_bytes(&folder.join(name).join("src/lib.rs"), b"pub fn a() {}\n").unwrap();
    }

    #[test]
    fn the_newest_version_of_each_crate_is_listed() {
        let root = tempfile::tempdir().unwrap();
        let index = root.path().join("home/registry/src/index.crates.io-abc");
        for name in ["serde-1.0.9", "serde-1.0.10", "syn-2.0.0", "syn-1.0.109"] {
            add_crate(&index, name);
        }
        std::fs::create_dir_all(index.join("no-crate-1.0.0")).unwrap();
        let home = root.path().join("home");
        let listing = find_in(&root.path().join("vendor"), Some(&home)).unwrap();
        let files: Vec<_> =
            listing.files.iter().map(|file| (file.name.as_str(), file.group.as_str())).collect();
        let expected = [
            ("serde-1.0.10/Cargo.toml", "serde"),
            ("serde-1.0.10/src/lib.rs", "serde"),
            ("syn-2.0.0/Cargo.toml", "syn"),
            ("syn-2.0.0/src/lib.rs", "syn"),
        ];
        assert_eq!(files, expected);
        let dropped: Vec<_> =
            listing.dropped.iter().map(|dropped| (dropped.path.as_str(), dropped.reason)).collect();
        assert_eq!(dropped, [("serde-1.0.9", Reason::OldVersion), ("syn-1.0.109", Reason::OldVersion)]);

        add_crate(&root.path().join("vendor"), "memchr");
        let listing = find_in(&root.path().join("vendor"), Some(&home)).unwrap();
        assert!(listing.files.iter().all(|file| file.group == "memchr"), "vendor/ comes first");
    }

    #[test]
    fn without_any_crates_the_error_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = find_in(&root.path().join("vendor"), Some(root.path())).unwrap_err();
        let message = error.to_string();
        for part in ["vendor", "registry", "cargo fetch", "your own folders"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
