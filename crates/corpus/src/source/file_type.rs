//! What a file is, by its name alone. It must not open files.

use crate::{Kind, Reason};

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// The whole file is one document.
    Whole(Kind),
    /// Each line is a JSON object with the text in `text`.
    JsonLines,
    /// An array of such objects; JSON files that are anything else are not read.
    JsonArray,
}

/// The type of a file by its name (the last part of its path), a `.gz` or `.zst` at its end aside.
///
/// # Errors
/// The reason why a file of this name is not read.
pub fn file_type(name: &str) -> Result<FileType, Reason> {
    let lower = name.to_lowercase();
    let plain = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".zst")).unwrap_or(&lower);
    if LOCK_FILES.contains(&plain) {
        return Err(Reason::LockFile);
    }
    if MINIFIED_ENDINGS.iter().any(|ending| plain.ends_with(ending)) {
        return Err(Reason::Minified);
    }
    let Some((stem, extension)) = plain.rsplit_once('.') else {
        return by_whole_name(plain);
    };
    let has = |table: &[&str]| table.contains(&extension);
    if has(&["jsonl", "ndjson"]) {
        Ok(FileType::JsonLines)
    } else if extension == "json" {
        Ok(FileType::JsonArray)
    } else if has(&TEXT) {
        Ok(FileType::Whole(Kind::Text))
    } else if has(&MARKDOWN) {
        Ok(FileType::Whole(Kind::Markdown))
    } else if has(&HTML) {
        Ok(FileType::Whole(Kind::Html))
    } else if has(&CODE) {
        Ok(FileType::Whole(Kind::Code))
    } else {
        by_whole_name(stem)
    }
}

/// Names without an ending, or with one that is part of a name (`LICENSE.Apache-2.0`, `Makefile.am`).
fn by_whole_name(name: &str) -> Result<FileType, Reason> {
    let begins_with = |table: &[&str]| {
        table.iter().any(|known| {
            name.strip_prefix(known)
                .is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_alphanumeric()))
        })
    };
    if begins_with(&CODE_NAMES) {
        Ok(FileType::Whole(Kind::Code))
    } else if begins_with(&TEXT_NAMES) {
        Ok(FileType::Whole(Kind::Text))
    } else {
        Err(Reason::UnsupportedType)
    }
}

const LOCK_FILES: [&str; 13] = [
    "cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "pipfile.lock",
    "composer.lock",
    "gemfile.lock",
    "go.sum",
    "flake.lock",
];
const MINIFIED_ENDINGS: [&str; 5] = [".min.js", ".min.css", ".js.map", ".css.map", ".bundle.js"];
const TEXT: [&str; 3] = ["txt", "text", "log"];
const MARKDOWN: [&str; 8] = ["md", "markdown", "mdx", "rst", "adoc", "asciidoc", "org", "textile"];
const HTML: [&str; 3] = ["html", "htm", "xhtml"];
const CODE: [&str; 76] = [
    "rs", "c", "h", "cc", "cpp", "cxx", "hpp", "hh", "hxx", "inc", "cu", "cuh", "m", "mm", "s", "asm", "py",
    "pyi", "pyx", "js", "mjs", "cjs", "jsx", "ts", "tsx", "vue", "svelte", "go", "java", "kt", "kts",
    "scala", "groovy", "gradle", "swift", "cs", "fs", "fsx", "vb", "rb", "php", "pl", "pm", "lua", "r", "jl",
    "hs", "ml", "mli", "ex", "exs", "erl", "hrl", "clj", "lisp", "el", "scm", "zig", "nim", "d", "dart", "v",
    "sv", "vhd", "sh", "bash", "zsh", "fish", "ps1", "sql", "proto", "cmake", "toml", "yaml", "yml", "css",
];
const CODE_NAMES: [&str; 8] =
    ["makefile", "gnumakefile", "dockerfile", "containerfile", "justfile", "cmakelists", "rakefile", "build"];
const TEXT_NAMES: [&str; 12] = [
    "readme",
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "authors",
    "contributors",
    "changelog",
    "changes",
    "news",
    "unlicense",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_types() {
        let whole = |kind| Ok(FileType::Whole(kind));
        let cases = [
            ("notes.TXT", whole(Kind::Text)),
            ("说明.md", whole(Kind::Markdown)),
            ("index.html.gz", whole(Kind::Html)),
            ("lib.rs", whole(Kind::Code)),
            ("docs.jsonl.zst", Ok(FileType::JsonLines)),
            ("poems.json", Ok(FileType::JsonArray)),
            ("LICENSE-MIT", whole(Kind::Text)),
            ("LICENSE.Apache-2.0", whole(Kind::Text)),
            ("Makefile.am", whole(Kind::Code)),
            ("README", whole(Kind::Text)),
            ("readmeter", Err(Reason::UnsupportedType)),
            ("Cargo.lock", Err(Reason::LockFile)),
            ("package-lock.json", Err(Reason::LockFile)),
            ("jquery.min.js", Err(Reason::Minified)),
            ("picture.png", Err(Reason::UnsupportedType)),
            ("data.gz", Err(Reason::UnsupportedType)),
            ("", Err(Reason::UnsupportedType)),
        ];
        for (name, expected) in cases {
            assert_eq!(file_type(name), expected, "{name}");
        }
    }
}
