//! The list of functions and files that were over their limit when the limit came.
//!
//! It must not know the limits.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// Where the list lies, from the workspace's root.
pub const PATH: &str = "xtask/tidy-baseline.toml";

/// Sizes in lines by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Keys are `path::name`.
    pub functions: BTreeMap<String, usize>,
    /// Keys are paths.
    pub files: BTreeMap<String, usize>,
}

/// Reads the list.
pub fn parse(text: &str) -> Result<Baseline> {
    let table: Table = text.parse().with_context(|| format!("{PATH} is not TOML"))?;
    Ok(Baseline { functions: sizes(&table, "functions")?, files: sizes(&table, "files")? })
}

/// Writes the list.
pub fn render(baseline: &Baseline) -> String {
    let mut text =
        "# Functions and files longer than the limits, in lines. They may only shrink.\n".to_owned();
    for (name, entries) in [("functions", &baseline.functions), ("files", &baseline.files)] {
        text.push_str(&format!("\n[{name}]\n"));
        for (key, lines) in entries {
            text.push_str(&format!("\"{key}\" = {lines}\n"));
        }
    }
    text
}

fn sizes(table: &Table, name: &str) -> Result<BTreeMap<String, usize>> {
    let Some(value) = table.get(name) else { return Ok(BTreeMap::new()) };
    let entries = value.as_table().with_context(|| format!("{PATH}: {name} is no table"))?;
    let size = |(key, value): (&String, &Value)| {
        let lines = value.as_integer().and_then(|lines| usize::try_from(lines).ok());
        Ok((key.clone(), lines.with_context(|| format!("{PATH}: {key} needs a number of lines"))?))
    };
    entries.iter().map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut baseline = Baseline::default();
        baseline.functions.insert("a/b.rs::Thing::f".to_owned(), 80);
        baseline.files.insert("a/b.rs".to_owned(), 700);
        assert_eq!(parse(&render(&baseline)).ok(), Some(baseline));
        assert_eq!(parse("").ok(), Some(Baseline::default()));
        assert!(parse("[files]\n\"a.rs\" = \"long\"\n").is_err());
    }
}
