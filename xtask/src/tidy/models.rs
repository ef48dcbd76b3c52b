//! The tables of `docs/models.md` are what the code says: families and their names, element types, mixes.
//!
//! A table stands between `<!-- models: NAME -->` and `<!-- end of models -->`. In a translation the last column of the
//! families is the translator's, kept by name. It must not know what a family computes.

use std::collections::BTreeMap;
use std::fmt::Write;

use syn::{Attribute, Expr, Item, Lit, Meta};

use super::Fault;

const FAMILY: &str = "crates/model/src/config/family.rs";
const ARCHITECTURE: &str = "crates/model/src/file/architecture.rs";
const MIX: &str = "crates/model/src/file/mix.rs";
const BLOCK_TYPE: &str = "crates/tensor/src/quant/block_type.rs";
/// Where the tables' contents are.
pub const SOURCES: [&str; 4] = [FAMILY, ARCHITECTURE, MIX, BLOCK_TYPE];
/// The documents, each with the heads of its tables: families, types, mixes.
pub const DOCUMENTS: [(&str, [&str; 3]); 2] = [
    (
        "docs/models.md",
        [
            "| `model_type` | `architectures` | GGUF | What it is |",
            "| Type | Elements of a block | Bits an element |",
            "| `--type` | Most matrices are | Bits an element |",
        ],
    ),
    (
        "docs/models.zh-CN.md",
        [
            "| `model_type` | `architectures` | GGUF | 说明 |",
            "| 类型 | 每块元素数 | 每元素位数 |",
            "| `--type` | 多数矩阵的类型 | 每元素位数 |",
        ],
    ),
];

const BEGIN: &str = "<!-- models: ";
const END: &str = "<!-- end of models -->";

/// Each document whose tables are not what `sources` (path, text) say.
pub fn check(document: impl Fn(&str) -> Option<String>, sources: &[(&str, &str)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, heads) in &DOCUMENTS {
        let text = document(path).unwrap_or_default();
        let message = match render(&text, heads, sources) {
            Ok(expected) if expected == text => continue,
            Ok(_) => "its tables are not what the code says; run `cargo xtask docs`".to_owned(),
            Err(message) => message,
        };
        faults.push(Fault::new(path, 0, "models", message));
    }
    faults
}

/// The document with every table written anew.
///
/// # Errors
/// What is wrong and what to do.
pub fn render(document: &str, heads: &[&str; 3], sources: &[(&str, &str)]) -> Result<String, String> {
    let is_translation = *heads != DOCUMENTS[0].1;
    let mut rest = document;
    let mut text = String::new();
    let mut written = Vec::new();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").ok_or("a `models` marker has no end of its own")?;
        let (old, after) =
            after.split_once(END).ok_or_else(|| format!("the table of {name} lacks `{END}`"))?;
        let table = match name {
            "families" => families(heads[0], is_translation.then_some(old), sources)?,
            "types" => types(heads[1], sources)?,
            "mixes" => mixes(heads[2], sources)?,
            _ => return Err(format!("there is no table {name}; known: families, types, mixes")),
        };
        write!(text, "{before}{BEGIN}{name} -->\n{table}{END}").expect("a String takes everything");
        written.push(name);
        rest = after;
    }
    text.push_str(rest);
    match ["families", "types", "mixes"].into_iter().find(|name| !written.contains(name)) {
        None => Ok(text),
        Some(name) => Err(format!("no table of {name}: add a line `{BEGIN}{name} -->` and a line `{END}`")),
    }
}

fn families(head: &str, old: Option<&str>, sources: &[(&str, &str)]) -> Result<String, String> {
    let abouts = doc_comments(source(sources, FAMILY)?, "Family")?;
    let architectures: Vec<Vec<String>> = calls(source(sources, ARCHITECTURE)?, "Architecture { ", " }");
    let mut table = format!("{head}\n|---|---|---|---|\n");
    for row in calls(source(sources, FAMILY)?, "row!(", ")").iter().filter(|row| row.len() == 5) {
        let [family, kind, class] = [&row[0], &row[1], &row[2]].map(|text| text.trim_matches('"'));
        let of_family = |fields: &&Vec<String>| fields.contains(&format!("family: Family::{family}"));
        let gguf = architectures.iter().find(of_family).and_then(|fields| fields[0].split('"').nth(1));
        let gguf = gguf.ok_or_else(|| format!("{ARCHITECTURE} does not tell of {family}"))?;
        let kept = old.and_then(|old| old.lines().find(|line| line.starts_with(&format!("| `{kind}` |"))));
        let kept = kept.and_then(|line| line.trim_end_matches([' ', '|']).rsplit_once(" | "));
        let about = match kept {
            Some((_, about)) => about.to_owned(),
            None => abouts.get(family).cloned().unwrap_or_default(),
        };
        writeln!(table, "| `{kind}` | `{class}` | `{gguf}` | {about} |").expect("a String takes everything");
    }
    Ok(table)
}

/// Every block type: its name, elements and bits.
fn block_types(sources: &[(&str, &str)]) -> Result<Vec<(String, f64, f64)>, String> {
    let rows = calls(source(sources, BLOCK_TYPE)?, "(BlockType::", ")");
    let rows: Vec<_> = rows.into_iter().filter(|row| row.len() == 5).collect();
    let number = |text: &str| text.parse::<f64>().map_err(|_| format!("{BLOCK_TYPE}: {text} is no number"));
    rows.iter()
        .map(|row| Ok((row[0].clone(), number(&row[3])?, 8.0 * number(&row[4])? / number(&row[3])?)))
        .collect()
}

fn types(head: &str, sources: &[(&str, &str)]) -> Result<String, String> {
    let mut table = format!("{head}\n|---|---|---|\n");
    for (name, elements, bits) in block_types(sources)? {
        writeln!(table, "| {name} | {elements} | {} |", rounded(bits)).expect("a String takes everything");
    }
    Ok(table)
}

fn mixes(head: &str, sources: &[(&str, &str)]) -> Result<String, String> {
    let types = block_types(sources)?;
    let mut table = format!("{head}\n|---|---|---|\n");
    let text = source(sources, MIX)?;
    let all = text
        .split_once("const ALL:")
        .map_or("", |(_, after)| after.split_once("];").map_or("", |part| part.0));
    for row in calls(all, "Mix::new(", ")").iter().filter(|row| row.len() == 4) {
        let (name, kind) = (row[0].trim_matches('"'), row[1].trim_start_matches("BlockType::"));
        let bits = types.iter().find(|known| known.0 == kind).map(|known| known.2);
        let bits = bits.ok_or_else(|| format!("{MIX}: there is no type {kind}"))?;
        writeln!(table, "| `{name}` | {kind} | {} |", rounded(bits)).expect("a String takes everything");
    }
    Ok(table)
}

fn rounded(bits: f64) -> String {
    format!("{bits:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The arguments of every `begin…end` in a source: enough for tables of constants.
fn calls(text: &str, begin: &str, end: &str) -> Vec<Vec<String>> {
    let pieces = text.split(begin).skip(1).filter_map(|piece| piece.split_once(end));
    let arguments = |inner: &str| -> Vec<String> {
        inner.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    };
    pieces.map(|(inner, _)| arguments(inner)).collect()
}

/// The doc comments of an enum's variants.
fn doc_comments(text: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
    let file = syn::parse_file(text).map_err(|error| format!("{FAMILY}: {error}"))?;
    let variants = file.items.into_iter().find_map(|item| match item {
        Item::Enum(item) if item.ident == name => Some(item.variants),
        _ => None,
    });
    let variants = variants.ok_or_else(|| format!("{FAMILY} has no enum {name}"))?;
    Ok(variants.iter().map(|variant| (variant.ident.to_string(), about(&variant.attrs))).collect())
}

fn about(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(line) => Some(line.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn source<'a>(sources: &[(&str, &'a str)], path: &str) -> Result<&'a str, String> {
    let found = sources.iter().find(|source| source.0 == path);
    found.map(|source| source.1).ok_or_else(|| format!("{path} is missing"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CODE: [(&str, &str); 4] = [
        (
            FAMILY,
            "enum Family { /// Llama 2 and 3.\n Llama }\nconst ROWS: [Row; 1] = [row!(Llama, \"llama\", \"LlamaForCausalLM\", LLAMA, llama)];",
        ),
        (ARCHITECTURE, "[Architecture { name: \"llama\", family: Family::Llama, is_interleaved: true }]"),
        (MIX, "const ALL: [Mix; 1] = [Mix::new(\"q8_0\", BlockType::Q8_0, Size::One, 7)];"),
        (BLOCK_TYPE, "[(BlockType::Q8_0, 8, \"Q8_0\", 32, 34)]"),
    ];

    #[test]
    fn tables_follow_the_code_and_keep_translations() {
        let empty = "<!-- models: families -->\n<!-- end of models -->\n<!-- models: types -->\n<!-- end of models -->\n\
                     <!-- models: mixes -->\n<!-- end of models -->\n";
        let english = render(empty, &DOCUMENTS[0].1, &CODE).unwrap();
        for line in [
            "| `llama` | `LlamaForCausalLM` | `llama` | Llama 2 and 3. |",
            "| Q8_0 | 32 | 8.5 |",
            "| `q8_0` | Q8_0 | 8.5 |",
        ] {
            assert!(english.contains(line), "{english}");
        }
        let translated = render(empty, &DOCUMENTS[1].1, &CODE).unwrap().replace("Llama 2 and 3.", "羊驼");
        assert_eq!(render(&translated, &DOCUMENTS[1].1, &CODE).unwrap(), translated);
        assert!(render("", &DOCUMENTS[0].1, &CODE).unwrap_err().contains("no table of families"));
    }
}
