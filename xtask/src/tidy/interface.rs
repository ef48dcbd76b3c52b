//! The conformance table of `docs/serving.md` is what the server's table of its interface says: every field of every path.
//!
//! A table stands between `<!-- interface: fields -->` and `<!-- end of interface -->`. It must not know what a field does.

use std::fmt::Write;

use serde_json::Value;

use super::Fault;

/// Where the table's contents are.
pub const SOURCE: &str = "crates/serve/api.json";
/// The documents, each with its words.
pub const DOCUMENTS: [(&str, Words); 2] = [
    (
        "docs/serving.md",
        Words {
            head: "| Path | Supported | Accepted, without effect | Refused, but for the value shown |",
            none: "no body",
            required: "required",
        },
    ),
    (
        "docs/serving.zh-CN.md",
        Words {
            head: "| 路径 | 支持 | 接受但不起作用 | 拒绝（所示取值除外） |",
            none: "无请求体",
            required: "必填",
        },
    ),
];

const BEGIN: &str = "<!-- interface: fields -->\n";
const END: &str = "<!-- end of interface -->";

/// What differs between languages.
#[derive(Clone, Copy)]
pub struct Words {
    head: &'static str,
    none: &'static str,
    required: &'static str,
}

/// Each document whose table is not what `source` says.
pub fn check(document: impl Fn(&str) -> Option<String>, source: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, words) in &DOCUMENTS {
        let text = document(path).unwrap_or_default();
        let message = match render(&text, words, source) {
            Ok(expected) if expected == text => continue,
            Ok(_) => "its table is not what the code says; run `cargo xtask docs`".to_owned(),
            Err(message) => message,
        };
        faults.push(Fault::new(path, 0, "interface", message));
    }
    faults
}

/// The document with the table written anew.
///
/// # Errors
/// What is wrong and what to do.
pub fn render(document: &str, words: &Words, source: &str) -> Result<String, String> {
    let parts =
        document.split_once(BEGIN).and_then(|(before, after)| Some((before, after.split_once(END)?.1)));
    let (before, after) =
        parts.ok_or_else(|| format!("no table: add a line `{}` and a line `{END}`", BEGIN.trim_end()))?;
    let endpoints: Value = serde_json::from_str(source).map_err(|error| format!("{SOURCE}: {error}"))?;
    let mut table = format!("{}\n|---|---|---|---|\n", words.head);
    for endpoint in endpoints.as_array().into_iter().flatten() {
        let text = |name: &str| endpoint[name].as_str().unwrap_or_default();
        write!(table, "| `{} {}` |", text("method"), text("path")).expect("a String takes everything");
        let columns = match endpoint["fields"].as_object() {
            None => format!(" {} | | |", words.none),
            Some(fields) => {
                let of = |status: &str| {
                    let names = fields.iter().filter(|(_, field)| field["status"] == status);
                    names.map(|(name, field)| entry(name, field, words)).collect::<Vec<_>>().join(", ")
                };
                format!(" {} | {} | {} |", of("supported"), of("accepted"), of("refused"))
            }
        };
        writeln!(table, "{}", columns.replace("|  |", "| |")).expect("a String takes everything");
    }
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn entry(name: &str, field: &Value, words: &Words) -> String {
    let harmless = field["harmless"].as_array().into_iter().flatten();
    let harmless: Vec<String> = harmless.map(|value| format!("`{value}`")).collect();
    match (field["required"] == true, harmless.is_empty()) {
        (true, _) => format!("`{name}` ({})", words.required),
        (false, true) => format!("`{name}`"),
        (false, false) => format!("`{name}` ({})", harmless.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_table_follows_the_code() {
        let source = r#"[{"method": "POST", "path": "/p", "fields": {
            "a": {"status": "supported", "required": true}, "b": {"status": "refused", "harmless": [0]}, "c": {"status": "refused"}}},
            {"method": "GET", "path": "/q"}]"#;
        let document = format!("x\n{BEGIN}old\n{END}\ny\n");
        let text = render(&document, &DOCUMENTS[0].1, source).unwrap();
        assert!(
            text.contains("| `POST /p` | `a` (required) | | `b` (`0`), `c` |\n| `GET /q` | no body | | |\n"),
            "{text}"
        );
        assert!(text.starts_with("x\n") && text.ends_with("\ny\n"));
        assert_eq!(render(&text, &DOCUMENTS[0].1, source).unwrap(), text);
        assert!(render("nothing", &DOCUMENTS[0].1, source).unwrap_err().contains("no table"));
        let faults = check(|path| (path == "docs/serving.md").then(|| text.clone()), source);
        assert_eq!(faults.len(), 1, "the other language has none");
    }
}
