//! Where fetched models lie, what is remembered about them, and how a name finds its files again. Must not know hubs.

use crate::name::OWN_FOLDER;
use crate::select::{has_tag, one_model, same_split, split_of, usual_model};
use crate::{Error, ModelName, Part, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The variable for the folder of all models.
pub const MODELS_VARIABLE: &str = "TAOYE_MODELS";

/// Deepest folder below a model's own that is looked into.
const DEPTH_MAX: usize = 3;

/// `TAOYE_MODELS`, or `~/.cache/taoye/models`.
///
/// # Errors
/// There is neither that variable nor a home.
pub fn models_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set(MODELS_VARIABLE) {
        return Ok(folder);
    }
    let home = set("HOME").or_else(|| set("USERPROFILE")).ok_or(Error::NoHome)?;
    Ok(home.join(".cache").join("taoye").join("models"))
}

/// What to open for a model that was pulled: its folder where it is one of safetensors, else its (first) GGUF file.
/// None where `name` is no model's name, or nothing of it is here.
///
/// # Errors
/// It is here in part, or several of its files fit.
pub fn find(name: &str) -> Result<Option<PathBuf>> {
    match name.parse() {
        Ok(name) => find_in(&models_folder()?, &name),
        Err(_) => Ok(None),
    }
}

/// [`find`] in a folder of models.
///
/// # Errors
/// As [`find`].
pub fn find_in(models: &Path, name: &ModelName) -> Result<Option<PathBuf>> {
    let folder = models.join(name.repository());
    if !folder.is_dir() {
        return Ok(None);
    }
    let incomplete = || Error::Incomplete { name: name.to_string(), folder: folder.clone() };
    let store = Store { folder: folder.clone() };
    let present = store.files();
    let paths: Vec<&str> = present.iter().map(String::as_str).collect();
    let is_folder = paths.contains(&"config.json") && paths.iter().any(|path| path.ends_with(".safetensors"));
    let pending = store.pending();
    let chosen = match name.part() {
        Part::Default if is_folder && pending.is_empty() => return Ok(Some(folder)),
        Part::Default => usual_model(name, &paths)?,
        Part::Tag(tag) => one_model(name, &paths, &|path| has_tag(path, tag))?,
        Part::File(file) => one_model(name, &paths, &|path| path == file || same_split(path, file))?,
    };
    let Some(first) = chosen.iter().min() else {
        return if pending.is_empty() { Ok(None) } else { Err(incomplete()) };
    };
    match split_of(first) {
        Some((_, parts)) if chosen.len() != parts as usize => Err(incomplete()),
        _ => Ok(Some(folder.join(first))),
    }
}

/// One model's folder.
pub struct Store {
    pub folder: PathBuf,
}

/// What a pull remembers of a finished file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub size_bytes: u64,
    /// 64 or 40 hexadecimal digits; absent where the hub told none.
    pub checksum: Option<String>,
    pub revision: String,
}

/// Holds a model's folder against other processes until it is dropped.
pub struct Lock(#[allow(dead_code)] File);

impl Store {
    /// The path of a repository's file; its name was checked when it was listed.
    pub fn place(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Where a file grows until it is whole. Its name follows from the content, so that what was cut off is never
    /// continued with another revision's bytes.
    pub fn partial(&self, path: &str, content: &str) -> PathBuf {
        let name = base::hash::hash_parts([path, content]);
        self.own(&format!("{}.part", &name[..32]))
    }

    /// # Errors
    /// Another process holds it.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.own("lock");
        base::fs::create_folder(&self.own(""))?;
        let open = File::options().create(true).append(true).open(&path);
        let file = open.map_err(|error| base::Error::io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { folder: self.folder.clone() }),
            Err(TryLockError::Error(error)) => Err(base::Error::io("lock", &path, error).into()),
        }
    }

    /// What finished pulls remember, by path; nothing where that cannot be read: the files are then checked anew.
    pub fn known(&self) -> BTreeMap<String, Known> {
        let text = std::fs::read_to_string(self.own("files.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn remember(&self, known: &BTreeMap<String, Known>) -> Result<()> {
        let text = serde_json::to_string_pretty(known).expect("a map of names is JSON");
        Ok(base::fs::write_bytes(&self.own("files.json"), text.as_bytes())?)
    }

    /// Files that a pull set out to fetch and has not finished.
    pub fn pending(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.own("pending.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn set_pending(&self, paths: &[&str]) -> Result<()> {
        let path = self.own("pending.json");
        if paths.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(base::Error::io("remove", &path, error).into())
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_string(paths).expect("a list of names is JSON");
        Ok(base::fs::write_bytes(&path, text.as_bytes())?)
    }

    /// Paths of the files that are here, sorted, with `/` between folders.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.folder, "", DEPTH_MAX, &mut found);
        found.sort();
        found
    }

    fn own(&self, name: &str) -> PathBuf {
        self.folder.join(OWN_FOLDER).join(name)
    }
}

fn collect(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Follows links: people link models from elsewhere.
        let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
        if metadata.is_file() {
            found.push(format!("{prefix}{name}"));
        } else if metadata.is_dir() && depth > 0 && name != OWN_FOLDER {
            collect(&entry.path(), &format!("{prefix}{name}/"), depth - 1, found);
        }
    }
}
