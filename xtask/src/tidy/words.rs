//! What no source may contain: notes of unfinished work, skipped tests, debugging aids, and `unwrap` outside tests.
//!
//! It must not know which crate a file belongs to.

use super::Fault;
use super::source::{Source, Token};

/// Notes of unfinished work. Written in pieces, so that this file does not contain them.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const MACROS: [&str; 3] = [concat!("to", "do"), concat!("unimple", "mented"), concat!("db", "g")];

pub fn check(source: &Source) -> Vec<Fault> {
    let mut faults = notes(source);
    for (place, token) in source.tokens.iter().enumerate() {
        if let Some(message) = forbidden(&source.tokens[place..], source.is_test_line(token.line)) {
            faults.push(Fault::new(&source.path, token.line, "words", message));
        }
    }
    faults
}

fn notes(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let mut words = line.split(|character: char| !character.is_alphanumeric());
        if let Some(note) = words.find(|word| NOTES.contains(word)) {
            let message = format!("{note}: finish it, or file an issue and say here what holds now");
            faults.push(Fault::new(&source.path, number + 1, "words", message));
        }
    }
    faults
}

/// Why the tokens that start here may not stand here.
fn forbidden(tokens: &[Token], is_test: bool) -> Option<String> {
    let text = |place: usize| tokens.get(place).map_or("", |token| token.text.as_str());
    let next = [text(0), text(1), text(2), text(3)];
    match next {
        [name, "!", "(" | "[" | "{", _] if MACROS.contains(&name) => {
            Some(format!("{name}! may not be committed: write the real thing"))
        }
        ["#", "[", "ignore", _] => Some("a test is never skipped: make it fit, or delete it".to_owned()),
        [".", "unwrap", "(", ")"] if !is_test => {
            Some("no unwrap outside tests: return the error, or `expect` with the invariant".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_words_are_found_and_nothing_else() {
        let note = NOTES[0];
        let skip = format!("#[test]\n#[{}]\nfn f() {{}}\n", "ignore");
        for (text, lines) in [
            (format!("// {note}: later\n"), vec![1]),
            (format!("fn f() {{}} // a {}'s work\n", NOTES[2]), vec![1]),
            (format!("fn f() {{ {}!() }}\n", MACROS[0]), vec![1]),
            (format!("fn f() {{ {}!(1); }}\n", MACROS[2]), vec![1]),
            (skip, vec![2]),
            ("fn f() {\n    g().unwrap();\n}\n".to_owned(), vec![2]),
            ("fn f() {\n    println!(\"{}\", g().unwrap());\n}\n".to_owned(), vec![2]),
            ("#[test]\nfn f() {\n    g().unwrap();\n}\n".to_owned(), vec![]),
            ("/// ```\n/// g().unwrap();\n/// ```\nfn f() {}\n".to_owned(), vec![]),
            ("fn f() { g().unwrap_or(1); let s = \".unwrap()\"; }\n".to_owned(), vec![]),
            ("fn todo_list() { ignore(); }\n".to_owned(), vec![]),
        ] {
            let source = Source::parse("a.rs", &text).unwrap_or_else(|fault| panic!("{fault}"));
            let found: Vec<usize> = check(&source).iter().map(|fault| fault.line).collect();
            assert_eq!(found, lines, "{text}");
        }
    }
}
