//! A model from a hub: list, choose, fetch what is missing, remember. Must not know HTTP.

use crate::client::Client;
use crate::download::{checksum_of, fetch};
use crate::listing::{Hub, RemoteFile, list};
use crate::select::{choose, is_gguf_model, matches};
use crate::store::{Known, Store, find_in};
use crate::{Error, ModelName, Result};
use base::progress::{Output, Progress, Unit};
use std::path::PathBuf;

/// What to pull, and where to.
pub struct Request<'a> {
    /// The model.
    pub name: &'a ModelName,
    /// Branch, tag or commit; the hub's default where absent.
    pub revision: Option<&'a str>,
    /// Patterns with `*` and `?` over whole paths, instead of the usual choice.
    pub include: &'a [String],
    /// The folder of all models.
    pub models: PathBuf,
    /// Where progress is shown.
    pub output: Output,
}

impl<'a> Request<'a> {
    /// The usual files of a model's default revision, into a folder of models, with the usual progress.
    pub fn new(name: &'a ModelName, models: PathBuf) -> Request<'a> {
        Request { name, revision: None, include: &[], models, output: Output::Auto }
    }
}

/// A model that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// What to open: a folder or a GGUF file.
    pub model: PathBuf,
    /// The commit, or the revision as asked where the hub tells none; absent offline.
    pub revision: Option<String>,
    /// The files that make it up.
    pub files: Vec<PulledFile>,
}

/// One of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// In the repository, and below the model's folder.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether this pull fetched it; else it was here.
    pub is_new: bool,
}

/// Fetches what is missing of a model. Files that are here and unchanged are left alone; what was cut off is resumed.
///
/// # Errors
/// The hub lacks it or fails, nothing or too much fits, a file arrives damaged, the disk is full, another process is at
/// it, or the user interrupts. What has arrived is kept.
pub fn pull(hub: &Hub, request: &Request<'_>) -> Result<Pulled> {
    let client = Client::new(hub)?;
    let listing = list(hub, &client, request.name, request.revision)?;
    let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
    let chosen = choose(request.name, &paths, request.include)?;
    let chosen: Vec<&RemoteFile> = listing.files.iter().filter(|file| chosen.contains(&file.path)).collect();
    let store = Store { folder: request.models.join(request.name.repository()) };
    base::fs::create_folder(&store.folder)?;
    let _lock = store.lock()?;

    let mut known = store.known();
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for file in chosen.iter().copied() {
        match present_size(&store, file, known.get(&file.path))? {
            Some(size_bytes) => present.push((file, size_bytes)),
            None => missing.push(file),
        }
    }
    let mut pending: Vec<&str> = missing.iter().map(|file| file.path.as_str()).collect();
    store.set_pending(&pending)?;
    let present_bytes = present.iter().map(|(_, size)| size).sum::<u64>();
    let mut done_bytes = present_bytes;
    let mut progress = start_progress(request, &store, present_bytes, &listing.revision, &missing);
    let mut files = Vec::new();
    for (file, size_bytes) in present {
        files.push(PulledFile { path: file.path.clone(), size_bytes, is_new: false });
        known.insert(file.path.clone(), remembered(file, size_bytes, &listing.revision));
    }
    for file in missing {
        progress.message(&file.path);
        let partial = store.partial(&file.path, &content_name(file, &listing.revision));
        let size_bytes =
            fetch(&client, file, (&partial, &store.place(&file.path)), (&mut progress, done_bytes))?;
        done_bytes += size_bytes;
        pending.retain(|path| *path != file.path);
        known.insert(file.path.clone(), remembered(file, size_bytes, &listing.revision));
        store.remember(&known)?;
        store.set_pending(&pending)?;
        files.push(PulledFile { path: file.path.clone(), size_bytes, is_new: true });
    }
    store.remember(&known)?;
    progress.message("");
    progress.finish();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    Ok(Pulled { model: model_of(&store, &paths), revision: Some(listing.revision), files })
}

/// The model as it is here, without a network.
///
/// # Errors
/// It is not here, or only in part.
pub fn pull_offline(request: &Request<'_>) -> Result<Pulled> {
    let store = Store { folder: request.models.join(request.name.repository()) };
    let missing = |missing: String| Error::Offline { missing, folder: request.models.clone() };
    let known = store.known();
    if let Some(revision) = request.revision
        && !known.values().any(|file| file.revision == revision)
    {
        return Err(missing(format!("{} at revision {revision}", request.name)));
    }
    let found = find_in(&request.models, request.name)?;
    let here = store.files();
    if let Some(pattern) =
        request.include.iter().find(|pattern| !here.iter().any(|path| matches(pattern, path)))
    {
        return Err(missing(format!("{} with a file like {pattern}", request.name)));
    }
    let model = match found {
        Some(model) => model,
        None if !request.include.is_empty() => store.folder.clone(),
        None => return Err(missing(request.name.to_string())),
    };
    let mut files = Vec::new();
    for path in here {
        let size_bytes = std::fs::metadata(store.place(&path)).map_or(0, |metadata| metadata.len());
        if known.get(&path).is_some_and(|known| known.size_bytes != size_bytes) {
            return Err(missing(format!("the whole of {}/{path}", request.name.repository())));
        }
        files.push(PulledFile { path, size_bytes, is_new: false });
    }
    Ok(Pulled { model, revision: None, files })
}

/// What to open: the folder, or the (first) GGUF file where nothing but GGUF files was asked for.
fn model_of(store: &Store, paths: &[&str]) -> PathBuf {
    match paths.iter().min() {
        Some(first) if paths.iter().all(|path| is_gguf_model(path)) => store.place(first),
        _ => store.folder.clone(),
    }
}

/// The size of a file that is here and is what the hub lists.
fn present_size(store: &Store, file: &RemoteFile, known: Option<&Known>) -> Result<Option<u64>> {
    let place = store.place(&file.path);
    let Ok(metadata) = std::fs::metadata(&place) else { return Ok(None) };
    let size_bytes = metadata.len();
    if !metadata.is_file() || file.size_bytes.is_some_and(|size| size != size_bytes) {
        return Ok(None);
    }
    let Some(expected) = &file.checksum else {
        // Nothing to compare with: the size must do, of a file that a pull has fetched.
        let is_ours = known.is_some_and(|known| known.size_bytes == size_bytes && file.size_bytes.is_some());
        return Ok(is_ours.then_some(size_bytes));
    };
    let is_known = known.is_some_and(|known| {
        known.size_bytes == size_bytes && known.checksum.as_deref() == Some(expected.digits())
    });
    let is_right = is_known || checksum_of(&place, size_bytes, expected)? == *expected;
    Ok(is_right.then_some(size_bytes))
}

fn remembered(file: &RemoteFile, size_bytes: u64, revision: &str) -> Known {
    let checksum = file.checksum.as_ref().map(|checksum| checksum.digits().to_owned());
    Known { size_bytes, checksum, revision: revision.to_owned() }
}

/// What tells a file's content from another's: its checksum, or else the commit it belongs to.
fn content_name(file: &RemoteFile, revision: &str) -> String {
    file.checksum.as_ref().map_or_else(|| revision.to_owned(), |checksum| checksum.digits().to_owned())
}

/// A bar over all files; what is here already does not count into the rate.
fn start_progress(
    request: &Request<'_>,
    store: &Store,
    present_bytes: u64,
    revision: &str,
    missing: &[&RemoteFile],
) -> Progress {
    let sizes: Option<Vec<u64>> = missing.iter().map(|file| file.size_bytes).collect();
    let total = sizes.map(|sizes| present_bytes + sizes.iter().sum::<u64>());
    let label = format!("pulling {} into {}", request.name, store.folder.display());
    let mut progress = Progress::start(request.output, &label, Unit::Bytes, total);
    let partials = missing.iter().map(|file| store.partial(&file.path, &content_name(file, revision)));
    let partial_bytes =
        partials.filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len());
    progress.resume_at(present_bytes + partial_bytes.sum::<u64>());
    progress
}
