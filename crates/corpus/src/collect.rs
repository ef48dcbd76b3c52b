//! A build's first pass: reads the files in a fixed random order, walks each document through the steps, and sets aside
//! what is kept. It must not know the split.

use crate::build::{DROPPED_FILE, Tick};
use crate::report::Report;
use crate::source::{Listing, SourceFile, read_file};
use crate::split::{feasible_share, place};
use crate::spool::Spool;
use crate::step::{self, Verdict, duplicate};
use crate::{Document, Dropped, Error, Kind, Options, Reason, Result, text};
use base::fs::PackedFile;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The caller hears of progress at least once in so many documents.
const DOCUMENTS_PER_TICK: u64 = 256;

/// What the first pass leaves.
pub struct Collected {
    /// The kept documents.
    pub spool: Spool,
    /// What the second pass needs to know of each, in the spool's order.
    pub kept: Vec<KeptDocument>,
    /// By the numbers in [`KeptDocument::group`].
    pub groups: Vec<String>,
    /// The list of what was dropped, still open.
    pub dropped: DroppedList,
    /// Counts so far.
    pub report: Report,
}

/// A kept document without its text.
pub struct KeptDocument {
    pub group: u32,
    pub kind: Kind,
    pub bytes: u64,
    pub characters: u64,
    pub han: u64,
    /// Where its path falls in [0, 1), for the split of documents.
    pub place: f64,
}

/// Runs the first pass.
pub fn collect(
    listing: &Listing,
    options: &Options,
    folder: &Path,
    tick: &mut dyn FnMut(Tick) -> ControlFlow<()>,
) -> Result<Collected> {
    let mut collector = Collector::new(listing, options, folder)?;
    let Collected { dropped, report, .. } = &mut collector.collected;
    for record in &listing.dropped {
        dropped.push(record, report)?;
    }
    let mut progress =
        Tick { bytes_total: listing.files.iter().map(|file| file.bytes).sum(), ..Tick::default() };
    for file in in_random_order(&listing.files) {
        if collector.is_full {
            let Collected { dropped, report, .. } = &mut collector.collected;
            dropped.push(&Dropped::new(&file.name, Reason::OverBudget, file.bytes), report)?;
            continue;
        }
        let mut failure = None;
        read_file(file, options.max_document_bytes, &mut |result| {
            progress.documents += 1;
            progress.kept_bytes = collector.kept_bytes;
            let told = progress.documents.is_multiple_of(DOCUMENTS_PER_TICK) && tick(progress).is_break();
            let outcome = if told { Err(Error::Interrupted) } else { collector.take(result) };
            failure = outcome.err();
            failure.is_none()
        });
        if let Some(error) = failure {
            return Err(error);
        }
        progress.bytes_read += file.bytes;
    }
    progress.kept_bytes = collector.kept_bytes;
    if tick(progress).is_break() {
        return Err(Error::Interrupted);
    }
    Ok(collector.collected)
}

/// By the hash of their names: fixed, independent of the file system, and any prefix is a fair sample.
fn in_random_order(files: &[SourceFile]) -> Vec<&SourceFile> {
    let mut order: Vec<&SourceFile> = files.iter().collect();
    order.sort_by_cached_key(|file| base::hash::hash_128(file.name.as_bytes()));
    order
}

struct Collector {
    collected: Collected,
    group_numbers: HashMap<String, u32>,
    group_bytes: Vec<u64>,
    group_bytes_max: u64,
    seen: HashSet<u128>,
    max_bytes: u64,
    kept_bytes: u64,
    is_full: bool,
}

impl Collector {
    fn new(listing: &Listing, options: &Options, folder: &Path) -> Result<Self> {
        let mut report = Report { source: listing.source.clone(), ..Report::default() };
        listing.files.iter().for_each(|file| report.files.add(file.bytes));
        let groups: BTreeSet<&str> = listing.files.iter().map(|file| file.group.as_str()).collect();
        // A group that alone would fill the budget must not keep the others out; the exact cut comes later.
        let share = feasible_share(options.max_group_share, groups.len());
        let group_bytes_max =
            options.max_bytes.map_or(u64::MAX, |bytes| (share * bytes as f64).ceil() as u64);
        let collected = Collected {
            spool: Spool::create(folder)?,
            kept: Vec::new(),
            groups: Vec::new(),
            dropped: DroppedList::create(folder)?,
            report,
        };
        Ok(Self {
            collected,
            group_numbers: HashMap::new(),
            group_bytes: Vec::new(),
            group_bytes_max,
            seen: HashSet::new(),
            max_bytes: options.max_bytes.unwrap_or(u64::MAX),
            kept_bytes: 0,
            is_full: false,
        })
    }

    /// Judges one document and keeps or drops it.
    fn take(&mut self, result: std::result::Result<Document, Dropped>) -> Result<()> {
        let Collected { dropped, report, .. } = &mut self.collected;
        let mut document = match result {
            Ok(document) => document,
            Err(record) => return dropped.push(&record, report),
        };
        let read_bytes = document.text.len() as u64;
        let reason = if self.is_full {
            Some(Reason::OverBudget)
        } else {
            match step::apply(&mut document) {
                Verdict::Drop(reason) => Some(reason),
                Verdict::Keep => self.keep(&document)?,
            }
        };
        let Collected { dropped, report, .. } = &mut self.collected;
        match reason {
            Some(reason) => dropped.push(&Dropped::new(&document.path, reason, read_bytes), report),
            None => Ok(()),
        }
    }

    /// Sets a document aside, unless what was kept before speaks against it.
    fn keep(&mut self, document: &Document) -> Result<Option<Reason>> {
        let key = duplicate::key(&document.text);
        if self.seen.contains(&key) {
            return Ok(Some(Reason::Duplicate));
        }
        let bytes = document.text.len() as u64;
        let group = self.group_number(&document.group);
        let group_bytes = &mut self.group_bytes[group as usize];
        if *group_bytes + bytes > self.group_bytes_max {
            return Ok(Some(Reason::OverShare));
        }
        if self.kept_bytes + bytes > self.max_bytes {
            self.is_full = true;
            return Ok(Some(Reason::OverBudget));
        }
        *group_bytes += bytes;
        self.kept_bytes += bytes;
        self.seen.insert(key);
        let (characters, han) = text::count_characters(&document.text);
        let place = place(&document.path);
        self.collected.kept.push(KeptDocument { group, kind: document.kind, bytes, characters, han, place });
        self.collected.spool.push(document)?;
        Ok(None)
    }

    fn group_number(&mut self, group: &str) -> u32 {
        if let Some(&number) = self.group_numbers.get(group) {
            return number;
        }
        let number = self.collected.groups.len() as u32;
        self.group_numbers.insert(group.to_string(), number);
        self.collected.groups.push(group.to_string());
        self.group_bytes.push(0);
        number
    }
}

/// The list of what was dropped; counts along.
pub struct DroppedList(JsonLines);

impl DroppedList {
    fn create(folder: &Path) -> Result<Self> {
        JsonLines::create(folder.join(DROPPED_FILE)).map(Self)
    }

    /// Writes a record and counts it.
    pub fn push(&mut self, record: &Dropped, report: &mut Report) -> Result<()> {
        report.dropped.entry(record.reason).or_default().add(record.bytes);
        self.0.write(record)
    }

    /// Puts the list into place.
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

/// A packed file of JSON lines, put into place as a whole.
pub struct JsonLines {
    path: PathBuf,
    file: PackedFile,
    line: Vec<u8>,
}

impl JsonLines {
    /// An empty one.
    pub fn create(path: PathBuf) -> Result<Self> {
        Ok(Self { file: PackedFile::create(&path)?, path, line: Vec::new() })
    }

    /// Adds a line of JSON that ends in `\n`.
    pub fn write_line(&mut self, line: &[u8]) -> Result<()> {
        self.file.write_all(line).map_err(|error| base::Error::io("write", &self.path, error).into())
    }

    /// Adds a value as a line.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        serde_json::to_writer(&mut line, value)
            .map_err(|error| base::Error::io("write", &self.path, error.into()))?;
        line.push(b'\n');
        let written = self.write_line(&line);
        self.line = line;
        written
    }

    /// Syncs and renames it into place.
    pub fn commit(self) -> Result<()> {
        Ok(self.file.commit()?)
    }
}
