//! Crates depend on each other only as the table of `docs/ARCHITECTURE.md` allows.
//!
//! It must not know what a crate does. Dependencies of tests are free: a test may look at both sides of a boundary.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use toml::Table;

use super::Fault;

const DOCUMENT: &str = "docs/ARCHITECTURE.md";

/// Compares the table in the text of `docs/ARCHITECTURE.md` with the manifests, given as path and text.
pub fn check(architecture: &str, manifests: &[(&str, &str)]) -> Result<Vec<Fault>> {
    let allowed = read_table(architecture);
    if allowed.is_empty() {
        let message = "no table whose last column is \"may depend on\"";
        return Ok(vec![Fault::new(DOCUMENT, 0, "dependencies", message)]);
    }
    let mut packages = BTreeMap::new();
    for &(path, text) in manifests {
        let table: Table = text.parse().with_context(|| format!("{path} is not TOML"))?;
        let name =
            table.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str());
        if let Some(name) = name {
            packages.insert(name.to_owned(), (path, dependencies(&table)));
        }
    }
    let mut faults = Vec::new();
    for (name, (path, found)) in &packages {
        let ours = found.iter().filter(|dependency| packages.contains_key(*dependency));
        match allowed.get(name) {
            // A package beside the crates (the tests that drive the binary) stands outside the order.
            None if !path.starts_with("crates/") => {}
            None => faults.push(Fault::new(
                path,
                0,
                "dependencies",
                format!("{name} is not in the table of {DOCUMENT}"),
            )),
            Some(Allowed::All) => {}
            Some(Allowed::These(names)) => {
                faults.extend(ours.filter(|dependency| !names.contains(*dependency)).map(|dependency| {
                    let message =
                        format!("{name} may not depend on {dependency}: see the table of {DOCUMENT}");
                    Fault::new(path, 0, "dependencies", message)
                }));
            }
        }
    }
    for (name, entry) in &allowed {
        let mut missing = vec![name];
        if let Allowed::These(names) = entry {
            missing.extend(names);
        }
        faults.extend(missing.into_iter().filter(|name| !packages.contains_key(*name)).map(|missing| {
            let message = format!("the row of {name} names {missing}, and there is no such package");
            Fault::new(DOCUMENT, 0, "dependencies", message)
        }));
    }
    Ok(faults)
}

/// What a row of the table allows.
enum Allowed {
    All,
    These(BTreeSet<String>),
}

/// The rows of the table whose last column is "may depend on".
fn read_table(text: &str) -> BTreeMap<String, Allowed> {
    let mut rows = BTreeMap::new();
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with('|') || !line.trim_end().ends_with("may depend on |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for line in table {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let (Some(name), Some(last)) = (cells.first(), cells.last()) else { continue };
        let names = last.split(',').map(|name| name.trim().trim_matches('`').to_owned());
        let allowed = match *last {
            "all" => Allowed::All,
            "–" | "-" => Allowed::These(BTreeSet::new()),
            _ => Allowed::These(names.collect()),
        };
        rows.insert(name.trim_matches('`').to_owned(), allowed);
    }
    rows
}

/// The names of all packages that a manifest's code, not its tests, depends on.
fn dependencies(manifest: &Table) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(|target| target.as_table());
    let tables = targets.into_iter().flat_map(Table::values).filter_map(|target| target.as_table());
    std::iter::once(manifest)
        .chain(tables)
        .flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")])
        .filter_map(|section| section?.as_table())
        .flat_map(|section| section.iter())
        .map(|(key, value)| value.get("package").and_then(|name| name.as_str()).unwrap_or(key).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "text\n\n| Crate | One responsibility | may depend on |\n|---|---|---|\n\
        | `low` | bottom | – |\n| `high` | top | low |\n| `all` | binary | all |\n\nmore\n";

    fn manifest(name: &str, rest: &str) -> (String, String) {
        (format!("crates/{name}/Cargo.toml"), format!("[package]\nname = \"{name}\"\n{rest}"))
    }

    #[test]
    fn directions_are_held() {
        for (low, high, extra, expected) in [
            ("", "[dependencies]\nlow.workspace = true\nserde = \"1\"\n", None, vec![]),
            ("[dependencies]\nhigh.workspace = true\n", "", None, vec!["low may not depend on high"]),
            ("[dev-dependencies]\nhigh.workspace = true\n", "", None, vec![]),
            ("[build-dependencies]\nhigh = {}\n", "", None, vec!["low may not depend on high"]),
            (
                "[target.x.dependencies]\nh = { package = \"high\" }\n",
                "",
                None,
                vec!["low may not depend on high"],
            ),
            ("", "", Some("new"), vec!["new is not in the table"]),
        ] {
            let all = manifest("all", "[dependencies]\nlow = {}\nhigh = {}\n");
            let mut files = vec![manifest("low", low), manifest("high", high), all];
            files.extend(extra.map(|name| manifest(name, "")));
            let files: Vec<(&str, &str)> =
                files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let faults = check(TABLE, &files).unwrap_or_else(|error| panic!("{error}"));
            let ok = faults.len() == expected.len()
                && faults.iter().zip(&expected).all(|(fault, start)| fault.message.starts_with(start));
            assert!(ok, "{faults:?}");
        }
    }

    #[test]
    fn the_table_names_only_what_there_is() {
        let low = manifest("low", "");
        let faults = check(TABLE, &[(&low.0, &low.1)]).unwrap_or_else(|error| panic!("{error}"));
        let rows: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows.iter().all(|row| row.ends_with("there is no such package")), "{rows:?}");
        assert_eq!(check("no table", &[]).map(|faults| faults.len()).ok(), Some(1));
    }
}
