//! Names that come from outside: of models, of the files in their repositories. Must not know hubs or disks.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The folder in a model's folder that is this crate's own.
pub const OWN_FOLDER: &str = ".pull";

/// ORGANISATION/NAME or NAME, and perhaps which part of it: `Qwen/Qwen3-0.6B-GGUF:Q8_0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    repository: String,
    part: Part,
}

/// What of a repository is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The safetensors model, or else the one GGUF model.
    Default,
    /// The GGUF model of a quantisation, such as `Q4_K_M`.
    Tag(String),
    /// One file, with all its parts where it is split.
    File(String),
}

impl ModelName {
    /// ORGANISATION/NAME.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What follows the colon.
    pub fn part(&self) -> &Part {
        &self.part
    }
}

impl FromStr for ModelName {
    type Err = Error;

    fn from_str(name: &str) -> Result<ModelName> {
        let bad = |reason| Error::Name { name: name.to_owned(), reason };
        let (repository, part) = match name.split_once(':') {
            None => (name, Part::Default),
            Some((_, "")) => return Err(bad("nothing follows the colon")),
            Some((repository, file)) if file.to_lowercase().ends_with(".gguf") || file.contains('/') => {
                check_path(file).map_err(bad)?;
                (repository, Part::File(file.to_owned()))
            }
            Some((repository, tag)) => (repository, Part::Tag(tag.to_owned())),
        };
        let parts: Vec<&str> = repository.split('/').collect();
        if parts.len() > 2 {
            return Err(bad("it has more than one `/`"));
        }
        for part in parts {
            if part.is_empty() {
                return Err(bad("a part of it is empty"));
            }
            if !part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                return Err(bad("only letters, digits, `-`, `_` and `.` are allowed"));
            }
            if part.starts_with('.') || part.ends_with('.') {
                return Err(bad("a part of it begins or ends with a dot"));
            }
        }
        Ok(ModelName { repository: repository.to_owned(), part })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Default => write!(out, "{}", self.repository),
            Part::Tag(part) | Part::File(part) => write!(out, "{}:{part}", self.repository),
        }
    }
}

/// Whether a path in a repository stays inside the model's folder on every system; else what is wrong with it.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c)) {
        return Err("holds a character that file names may not hold");
    }
    for (index, part) in path.split('/').enumerate() {
        if part.is_empty() || part == "." || part == ".." {
            return Err("leads out of the model's folder");
        }
        if part.ends_with('.') || part.ends_with(' ') {
            return Err("ends with a dot or a space, which some systems drop");
        }
        if index == 0 && part.eq_ignore_ascii_case(OWN_FOLDER) {
            return Err("is kept for what a pull remembers");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_models() {
        for (text, repository, part) in [
            ("gpt2", "gpt2", Part::Default),
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", Part::Default),
            ("a/b:Q4_K_M", "a/b", Part::Tag("Q4_K_M".into())),
            ("a/b:x/m-Q4.gguf", "a/b", Part::File("x/m-Q4.gguf".into())),
        ] {
            let name: ModelName = text.parse().unwrap();
            assert_eq!((name.repository(), name.part()), (repository, &part));
            assert_eq!(name.to_string(), text);
        }
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a/..",
            "../b",
            ".a/b",
            "a b/c",
            "a/b:",
            "a\\b",
            "模/型",
            "a/b:../x.gguf",
            "a/b:/x",
        ] {
            assert!(matches!(text.parse::<ModelName>(), Err(Error::Name { .. })), "{text}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere() {
        for path in ["config.json", "1_Pooling/config.json", "a/b/..c", "文件.txt", "...x"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            "./x",
            "c:x",
            "a\\..\\x",
            "a\nb",
            "a\0b",
            ".pull/x",
            ".PULL/x",
            "x.",
            "x ",
            "a*",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }
}
