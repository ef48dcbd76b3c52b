//! The rules that the repository's files keep, one rule a file.
//!
//! A rule is a pure function from files to faults; only this file reads the disk.

mod baseline;
mod dependencies;
mod headers;
mod interface;
mod keys;
mod links;
mod models;
mod readmes;
mod sizes;
mod source;
mod unsafety;
mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use source::Source;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, from the workspace's root.
    pub path: String,
    /// The line, from 1; 0 where the whole file is meant.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    fn new(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Fault {
        Fault { path: path.to_owned(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.message)
    }
}

/// Every fault in the workspace at `root`, sorted by place.
pub fn check(root: &Path) -> Result<Vec<Fault>> {
    let files = Files::read(root)?;
    let mut faults = files.unreadable.clone();
    for source in &files.sources {
        faults.extend(headers::check(source));
        faults.extend(words::check(source));
        faults.extend(unsafety::check(source));
    }
    let baseline = baseline::parse(files.text(BASELINE).unwrap_or_default())?;
    faults.extend(sizes::check(&files.sources, &baseline));
    let manifests: Vec<(&str, &str)> = files.texts_named("Cargo.toml").collect();
    faults.extend(dependencies::check(files.text(ARCHITECTURE).unwrap_or_default(), &manifests)?);
    faults.extend(readmes::check(files.text("README.md"), files.text("README.zh-CN.md")));
    faults.extend(keys::check(|path| files.text(path).map(str::to_owned), &files.key_sources()));
    faults.extend(models::check(|path| files.text(path).map(str::to_owned), &files.named(&models::SOURCES)));
    faults.extend(interface::check(|path| files.text(path).map(str::to_owned), &interface_source(root)?));
    for (path, text) in files.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        faults.extend(links::check(path, text, |target| root.join(target).exists()));
    }
    faults.sort();
    Ok(faults)
}

/// Writes the over-long functions and files of today as the baseline.
pub fn write_baseline(root: &Path) -> Result<()> {
    let files = Files::read(root)?;
    let path = root.join(BASELINE);
    fs::write(&path, baseline::render(&sizes::offenders(&files.sources)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the tables of keys in the documents anew from the code.
pub fn write_docs(root: &Path) -> Result<()> {
    let files = Files::read(root)?;
    for (path, words) in &keys::DOCUMENTS {
        let text = files.text(path).with_context(|| format!("{path} is missing"))?;
        let text = keys::render(text, words, &files.key_sources())
            .map_err(|message| anyhow::anyhow!("{path}: {message}"))?;
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    for (path, heads) in &models::DOCUMENTS {
        let text = files.text(path).with_context(|| format!("{path} is missing"))?;
        let text = models::render(text, heads, &files.named(&models::SOURCES))
            .map_err(|message| anyhow::anyhow!("{path}: {message}"))?;
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    let source = interface_source(root)?;
    for (path, words) in &interface::DOCUMENTS {
        let text = files.text(path).with_context(|| format!("{path} is missing"))?;
        let text = interface::render(text, words, &source)
            .map_err(|message| anyhow::anyhow!("{path}: {message}"))?;
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// The server's table of its interface.
fn interface_source(root: &Path) -> Result<String> {
    fs::read_to_string(root.join(interface::SOURCE))
        .with_context(|| format!("cannot read {}", interface::SOURCE))
}

const BASELINE: &str = "xtask/tidy-baseline.toml";
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
/// Folders that hold no source of ours.
const SKIPPED: [&str; 6] = ["target", "runs", "vendor", "node_modules", ".git", ".venv"];

/// The workspace's text files, paths from its root with `/` between.
struct Files {
    /// Markdown and TOML.
    texts: Vec<(String, String)>,
    /// Rust.
    sources: Vec<Source>,
    /// Faults of files that could not be parsed.
    unreadable: Vec<Fault>,
}

impl Files {
    fn read(root: &Path) -> Result<Files> {
        let mut paths = BTreeSet::new();
        collect(root, "", &mut paths)?;
        let mut texts = Vec::new();
        let mut rust = Vec::new();
        for path in paths {
            let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            if path.ends_with(".rs") { rust.push((path, text)) } else { texts.push((path, text)) }
        }
        let (sources, unreadable) = source::parse_all(rust);
        Ok(Files { texts, sources, unreadable })
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.texts.iter().find(|(known, _)| known == path).map(|(_, text)| text.as_str())
    }

    /// The sources of the tables of keys, as (path, text).
    fn key_sources(&self) -> Vec<(&str, &str)> {
        self.named(&keys::SOURCES)
    }

    /// The Rust files of these paths, as (path, text).
    fn named(&self, paths: &[&str]) -> Vec<(&str, &str)> {
        let sources = self.sources.iter().map(|source| (source.path.as_str(), source.text.as_str()));
        sources.filter(|(path, _)| paths.contains(path)).collect()
    }

    fn texts_named(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| path.rsplit('/').next() == Some(name))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// Collects the paths of Rust, Markdown and TOML files below `root/folder`.
fn collect(root: &Path, folder: &str, paths: &mut BTreeSet<String>) -> Result<()> {
    let place = root.join(folder);
    let entries = fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", place.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().with_context(|| format!("cannot look at {path}"))?;
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(root, &path, paths)?;
        } else if kind.is_file() && [".rs", ".md", ".toml"].iter().any(|ending| name.ends_with(ending)) {
            paths.insert(path);
        }
    }
    Ok(())
}
