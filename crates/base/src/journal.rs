//! The one journal: append-only JSON lines, each with a sequence number and a checksum. Training events, the audit log
//! and agent turns all use it. It must not know what the records mean.
//!
//! A line is `{"seq":N,<the record's own fields>,"crc":"xxxxxxxx"}`; the checksum is CRC-32 over the line's bytes
//! before `,"crc"`. Sequence numbers rise by one from zero.

use crate::{Error, Result, hash};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest line that is written or read, 16 MiB: a damaged file cannot fill the memory.
const LINE_LIMIT_BYTES: u64 = 16 << 20;
/// The length of `,"crc":"xxxxxxxx"}`.
const TAIL_BYTES: usize = 18;

/// When appended records are forced to the disk. Without a sync they survive the process's death, not the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After every record.
    EveryRecord,
    /// With the first record after so long since the last sync.
    Interval(Duration),
    /// Only when [`Journal::sync`] is called.
    Never,
}

/// A journal that is open for appending. One process at a time: hold the run's lock.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    next_seq: u64,
    policy: SyncPolicy,
    synced: Instant,
}

/// What [`Journal::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The journal, ready for appending.
    pub journal: Journal,
    /// Bytes of a torn tail that were cut off; zero for a clean file.
    pub cut_bytes: u64,
}

/// One record as read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// The line's whole object, `seq` and `crc` included.
    pub json: String,
}

impl Record {
    /// The record's fields as `T` (which must not deny unknown fields, since `seq` and `crc` are among them).
    ///
    /// # Errors
    /// serde's error where the fields do not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.json)
    }
}

/// A journal's records as read back.
#[derive(Debug)]
pub struct Contents {
    /// In order.
    pub records: Vec<Record>,
    /// Bytes of a torn tail that were left unread.
    pub torn_bytes: u64,
}

/// Reads a whole journal without changing it; a torn tail is left out.
///
/// # Errors
/// [`Error::JournalDamaged`] where a record in the middle fails its checks, [`Error::Io`].
pub fn read(path: &Path) -> Result<Contents> {
    let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut records = Vec::new();
    let scanned = scan(&mut file, path, &mut |record, _| {
        records.push(record);
        true
    })?;
    Ok(Contents { records, torn_bytes: scanned.total_bytes - scanned.good_bytes })
}

impl Journal {
    /// Opens a journal, or makes an empty one; verifies every record and cuts a torn tail off.
    ///
    /// # Errors
    /// [`Error::JournalDamaged`] where a bad record is followed by a good one (nothing is cut then), [`Error::Io`].
    pub fn open(path: &Path, policy: SyncPolicy) -> Result<Opened> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            crate::fs::create_folder(parent)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| Error::io("open", path, error))?;
        let scanned = scan(&mut file, path, &mut |_, _| true)?;
        let mut journal = Journal {
            file,
            path: path.to_path_buf(),
            next_seq: scanned.next_seq,
            policy,
            synced: Instant::now(),
        };
        let cut_bytes = scanned.total_bytes - scanned.good_bytes;
        journal.cut_to(scanned.good_bytes, cut_bytes)?;
        Ok(Opened { journal, cut_bytes })
    }

    /// Appends one record, which must serialise to a JSON object without keys `seq` and `crc`; returns its number.
    ///
    /// # Errors
    /// [`Error::JournalRecord`] for a record that cannot be stored, [`Error::DiskFull`] or [`Error::Io`]. After a
    /// failed write the half-written line is cut off again.
    pub fn append(&mut self, record: &impl Serialize) -> Result<u64> {
        let seq = self.next_seq;
        let line = self.format_line(record)?;
        let start = self.file.stream_position().map_err(|error| Error::io("write", &self.path, error))?;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            let _ = self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
            return Err(Error::io("write", &self.path, error));
        }
        self.next_seq += 1;
        match self.policy {
            SyncPolicy::EveryRecord => self.sync()?,
            SyncPolicy::Interval(interval) if self.synced.elapsed() >= interval => self.sync()?,
            SyncPolicy::Interval(_) | SyncPolicy::Never => {}
        }
        Ok(seq)
    }

    /// Forces everything appended so far to the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))?;
        self.synced = Instant::now();
        Ok(())
    }

    /// The number that the next record will get, so also how many there are.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Drops the first record that `is_late` accepts and all that follow it, so that a resumed run forgets what came
    /// after the checkpoint it starts from; returns how many were dropped.
    ///
    /// # Errors
    /// [`Error::JournalDamaged`], [`Error::Io`].
    pub fn truncate_from(&mut self, mut is_late: impl FnMut(&Record) -> bool) -> Result<u64> {
        let mut kept_bytes = 0;
        let mut kept = 0;
        let scanned = scan(&mut self.file, &self.path, &mut |record, end| {
            let keep = !is_late(&record);
            if keep {
                (kept, kept_bytes) = (record.seq + 1, end);
            }
            keep
        })?;
        let dropped = self.next_seq - kept;
        self.next_seq = kept;
        self.cut_to(kept_bytes, scanned.total_bytes - kept_bytes)?;
        Ok(dropped)
    }

    fn cut_to(&mut self, length: u64, surplus_bytes: u64) -> Result<()> {
        let wrap = |error| Error::io("truncate", &self.path, error);
        if surplus_bytes > 0 {
            self.file.set_len(length).and_then(|()| self.file.sync_all()).map_err(wrap)?;
        }
        self.file.seek(SeekFrom::Start(length)).map_err(wrap)?;
        Ok(())
    }

    fn format_line(&self, record: &impl Serialize) -> Result<String> {
        let refuse = |reason: String| Error::JournalRecord { path: self.path.clone(), reason };
        let text = serde_json::to_string(record).map_err(|error| refuse(error.to_string()))?;
        let fields: BTreeMap<String, IgnoredAny> = serde_json::from_str(&text)
            .map_err(|_| refuse(format!("a record must be a JSON object, not {text:.40}")))?;
        if let Some(name) = ["seq", "crc"].into_iter().find(|name| fields.contains_key(*name)) {
            return Err(refuse(format!("the field name `{name}` belongs to the journal; rename it")));
        }
        let separator = if fields.is_empty() { "" } else { "," };
        let body = format!("{{\"seq\":{}{separator}{}", self.next_seq, &text[1..text.len() - 1]);
        if body.len() as u64 + 64 > LINE_LIMIT_BYTES {
            return Err(refuse(format!("a record of {} bytes is over {LINE_LIMIT_BYTES}", body.len())));
        }
        Ok(format!("{body},\"crc\":\"{:08x}\"}}\n", hash::crc32(body.as_bytes())))
    }
}

struct Scanned {
    next_seq: u64,
    good_bytes: u64,
    total_bytes: u64,
}

/// Reads from the start; `visit` gets each record and the offset of its end, and returns whether to go on.
/// Bad lines at the end are a torn tail; a bad line with a good one after it is damage.
fn scan(file: &mut File, path: &Path, visit: &mut dyn FnMut(Record, u64) -> bool) -> Result<Scanned> {
    let wrap = |error| Error::io("read", path, error);
    let total_bytes = file.seek(SeekFrom::End(0)).map_err(wrap)?;
    file.seek(SeekFrom::Start(0)).map_err(wrap)?;
    let mut reader = BufReader::with_capacity(1 << 16, &mut *file);
    let mut scanned = Scanned { next_seq: 0, good_bytes: 0, total_bytes };
    let mut first_bad: Option<Error> = None;
    let (mut offset, mut line_number, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_LIMIT_BYTES).read_until(b'\n', &mut line).map_err(wrap)? as u64;
        if read == 0 {
            return Ok(scanned);
        }
        line_number += 1;
        let (start, end) = (offset, offset + read);
        offset = end;
        match check_line(&line) {
            Ok(record) => {
                if let Some(damage) = first_bad {
                    return Err(damage);
                }
                let damaged = |reason| Error::JournalDamaged {
                    path: path.to_path_buf(),
                    line: line_number,
                    offset: start,
                    reason,
                };
                if record.seq != scanned.next_seq {
                    let (expected, found) = (scanned.next_seq, record.seq);
                    return Err(damaged(format!("expected sequence number {expected}, found {found}")));
                }
                scanned.next_seq += 1;
                scanned.good_bytes = end;
                if !visit(record, end) {
                    return Ok(scanned);
                }
            }
            Err(reason) if first_bad.is_none() => {
                let path = path.to_path_buf();
                first_bad = Some(Error::JournalDamaged { path, line: line_number, offset: start, reason });
            }
            Err(_) => {}
        }
    }
}

fn check_line(line: &[u8]) -> std::result::Result<Record, String> {
    let line = line.strip_suffix(b"\n").ok_or("the line has no end")?;
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    let split = text.len().checked_sub(TAIL_BYTES).ok_or("too short")?;
    if !text.is_char_boundary(split) {
        return Err("no checksum at its end".to_string());
    }
    let (body, tail) = text.split_at(split);
    let digits = tail.strip_prefix(",\"crc\":\"").and_then(|rest| rest.strip_suffix("\"}"));
    let expected =
        digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or("no checksum at its end")?;
    let found = hash::crc32(body.as_bytes());
    if found != expected {
        return Err(format!("checksum {found:08x} instead of {expected:08x}"));
    }
    let number = body.strip_prefix("{\"seq\":").ok_or("no sequence number at its start")?;
    let digits = number.split(',').next().unwrap_or(number);
    let seq = digits.parse().map_err(|_| "no sequence number at its start")?;
    Ok(Record { seq, json: text.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Event {
        step: u32,
        loss: f32,
        note: String,
    }

    fn event(step: u32) -> Event {
        Event { step, loss: 0.1 * step as f32, note: format!("第{step}步 \"quoted\"\n") }
    }

    fn filled(count: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut journal = Journal::open(&path, SyncPolicy::Never).unwrap().journal;
        for step in 0..count {
            assert_eq!(journal.append(&event(step)).unwrap(), u64::from(step));
        }
        (folder, path)
    }

    fn steps(path: &Path) -> Vec<u32> {
        let contents = read(path).unwrap();
        contents.records.iter().map(|record| record.parse::<Event>().unwrap().step).collect()
    }

    #[test]
    fn round_trip_over_reopening() {
        let (_folder, path) = filled(3);
        for policy in [SyncPolicy::EveryRecord, SyncPolicy::Interval(Duration::ZERO)] {
            let Opened { mut journal, cut_bytes } = Journal::open(&path, policy).unwrap();
            assert_eq!(cut_bytes, 0);
            let next = journal.next_seq() as u32;
            journal.append(&event(next)).unwrap();
        }
        assert_eq!(steps(&path), [0, 1, 2, 3, 4]);
        assert_eq!(read(&path).unwrap().records[2].parse::<Event>().unwrap(), event(2));
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["seq"].is_u64() && value["crc"].is_string());
        }
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_appending_goes_on() {
        let (_folder, path) = filled(3);
        let whole = std::fs::read(&path).unwrap();
        let second_end =
            whole.len() - whole.split_inclusive(|&byte| byte == b'\n').next_back().unwrap().len();
        for length in second_end..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&path).unwrap().torn_bytes, (length - second_end) as u64);
            let Opened { mut journal, cut_bytes } = Journal::open(&path, SyncPolicy::Never).unwrap();
            assert_eq!(cut_bytes, (length - second_end) as u64);
            assert_eq!(journal.append(&event(2)).unwrap(), 2);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        std::fs::write(&path, [&whole[..], &[0; 5000]].concat()).unwrap();
        assert_eq!(Journal::open(&path, SyncPolicy::Never).unwrap().cut_bytes, 5000);
    }

    #[test]
    fn damage_in_the_middle_is_located_and_nothing_is_cut() {
        let (_folder, path) = filled(4);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let cases = [
            (text.replacen("\"step\":1", "\"step\":7", 1), 2, "checksum"),
            (text.replacen(lines[1], &lines[1][..20], 1), 2, "no checksum"),
            (text.replacen(&format!("{}\n", lines[1]), "", 1), 2, "expected sequence number 1, found 2"),
            (text.replacen(lines[0], "", 1), 1, "too short"),
        ];
        for (damaged, line, reason) in cases {
            assert_ne!(damaged, text);
            std::fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path, SyncPolicy::Never).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, Error::JournalDamaged { line: found, .. } if found == line), "{message}");
            assert!(message.contains(reason) && message.contains("events.jsonl"), "{message}");
            assert_eq!(read(&path).unwrap_err().to_string(), message);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_resumed_run_forgets_what_came_after_its_checkpoint() {
        let (_folder, path) = filled(6);
        let mut journal = Journal::open(&path, SyncPolicy::Never).unwrap().journal;
        let late = |record: &Record| record.parse::<Event>().unwrap().step > 3;
        assert_eq!(journal.truncate_from(late).unwrap(), 2);
        assert_eq!(journal.truncate_from(late).unwrap(), 0);
        assert_eq!(journal.append(&event(4)).unwrap(), 4);
        assert_eq!(steps(&path), [0, 1, 2, 3, 4]);
        assert_eq!(journal.truncate_from(|record| record.seq >= 1).unwrap(), 4);
        journal.append(&event(1)).unwrap();
        assert_eq!(steps(&path), [0, 1]);
        assert_eq!(journal.truncate_from(|_| true).unwrap(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn records_that_cannot_be_stored_are_refused() {
        let (_folder, path) = filled(1);
        let mut journal = Journal::open(&path, SyncPolicy::Never).unwrap().journal;
        let cases = [
            (serde_json::json!([1, 2]), "JSON object"),
            (serde_json::json!({ "seq": 1 }), "`seq`"),
            (serde_json::json!({ "a": 1, "crc": "x" }), "`crc`"),
            (serde_json::json!({ "a": "x".repeat(LINE_LIMIT_BYTES as usize) }), "over"),
        ];
        for (record, reason) in cases {
            let message = journal.append(&record).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
        assert_eq!(journal.append(&serde_json::json!({})).unwrap(), 1);
        assert_eq!(read(&path).unwrap().records.len(), 2);
    }
}
