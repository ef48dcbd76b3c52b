//! One file to its documents, each bounded. It must not know how documents are judged.

use super::{FileType, SourceFile, decode, json};
use crate::{Document, Dropped, Kind, Reason};
use base::fs::{LineRead, Lines, open_lines, read_bytes};
use std::io;

/// Where documents go, or what stands in their place; returns whether to go on.
pub type Sink<'a> = &'a mut dyn FnMut(Result<Document, Dropped>) -> bool;

/// The least length of a piece of a large plain text.
const PIECE_BYTES: usize = 32 << 10;

/// A JSON array is read as a whole; larger ones belong into JSONL.
const JSON_ARRAY_BYTES_MAX: u64 = 64 << 20;

/// Reads one file and hands over each document, or what stands in its place, in order. Problems with the file are
/// reasons, not errors.
pub fn read_file(file: &SourceFile, document_bytes_max: u64, sink: Sink<'_>) {
    match file.file_type {
        FileType::Whole(kind) => match read_whole(file, kind, document_bytes_max) {
            Err(dropped) if dropped.reason == Reason::TooLarge && kind == Kind::Text => {
                open_and(file, sink, |lines, sink| read_pieces(file, lines, document_bytes_max, sink));
            }
            result => {
                sink(result);
            }
        },
        FileType::JsonArray => match read_json_array(file, document_bytes_max) {
            Ok(results) => {
                // The sink says when to stop.
                let _ = results.into_iter().all(sink);
            }
            Err(dropped) => {
                sink(Err(dropped));
            }
        },
        FileType::JsonLines => {
            open_and(file, sink, |lines, sink| read_json_lines(file, lines, document_bytes_max, sink));
        }
    }
}

fn open_and(file: &SourceFile, sink: Sink<'_>, read: impl FnOnce(Lines, Sink<'_>)) {
    match open_lines(&file.path) {
        Ok(lines) => read(lines, sink),
        Err(_) => {
            sink(Err(Dropped::new(&file.name, Reason::Unreadable, file.bytes)));
        }
    }
}

/// Plain text over the limit is a collection (a book, a news archive with one article a line), so it is read in pieces
/// that end at line ends; `#n` names the line that a piece starts at.
fn read_pieces(file: &SourceFile, mut lines: Lines, line_bytes_max: u64, sink: Sink<'_>) {
    let line_bytes_max = usize::try_from(line_bytes_max).unwrap_or(usize::MAX - 1);
    let (mut piece, mut line, mut first_line) = (Vec::new(), Vec::new(), 1);
    loop {
        let read = lines.read_into(&mut line, line_bytes_max);
        if matches!(read, Ok(LineRead::Line)) {
            piece.extend_from_slice(&line);
            piece.push(b'\n');
            if piece.len() < PIECE_BYTES {
                continue;
            }
        }
        let name = format!("{}#{first_line}", file.name);
        let bytes = std::mem::take(&mut piece);
        first_line = lines.line_count() + 1;
        if !bytes.is_empty() {
            let refused = Dropped::new(&name, Reason::NotText, bytes.len() as u64);
            let document = decode(bytes).map(|text| Document::new(&file.group, &name, Kind::Text, text));
            if !sink(document.ok_or(refused)) {
                return;
            }
        }
        let problem = match read {
            Ok(LineRead::Line) => continue,
            Ok(LineRead::End) => return,
            Ok(LineRead::TooLong) => {
                let name = format!("{}#{}", file.name, lines.line_count());
                Dropped::new(&name, Reason::TooLarge, line_bytes_max as u64)
            }
            Err(ref error) => Dropped::new(&file.name, reason_of(error), file.bytes),
        };
        if !sink(Err(problem)) || read.is_err() {
            return;
        }
    }
}

fn read_whole(file: &SourceFile, kind: Kind, document_bytes_max: u64) -> Result<Document, Dropped> {
    let refuse = |reason| Dropped::new(&file.name, reason, file.bytes);
    if file.bytes > document_bytes_max {
        return Err(refuse(Reason::TooLarge));
    }
    let bytes = read_bytes(&file.path, document_bytes_max).map_err(|error| refuse(reason_of(&error)))?;
    let text = decode(bytes).ok_or_else(|| refuse(Reason::NotText))?;
    Ok(Document::new(&file.group, &file.name, kind, text))
}

fn read_json_array(
    file: &SourceFile,
    document_bytes_max: u64,
) -> Result<Vec<Result<Document, Dropped>>, Dropped> {
    let refuse = |reason| Dropped::new(&file.name, reason, file.bytes);
    let bytes = read_bytes(&file.path, JSON_ARRAY_BYTES_MAX).map_err(|error| refuse(reason_of(&error)))?;
    json::read_array(&bytes, &file.group, &file.name, document_bytes_max).map_err(refuse)
}

fn read_json_lines(file: &SourceFile, mut lines: Lines, document_bytes_max: u64, sink: Sink<'_>) {
    // JSON escapes may make a text up to six times as long.
    let line_bytes_max = usize::try_from(document_bytes_max.saturating_mul(6)).unwrap_or(usize::MAX - 1);
    let mut buffer = Vec::new();
    loop {
        let read = lines.read_into(&mut buffer, line_bytes_max);
        let name = format!("{}#{}", file.name, lines.line_count());
        let result = match read {
            Ok(LineRead::End) => return,
            Ok(LineRead::Line) if buffer.trim_ascii().is_empty() => continue,
            Ok(LineRead::Line) => json::read_line(&buffer, &file.group, &name, document_bytes_max),
            Ok(LineRead::TooLong) => Err(Dropped::new(&name, Reason::TooLarge, line_bytes_max as u64)),
            Err(error) => {
                sink(Err(Dropped::new(&file.name, reason_of(&error), file.bytes)));
                return;
            }
        };
        if !sink(result) {
            return;
        }
    }
}

fn reason_of(error: &base::Error) -> Reason {
    match error {
        base::Error::TooLarge { .. } => Reason::TooLarge,
        base::Error::Io { action: "read", source, .. } if is_damage(source) => Reason::Truncated,
        _ => Reason::Unreadable,
    }
}

/// What the decompressors say of damaged or shortened input.
fn is_damage(error: &io::Error) -> bool {
    let no_system_error = error.raw_os_error().is_none();
    no_system_error
        && matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidData
                | io::ErrorKind::Other
        )
}
