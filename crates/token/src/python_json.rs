//! Python's `json.dumps` as a filter of templates. Must not know templates beyond that one filter.

use minijinja::value::Kwargs;
use minijinja::{ErrorKind, Value};
use serde_json::Value as Json;

/// How values are written.
struct Style {
    ensure_ascii: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)` with the defaults that transformers has: characters
/// stay as they are.
pub(crate) fn tojson(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<(String, String)> = match options.get::<Option<Vec<String>>>("separators")? {
        None => None,
        Some(pair) => match <[String; 2]>::try_from(pair) {
            Ok([item, key]) => Some((item, key)),
            Err(_) => return Err(refuse("separators are not two texts".into())),
        },
    };
    options.assert_all_used()?;
    let mut json = serde_json::to_value(&value).map_err(|error| refuse(error.to_string()))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let default = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    let (item, key) = separators.unwrap_or(default);
    let mut out = String::new();
    Style { ensure_ascii: ensure_ascii == Some(true), indent, item, key }.dump(&json, 0, &mut out);
    Ok(out)
}

fn refuse(detail: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::BadSerialization, detail)
}

impl Style {
    fn dump(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) => self.enclosed(('[', ']'), depth, out, items, |item, out| {
                self.dump(item, depth + 1, out);
            }),
            Json::Object(fields) => self.enclosed(('{', '}'), depth, out, fields, |(name, field), out| {
                self.scalar(&Json::from(name.as_str()), out);
                out.push_str(&self.key);
                self.dump(field, depth + 1, out);
            }),
            scalar => self.scalar(scalar, out),
        }
    }

    fn enclosed<T>(
        &self,
        (open, close): (char, char),
        depth: usize,
        out: &mut String,
        items: impl IntoIterator<Item = T>,
        mut dump: impl FnMut(T, &mut String),
    ) {
        let break_line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        let mut count = 0;
        for item in items {
            if count > 0 {
                out.push_str(&self.item);
            }
            break_line(out, depth + 1);
            dump(item, out);
            count += 1;
        }
        if count > 0 {
            break_line(out, depth);
        }
        out.push(close);
    }

    fn scalar(&self, value: &Json, out: &mut String) {
        for character in value.to_string().chars() {
            if character.is_ascii() || !self.ensure_ascii {
                out.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}
