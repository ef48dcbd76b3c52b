//! `unsafe` stands only where it is allowed, and every block and implementation says why it is sound.
//!
//! It must not know what the code does. A file whose blocks share one reason allows clippy's rule at its top instead.

use super::Fault;
use super::source::Source;

/// How far above an `unsafe` its reason may stand, in lines.
const REASON_LINES: usize = 12;
/// Where a file may state one reason for all its blocks, as it allows clippy's own rule for that.
const HEADER_LINES: usize = 8;
const FILE_WIDE: &str = "clippy::undocumented_unsafe_blocks";

pub fn check(source: &Source) -> Vec<Fault> {
    let lines: Vec<&str> = source.text.lines().collect();
    let is_reasoned = lines.iter().take(HEADER_LINES).any(|line| line.contains(FILE_WIDE));
    let mut faults = Vec::new();
    for (place, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
        if !is_allowed(&source.path) {
            let message = "unsafe code lives in crates/tensor and in crates/base's files only";
            faults.push(Fault::new(&source.path, token.line, "unsafe", message));
            continue;
        }
        let next = source.tokens.get(place + 1).map_or("", |next| next.text.as_str());
        let above = &lines[token.line.saturating_sub(REASON_LINES + 1)..token.line];
        if !is_reasoned && matches!(next, "{" | "impl") && !above.iter().any(|line| line.contains("SAFETY:"))
        {
            let message = "say above it, after `// SAFETY:`, why this is sound";
            faults.push(Fault::new(&source.path, token.line, "unsafe", message));
        }
    }
    faults
}

fn is_allowed(path: &str) -> bool {
    let file = path.strip_prefix("crates/base/src/");
    path.starts_with("crates/tensor/") || file.is_some_and(|file| file == "fs.rs" || file.starts_with("fs/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_needs_a_place_and_a_reason() {
        let bare = "fn f() {\n    unsafe { g() }\n}\n";
        let reasoned = "fn f() {\n    // SAFETY: g has no needs.\n    unsafe { g() }\n}\n";
        let shared = format!("#![allow(clippy::undocumented_unsafe_blocks)] // As `Vector` says.\n{bare}");
        for (path, text, count) in [
            ("crates/tensor/src/a.rs", bare, 1),
            ("crates/tensor/src/a.rs", reasoned, 0),
            ("crates/tensor/src/a.rs", &shared, 0),
            ("crates/base/src/fs/map.rs", reasoned, 0),
            ("crates/base/src/fs.rs", bare, 1),
            ("crates/base/src/run.rs", reasoned, 1),
            ("crates/model/src/a.rs", reasoned, 1),
            ("crates/tensor/src/a.rs", "unsafe impl Send for A {}\n", 1),
            ("crates/tensor/src/a.rs", "/// # Safety\n/// None.\nunsafe fn f() {}\n", 0),
            ("crates/model/src/a.rs", "// unsafe in words\nconst A: &str = \"unsafe\";\n", 0),
        ] {
            let source = Source::parse(path, text).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(check(&source).len(), count, "{path}: {text}");
        }
    }
}
