//! Documents inside JSON: one line of JSONL, or one object of an array. It must not know files.

use crate::{Document, Dropped, Kind, Reason};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// The document in one line of JSONL.
///
/// # Errors
/// A dropped record: not an object, no text, the text no string, or too long.
pub fn read_line(line: &[u8], group: &str, name: &str, document_bytes_max: u64) -> Result<Document, Dropped> {
    // Nearly every line has a string in `text`, which this reads without building a tree.
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        text: Cow<'a, str>,
    }
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    let text = match serde_json::from_slice::<Line<'_>>(line) {
        Ok(line) => Ok(line.text.into_owned()),
        Err(_) => {
            serde_json::from_slice::<Entry>(line).map_err(|_| Reason::BadJson).and_then(Entry::into_text)
        }
    };
    finish(text, line.len() as u64, (group, name), document_bytes_max)
}

/// The documents of a JSON file that is an array of objects, such as collections of poems; the text of each is in
/// `text`, `content` or `paragraphs`, a string or a list of strings, with `title` above it where there is one.
///
/// # Errors
/// The reason why the whole file holds no documents: anything but an array is settings or data.
pub fn read_array(
    bytes: &[u8],
    group: &str,
    name: &str,
    document_bytes_max: u64,
) -> Result<Vec<Result<Document, Dropped>>, Reason> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if !bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Reason::UnsupportedType);
    }
    let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|_| Reason::BadJson)?;
    let documents = entries.into_iter().enumerate().map(|(index, entry)| {
        let name = format!("{name}#{}", index + 1);
        let text = entry.into_text();
        let bytes = text.as_ref().map_or(0, |text| text.len() as u64);
        finish(text, bytes, (group, &name), document_bytes_max)
    });
    Ok(documents.collect())
}

fn finish(
    text: Result<String, Reason>,
    bytes: u64,
    (group, name): (&str, &str),
    document_bytes_max: u64,
) -> Result<Document, Dropped> {
    match text {
        Ok(text) if text.len() as u64 > document_bytes_max => {
            Err(Dropped::new(name, Reason::TooLarge, bytes))
        }
        Ok(text) => Ok(Document::new(group, name, Kind::Text, text)),
        Err(reason) => Err(Dropped::new(name, reason, bytes)),
    }
}

#[derive(Deserialize)]
struct Entry {
    title: Option<Text>,
    text: Option<Text>,
    content: Option<Text>,
    paragraphs: Option<Text>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    One(String),
    Lines(Vec<String>),
    Other(IgnoredAny),
}

impl Text {
    fn into_string(self) -> Result<String, Reason> {
        match self {
            Text::One(text) => Ok(text),
            Text::Lines(lines) => Ok(lines.join("\n")),
            Text::Other(_) => Err(Reason::BadJson),
        }
    }
}

impl Entry {
    fn into_text(self) -> Result<String, Reason> {
        let body =
            self.text.or(self.content).or(self.paragraphs).ok_or(Reason::NoTextField)?.into_string()?;
        match self.title.map(Text::into_string) {
            Some(Ok(title)) => Ok(format!("{title}\n\n{body}")),
            _ => Ok(body),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn arrays_of_objects_hold_documents() {
        let poems = r#"[
            {"title": "春晓", "author": "孟浩然", "paragraphs": ["春眠不觉晓，处处闻啼鸟。", "夜来风雨声，花落知多少。"]},
            {"content": "one string", "tags": []},
            {"author": "nobody"},
            {"text": {"nested": 1}},
            {"text": "far too long for the limit"}
        ]"#;
        let found: Vec<Result<String, Reason>> = read_array(poems.as_bytes(), "g", "g/a.json", 110)
            .unwrap()
            .into_iter()
            .map(|result| result.map(|document| document.text).map_err(|dropped| dropped.reason))
            .collect();
        let expected = [
            Ok("春晓\n\n春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。".to_string()),
            Ok("one string".to_string()),
            Err(Reason::NoTextField),
            Err(Reason::BadJson),
            Ok("far too long for the limit".to_string()),
        ];
        assert_eq!(found, expected);
        let dropped = read_array(poems.as_bytes(), "g", "g/a.json", 12).unwrap().pop().unwrap().unwrap_err();
        assert_eq!((dropped.path.as_str(), dropped.reason), ("g/a.json#5", Reason::TooLarge));
    }

    #[test]
    fn what_is_no_array_of_objects_is_refused() {
        for (text, reason) in [
            ("{\"name\": \"package\"}", Reason::UnsupportedType),
            ("", Reason::UnsupportedType),
            ("[1, 2]", Reason::BadJson),
            ("[{\"text\": \"cut", Reason::BadJson),
        ] {
            assert_eq!(read_array(text.as_bytes(), "g", "a.json", 99).unwrap_err(), reason, "{text}");
        }
    }
}
