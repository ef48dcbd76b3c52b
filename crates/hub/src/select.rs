//! Which files of a repository make up the model that was asked for. Must not know hubs or disks.

use crate::{Error, ModelName, Part, Result};

/// The quantisation that is taken where several are offered and none was named.
const USUAL_TAG: &str = "Q4_K_M";
/// What a safetensors model has beside its weights: endings and whole names.
const BESIDE_WEIGHTS: [&str; 14] = [
    ".safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "chat_template.json",
    ".jinja",
    ".model",
    "LICENSE",
];

/// The paths to fetch of those that a repository has, in its order.
///
/// # Errors
/// Nothing fits, or several models do.
pub fn choose(name: &ModelName, paths: &[&str], include: &[String]) -> Result<Vec<String>> {
    let paths_that = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        paths.iter().filter(|path| wanted(path)).map(|&path| path.to_owned()).collect()
    };
    let chosen = match name.part() {
        _ if !include.is_empty() => paths_that(&|path| include.iter().any(|pattern| matches(pattern, path))),
        Part::File(file) => paths_that(&|path| path == file || same_split(path, file)),
        Part::Tag(tag) => one_model(name, paths, &|path| has_tag(path, tag))?,
        Part::Default if paths.iter().any(|path| is_weights(path)) => {
            paths_that(&|path| is_weights(path) || is_beside_weights(path))
        }
        Part::Default => usual_model(name, paths)?,
    };
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let wanted = match name.part() {
        _ if !include.is_empty() => format!("file like {}", include.join(", ")),
        Part::Default => "safetensors or GGUF model".to_owned(),
        Part::Tag(part) | Part::File(part) => format!("GGUF model `{part}`"),
    };
    Err(Error::NoSuchFile {
        name: name.repository().to_owned(),
        wanted,
        available: listed(&available(paths)),
    })
}

/// The GGUF model of the usual quantisation, or else the only one.
///
/// # Errors
/// There are several, none of them usual.
pub fn usual_model(name: &ModelName, paths: &[&str]) -> Result<Vec<String>> {
    match one_model(name, paths, &|path| has_tag(path, USUAL_TAG))? {
        usual if !usual.is_empty() => Ok(usual),
        _ => one_model(name, paths, &|_| true),
    }
}

/// The files of the one GGUF model that `wanted` picks; empty where there is none.
///
/// # Errors
/// It picks files of several models.
pub fn one_model(name: &ModelName, paths: &[&str], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let picked: Vec<&str> =
        paths.iter().copied().filter(|path| is_gguf_model(path) && wanted(path)).collect();
    let mut models: Vec<&str> = picked.iter().map(|path| without_split(path)).collect();
    models.sort_unstable();
    models.dedup();
    if models.len() > 1 {
        return Err(Error::Ambiguous { name: name.repository().to_owned(), available: listed(&picked) });
    }
    Ok(picked.into_iter().map(str::to_owned).collect())
}

/// Whether a GGUF file's name ends with a quantisation's name: `model-Q4_K_M.gguf`, `model.q4_k_m-00001-of-00002.gguf`.
pub fn has_tag(path: &str, tag: &str) -> bool {
    let stem = without_split(path).to_lowercase();
    // `K_M` is no tag of `Q4_K_M`, `Q4_K_M` is one of `model_Q4_K_M`.
    let whole =
        tag.starts_with(|c: char| c.is_ascii_alphabetic()) && tag.contains(|c: char| c.is_ascii_digit());
    stem.strip_suffix(&tag.to_lowercase()).is_some_and(|rest| {
        rest.is_empty() || rest.ends_with(['-', '.', '/']) || (whole && rest.ends_with('_'))
    })
}

/// Whether two files are parts of one split model.
pub fn same_split(path: &str, other: &str) -> bool {
    split_of(path).is_some() && split_of(path) == split_of(other)
}

/// The number of parts of a split GGUF model, and what their names begin with: `NAME-00001-of-00003.gguf`.
pub fn split_of(path: &str) -> Option<(&str, u32)> {
    let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if digits(number) && digits(count) { Some((stem, count.parse().ok()?)) } else { None }
}

/// A GGUF file that is a language model of its own, not the projector of a vision model.
pub fn is_gguf_model(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    path.to_lowercase().ends_with(".gguf") && !file.to_lowercase().starts_with("mmproj")
}

/// Whether a pattern with `*` (any run of characters, `/` among them) and `?` fits a whole path.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and how far it reached when it was last let grow.
    let mut star: Option<(usize, usize)> = None;
    while t < path.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == path[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, reached)) = star {
            star = Some((at, reached + 1));
            (p, t) = (at + 1, reached + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

fn without_split(path: &str) -> &str {
    match split_of(path) {
        Some((stem, _)) => stem,
        None => path.rsplit_once('.').map_or(path, |(stem, _)| stem),
    }
}

/// Weights in Hugging Face's layout; `consolidated` files hold the same ones in another.
fn is_weights(path: &str) -> bool {
    in_model_folder(path) && path.ends_with(".safetensors") && !path.starts_with("consolidated")
}

fn is_beside_weights(path: &str) -> bool {
    in_model_folder(path)
        && (BESIDE_WEIGHTS.iter().any(|ending| path.ends_with(ending)) || path.ends_with("_config.json"))
}

/// At the top, or in a numbered module of a sentence-transformers model such as `1_Pooling`.
fn in_model_folder(path: &str) -> bool {
    match path.split_once('/') {
        None => true,
        Some((folder, rest)) => {
            let number = folder.split_once('_').map_or("", |(number, _)| number);
            !rest.contains('/') && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

/// The models that a repository has, for a message; all its files where it has none.
fn available<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    let models: Vec<&str> =
        paths.iter().copied().filter(|path| is_weights(path) || is_gguf_model(path)).collect();
    if models.is_empty() { paths.to_vec() } else { models }
}

fn listed(paths: &[&str]) -> String {
    const SHOWN_MAX: usize = 30;
    let mut text = paths.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN_MAX {
        text += &format!(" and {} more", paths.len() - SHOWN_MAX);
    }
    if text.is_empty() { "no files".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SAFETENSORS: &[&str] = &[
        ".gitattributes",
        "README.md",
        "LICENSE",
        "config.json",
        "consolidated.safetensors",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "onnx/config.json",
        "onnx/model.onnx",
        "original/model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "1_Pooling/config.json",
    ];
    const GGUF: &[&str] = &[
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "m-IQ4_XS.gguf",
        "UD/m-BF16-00001-of-00002.gguf",
        "UD/m-BF16-00002-of-00002.gguf",
        "mmproj-m-Q8_0.gguf",
    ];
    const ONE: &[&str] = &["model.gguf", "mmproj.gguf"];
    const MANY: &[&str] = &["a-Q5_K_M.gguf", "b-Q6_K.gguf", "c-Q6_K.gguf"];

    /// What is chosen, or the part of the message that says why nothing is.
    fn check(paths: &[&str], name: &str, include: &[&str], expected: Result<&[&str], &str>) {
        let name: ModelName = name.parse().unwrap();
        let include: Vec<String> = include.iter().map(|&pattern| pattern.to_owned()).collect();
        match (choose(&name, paths, &include), expected) {
            (Ok(chosen), Ok(expected)) => assert_eq!(chosen, expected, "{name}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_right_files_are_chosen() {
        let folder = [
            "LICENSE",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "chat_template.jinja",
            "1_Pooling/config.json",
        ];
        check(SAFETENSORS, "a/b", &[], Ok(&folder));
        check(
            SAFETENSORS,
            "a/b",
            &["*.md", "onnx/*"],
            Ok(&["README.md", "onnx/config.json", "onnx/model.onnx"]),
        );
        check(SAFETENSORS, "a/b", &["*.gguf"], Err("no file like *.gguf; it has: model-00001"));
        check(SAFETENSORS, "a/b:Q8_0", &[], Err("no GGUF model `Q8_0`"));
        check(GGUF, "a/b", &[], Ok(&["m-Q4_K_M.gguf"]));
        check(GGUF, "a/b:q8_0", &[], Ok(&["m-Q8_0.gguf"]));
        check(GGUF, "a/b:bf16", &[], Ok(&["UD/m-BF16-00001-of-00002.gguf", "UD/m-BF16-00002-of-00002.gguf"]));
        check(GGUF, "a/b:iq4_xs", &[], Ok(&["m-IQ4_XS.gguf"]));
        check(GGUF, "a/b:XS", &[], Err("no GGUF model `XS`"));
        check(&["m_q8_0.gguf"], "a/b:Q8_0", &[], Ok(&["m_q8_0.gguf"]));
        check(GGUF, "a/b:K_S", &[], Err("no GGUF model `K_S`; it has: m-Q4_K_M.gguf, m-Q8_0.gguf"));
        check(GGUF, "a/b:mmproj-m-Q8_0.gguf", &[], Ok(&["mmproj-m-Q8_0.gguf"]));
        let both = ["UD/m-BF16-00001-of-00002.gguf", "UD/m-BF16-00002-of-00002.gguf"];
        check(GGUF, "a/b:UD/m-BF16-00002-of-00002.gguf", &[], Ok(&both));
        check(ONE, "a/b", &[], Ok(&["model.gguf"]));
        check(MANY, "a/b", &[], Err("several models that fit: a-Q5_K_M.gguf, b-Q6_K.gguf, c-Q6_K.gguf"));
        check(MANY, "a/b:Q6_K", &[], Err("several models that fit: b-Q6_K.gguf, c-Q6_K.gguf"));
        check(&["README.md"], "a/b", &[], Err("no safetensors or GGUF model; it has: README.md"));
        check(&[], "a/b", &[], Err("it has: no files"));
    }

    #[test]
    fn patterns() {
        for (pattern, path, fits) in [
            ("*", "a/b.c", true),
            ("*.json", "a/b.json", true),
            ("*.json", "a.jsonl", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*ab", "aab", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(matches(pattern, path), fits, "{pattern} {path}");
        }
        // A pattern of many stars takes no exponential time.
        assert!(!matches(&"*a".repeat(40), &"b".repeat(4000)));
    }
}
