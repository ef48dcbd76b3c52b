//! Functions of at most 70 lines and files of at most 600 lines without tests, held as a ratchet.
//!
//! What was longer when the rule came is in the baseline with its size: it may shrink, never grow, and when it
//! shrinks the baseline follows. A long table is exempt where `// tidy: table: reason` says so.

use std::collections::BTreeMap;

use super::Fault;
use super::baseline::{Baseline, PATH};
use super::source::Source;

/// The longest function, from its `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// The longest file, its tests not counted.
pub const FILE_LINES_MAX: usize = 600;

pub fn check(sources: &[Source], baseline: &Baseline) -> Vec<Fault> {
    let found = offenders(sources);
    let mut faults = compare(&found.functions, &baseline.functions, "a function", FUNCTION_LINES_MAX);
    faults.extend(compare(&found.files, &baseline.files, "a file without its tests", FILE_LINES_MAX));
    faults
}

/// Everything over its limit. A function's key is `path::name`; of several with one name the longest counts.
pub fn offenders(sources: &[Source]) -> Baseline {
    let mut found = Baseline::default();
    for source in sources {
        let lines = source.lines_without_tests();
        if lines > FILE_LINES_MAX && !source.is_table(1) {
            found.files.insert(source.path.clone(), lines);
        }
        for function in &source.functions {
            if function.lines > FUNCTION_LINES_MAX && !source.is_table(function.line) {
                let longest =
                    found.functions.entry(format!("{}::{}", source.path, function.name)).or_default();
                *longest = function.lines.max(*longest);
            }
        }
    }
    found
}

fn compare(
    found: &BTreeMap<String, usize>,
    allowed: &BTreeMap<String, usize>,
    what: &str,
    limit: usize,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, &lines) in found {
        match allowed.get(name) {
            None => faults.push(fault(name, format!("{name} has {lines} lines; {what} has at most {limit}"))),
            Some(&known) if lines > known => {
                faults.push(fault(name, format!("{name} grew from {known} to {lines} lines; split it")));
            }
            Some(&known) if lines < known => {
                faults.push(fault(
                    name,
                    format!("{name} shrank to {lines} lines: lower its {known} in {PATH}"),
                ));
            }
            Some(_) => {}
        }
    }
    for name in allowed.keys().filter(|name| !found.contains_key(*name)) {
        faults.push(fault(name, format!("{name} is within {limit} lines or gone: delete it from {PATH}")));
    }
    faults
}

fn fault(name: &str, message: String) -> Fault {
    Fault::new(name.split("::").next().unwrap_or(name), 0, "size", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    fn sources(text: &str) -> Vec<Source> {
        vec![Source::parse("a.rs", text).unwrap_or_else(|fault| panic!("{fault}"))]
    }

    #[test]
    fn the_ratchet_only_turns_one_way() {
        for (lines, allowed, good) in [
            (70, None, true),
            (71, None, false),
            (80, Some(80), true),
            (81, Some(80), false),
            (79, Some(80), false),
            (70, Some(80), false),
        ] {
            let mut baseline = Baseline::default();
            if let Some(allowed) = allowed {
                baseline.functions.insert("a.rs::long".to_owned(), allowed);
            }
            let faults = check(&sources(&function(lines)), &baseline);
            assert_eq!(faults.is_empty(), good, "{lines} lines, {allowed:?} allowed: {faults:?}");
        }
    }

    #[test]
    fn files_count_without_their_tests_and_tables_are_exempt() {
        let items = "const A: u8 = 1;\n";
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", items.repeat(300));
        for (text, good) in [
            (items.repeat(600), true),
            (items.repeat(601), false),
            (items.repeat(590) + &tests, true),
            (format!("// tidy: table: one row a character\n{}", items.repeat(700)), true),
        ] {
            assert_eq!(check(&sources(&text), &Baseline::default()).is_empty(), good);
        }
    }
}
