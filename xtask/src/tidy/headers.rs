//! Every Rust file opens with `//!`: what it is and what it must not know.
//!
//! It must not judge the words.

use super::Fault;
use super::source::Source;

pub fn check(source: &Source) -> Option<Fault> {
    let first = source.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
    let words =
        first.and_then(|line| line.strip_prefix("//!")).map_or(0, |text| text.split_whitespace().count());
    (words < 3).then(|| {
        Fault::new(&source.path, 1, "header", "open the file with `//!`: what it is, what it must not know")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_its_purpose() {
        for (text, good) in [
            ("//! Counts the words.\nfn f() {}\n", true),
            ("\n//! Counts the words.\n", true),
            ("fn f() {}\n", false),
            ("//!\nfn f() {}\n", false),
            ("// Counts the words.\n", false),
            ("", false),
        ] {
            let source = Source::parse("a.rs", text).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(check(&source).is_none(), good, "{text:?}");
        }
    }
}
