//! A Rust file as the rules see it: its text, its tokens, its functions, and which lines are tests.
//!
//! It must not know any rule.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Fault;

/// One Rust file.
pub struct Source {
    /// From the workspace's root.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// Tokens in their order, groups flattened; comments are not among them.
    pub tokens: Vec<Token>,
    /// Every function with a body.
    pub functions: Vec<Function>,
    /// Lines that belong to tests.
    test_lines: Vec<RangeInclusive<usize>>,
    /// Modules declared for tests whose text is in another file.
    test_modules: Vec<String>,
    /// Whether the whole file is test code.
    pub is_test: bool,
}

/// A word or sign of the language and its line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a punctuation character, `"` for any literal, or a bracket.
    pub text: String,
    /// The line where it starts.
    pub line: usize,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, behind its type's where it has one.
    pub name: String,
    /// The line of its `fn`.
    pub line: usize,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
}

impl Source {
    /// Parses one file.
    ///
    /// # Errors
    /// A fault that says where the file stops being Rust.
    pub fn parse(path: &str, text: &str) -> Result<Source, Fault> {
        let not_rust = |line: usize, message: String| Fault::new(path, line, "syntax", message);
        let stream: TokenStream = text
            .parse()
            .map_err(|error: proc_macro2::LexError| not_rust(error.span().start().line, error.to_string()))?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let file =
            syn::parse_file(text).map_err(|error| not_rust(error.span().start().line, error.to_string()))?;
        let mut walker = Walker::default();
        walker.visit_file(&file);
        Ok(Source {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
            functions: walker.functions,
            test_lines: walker.test_lines,
            test_modules: walker.test_modules,
            is_test: is_test_path(path),
        })
    }

    /// Whether `line` (from 1) belongs to a test.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.is_test || self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Lines that are no tests.
    pub fn lines_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|&line| !self.is_test_line(line)).count()
    }

    /// Whether the marker `// tidy: table` with a reason stands in one of the three lines above `line`.
    ///
    /// Line 1 stands for the whole file: there the marker is looked for in the first ten lines.
    pub fn is_table(&self, line: usize) -> bool {
        let (skip, take) = if line == 1 { (0, 10) } else { (line.saturating_sub(4), 3.min(line - 1)) };
        self.text.lines().skip(skip).take(take).any(|text| {
            text.trim().strip_prefix("// tidy: table").is_some_and(|reason| {
                reason.trim_start_matches([':', ',', ' ']).chars().filter(|c| c.is_alphabetic()).count() >= 8
            })
        })
    }
}

/// Parses all files and marks those that a `#[cfg(test)] mod name;` elsewhere makes tests.
pub fn parse_all(files: Vec<(String, String)>) -> (Vec<Source>, Vec<Fault>) {
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for (path, text) in files {
        match Source::parse(&path, &text) {
            Ok(source) => sources.push(source),
            Err(fault) => faults.push(fault),
        }
    }
    let test_files: BTreeSet<String> = sources.iter().flat_map(test_module_files).collect();
    for source in &mut sources {
        source.is_test |= test_files.contains(&source.path);
    }
    (sources, faults)
}

/// Where the text of the test modules that `source` declares can be.
fn test_module_files(source: &Source) -> Vec<String> {
    let (folder, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let home = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let places = |module: &String| [format!("{home}/{module}.rs"), format!("{home}/{module}/mod.rs")];
    source.test_modules.iter().flat_map(places).collect()
}

/// Whether a file is test code by where it lies: a folder of tests, benches or examples.
fn is_test_path(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    let name = parts.next().unwrap_or_default();
    name == "tests.rs" || parts.any(|part| matches!(part, "tests" | "benches" | "examples"))
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| tokens.push(Token { text, line });
        match tree {
            TokenTree::Ident(word) => push(word.to_string(), line),
            TokenTree::Punct(sign) => push(sign.as_char().to_string(), line),
            TokenTree::Literal(_) => push("\"".to_owned(), line),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.to_owned(), line);
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
        }
    }
}

/// Collects functions and test code on a walk through a file.
#[derive(Default)]
struct Walker {
    functions: Vec<Function>,
    test_lines: Vec<RangeInclusive<usize>>,
    test_modules: Vec<String>,
    owner: String,
}

impl Walker {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span().start().line;
        let lines = block.span().end().line + 1 - line;
        self.functions.push(Function { name: format!("{}{}", self.owner, signature.ident), line, lines });
    }

    fn note_tests(&mut self, attributes: &[syn::Attribute], whole: proc_macro2::Span) {
        if attributes.iter().any(is_test_attribute) {
            self.test_lines.push(whole.start().line..=whole.end().line);
        }
    }

    /// Runs `walk` with function names prefixed by a type's or trait's name.
    fn within(&mut self, owner: String, walk: impl FnOnce(&mut Walker)) {
        let outer = std::mem::replace(&mut self.owner, owner);
        walk(self);
        self.owner = outer;
    }
}

impl<'ast> Visit<'ast> for Walker {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_tests(&item.attrs, item.span());
        self.function(&item.sig, &item.block);
        self.within(String::new(), |walker| visit::visit_item_fn(walker, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_tests(&item.attrs, item.span());
        self.function(&item.sig, &item.block);
        self.within(String::new(), |walker| visit::visit_impl_item_fn(walker, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.note_tests(&item.attrs, item.span());
        let owner = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let owner = owner.map_or_else(String::new, |name| format!("{name}::"));
        self.within(owner, |walker| visit::visit_item_impl(walker, item));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.within(format!("{}::", item.ident), |walker| visit::visit_item_trait(walker, item));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.note_tests(&item.attrs, item.span());
        if item.content.is_none() && item.attrs.iter().any(is_test_attribute) {
            self.test_modules.push(item.ident.to_string());
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tests(&item.attrs, item.span());
    }
}

/// `#[test]`, `#[cfg(test)]` and what contains it, but not `#[cfg(not(test))]`.
fn is_test_attribute(attribute: &syn::Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let mut tokens = Vec::new();
    flatten(list.tokens.clone(), &mut tokens);
    let has = |word: &str| tokens.iter().any(|token| token.text == word);
    attribute.path().is_ident("cfg") && has("test") && !has("not")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, text: &str) -> Source {
        Source::parse(path, text).unwrap_or_else(|fault| panic!("{fault}"))
    }

    #[test]
    fn functions_have_names_and_extents() {
        let text =
            "fn one() {}\nimpl Thing {\n    #[inline]\n    fn two(\n        &self,\n    ) {\n    }\n}\n";
        let expected = [("one", 1, 1), ("Thing::two", 4, 4)].map(|(name, line, lines)| Function {
            name: name.into(),
            line,
            lines,
        });
        assert_eq!(parse("a.rs", text).functions, expected);
    }

    #[test]
    fn test_lines_are_told_apart() {
        let text =
            "fn one() {}\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n#[cfg(not(test))]\nfn three() {}\n";
        let source = parse("crates/a/src/lib.rs", text);
        let tests: Vec<usize> = (1..=7).filter(|&line| source.is_test_line(line)).collect();
        assert_eq!(tests, [2, 3, 4, 5]);
        assert_eq!(source.lines_without_tests(), 3);
    }

    #[test]
    fn files_of_tests_are_known_by_place_or_declaration() {
        let files = [
            ("crates/a/src/lib.rs", "#[cfg(test)]\nmod oracle;\nmod real;\n"),
            ("crates/a/src/oracle.rs", "fn f() {}\n"),
            ("crates/a/src/real.rs", "fn f() {}\n#[cfg(test)]\nmod odd;\n"),
            ("crates/a/src/real/odd.rs", ""),
            ("crates/a/tests/whole.rs", ""),
            ("crates/a/src/x/tests.rs", ""),
        ];
        let (sources, faults) = parse_all(files.map(|(path, text)| (path.into(), text.into())).to_vec());
        assert!(faults.is_empty(), "{faults:?}");
        let tests: Vec<bool> = sources.iter().map(|source| source.is_test).collect();
        assert_eq!(tests, [false, true, false, true, true, true]);
    }

    #[test]
    fn a_table_needs_its_marker_and_a_reason() {
        for (text, expected) in [
            ("// tidy: table: one row per kernel\nfn f() {}\n", true),
            ("// tidy: table\nfn f() {}\n", false),
            ("fn e() {}\nfn f() {}\n", false),
        ] {
            assert_eq!(parse("a.rs", text).is_table(2), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_rust_is_a_fault() {
        let fault = Source::parse("a.rs", "fn f( {}\n").err().map(|fault| fault.rule);
        assert_eq!(fault, Some("syntax"));
    }
}
