//! The tables of recipe keys in the documents are what the code says: key, type, default and doc comment of every
//! struct that serde reads in `SOURCES`.
//!
//! A table stands between `<!-- keys: Struct -->` and `<!-- end of keys -->`. In a translation the last column is the
//! translator's, kept by key. It must not know what any key means.

use std::collections::BTreeMap;
use std::fmt::Write;

use syn::{Attribute, Expr, Fields, ImplItem, Item, ItemEnum, ItemStruct, Lit, Meta, Stmt, Type};

use super::Fault;

/// Where recipes' structs are.
pub const SOURCES: [&str; 4] = [
    "crates/taoye/src/recipe.rs",
    "crates/taoye/src/recipe/tuning.rs",
    "crates/train/src/options.rs",
    "crates/train/src/schedule.rs",
];
/// The documents with their tables' words.
pub const DOCUMENTS: [(&str, Words); 2] =
    [("docs/training.md", ENGLISH), ("docs/training.zh-CN.md", CHINESE)];

const BEGIN: &str = "<!-- keys: ";
const END: &str = "<!-- end of keys -->";

/// A language's words for what a table says beside the code's own.
pub struct Words {
    head: &'static str,
    needed: &'static str,
    none: &'static str,
    table: &'static str,
    or: &'static str,
    list: &'static str,
    /// By Rust's name.
    types: [(&'static str, &'static str); 8],
    is_translation: bool,
}

const ENGLISH: Words = Words {
    head: "| Key | Type | Default | What it is |",
    needed: "needed",
    none: "none",
    table: "table, below",
    or: " or ",
    list: "list of ",
    types: [
        ("usize", "whole number"),
        ("u32", "whole number"),
        ("u64", "whole number"),
        ("f32", "number"),
        ("f64", "number"),
        ("bool", "true or false"),
        ("String", "text"),
        ("PathBuf", "path"),
    ],
    is_translation: false,
};

const CHINESE: Words = Words {
    head: "| 键 | 类型 | 默认值 | 含义 |",
    needed: "必填",
    none: "无",
    table: "表，见下",
    or: " 或 ",
    list: "列表：",
    types: [
        ("usize", "整数"),
        ("u32", "整数"),
        ("u64", "整数"),
        ("f32", "数"),
        ("f64", "数"),
        ("bool", "true 或 false"),
        ("String", "文字"),
        ("PathBuf", "路径"),
    ],
    is_translation: true,
};

/// Each document whose tables are not what `sources` (path, text) say.
pub fn check(document: impl Fn(&str) -> Option<String>, sources: &[(&str, &str)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, words) in &DOCUMENTS {
        let text = document(path).unwrap_or_default();
        match render(&text, words, sources) {
            Ok(expected) if expected == text => {}
            Ok(_) => {
                faults.push(fault(path, "its key tables are not what the code says; run `cargo xtask docs`"))
            }
            Err(message) => faults.push(fault(path, &message)),
        }
    }
    faults
}

fn fault(path: &str, message: &str) -> Fault {
    Fault::new(path, 0, "keys", message)
}

/// The document with every table written anew.
///
/// # Errors
/// What is wrong and what to do.
pub fn render(document: &str, words: &Words, sources: &[(&str, &str)]) -> Result<String, String> {
    let code = Code::read(sources)?;
    let mut rest = document;
    let mut text = String::new();
    let mut written = Vec::new();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").ok_or("a `keys` marker has no end of its own")?;
        let (old, after) =
            after.split_once(END).ok_or_else(|| format!("the table of {name} lacks `{END}`"))?;
        let table = code.table(name, words, old)?;
        write!(text, "{before}{BEGIN}{name} -->\n{table}{END}").expect("a String takes everything");
        written.push(name);
        rest = after;
    }
    text.push_str(rest);
    match code.structs.keys().find(|name| !written.contains(&name.as_str())) {
        None => Ok(text),
        Some(name) => Err(format!("no table for {name}: add a line `{BEGIN}{name} -->` and a line `{END}`")),
    }
}

/// Structs and enums that serde reads, and what their fields default to.
#[derive(Default)]
struct Code {
    structs: BTreeMap<String, ItemStruct>,
    enums: BTreeMap<String, ItemEnum>,
    /// Values of functions without arguments, and of `Default` by "Struct.field".
    values: BTreeMap<String, Expr>,
}

impl Code {
    fn read(sources: &[(&str, &str)]) -> Result<Code, String> {
        let mut code = Code::default();
        for (path, text) in sources {
            let file = syn::parse_file(text).map_err(|error| format!("{path}: {error}"))?;
            file.items.into_iter().for_each(|item| code.note(item));
        }
        Ok(code)
    }

    fn note(&mut self, item: Item) {
        match item {
            Item::Struct(item) if is_read_by_serde(&item.attrs) => {
                self.structs.insert(item.ident.to_string(), item);
            }
            Item::Enum(item) if is_read_by_serde(&item.attrs) => {
                self.enums.insert(item.ident.to_string(), item);
            }
            Item::Fn(item) => {
                if let Some(value) = only_value(*item.block) {
                    self.values.insert(item.sig.ident.to_string(), value);
                }
            }
            Item::Impl(item) if item.trait_.as_ref().is_some_and(|(_, path, _)| path.is_ident("Default")) => {
                let owner = type_name(&item.self_ty);
                for member in item.items {
                    let ImplItem::Fn(function) = member else { continue };
                    let Some(Expr::Struct(value)) = only_value(function.block) else { continue };
                    for field in value.fields {
                        if let syn::Member::Named(name) = field.member {
                            self.values.insert(format!("{owner}.{name}"), field.expr);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn table(&self, name: &str, words: &Words, old: &str) -> Result<String, String> {
        let item = self.structs.get(name).ok_or_else(|| format!("there is no struct {name} to tell of"))?;
        let Fields::Named(fields) = &item.fields else { return Err(format!("{name} has no named fields")) };
        let has_defaults = serde(&item.attrs).contains_key("default");
        let mut table = format!("{}\n|---|---|---|---|\n", words.head);
        for field in &fields.named {
            let key = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
            let serde = serde(&field.attrs);
            let inner = inner_of(&field.ty, "Option");
            let default = match serde.get("default").map(String::as_str) {
                _ if inner.is_some() => words.none.to_owned(),
                Some("") => self.default_of(&field.ty, words),
                Some(function) => self.value(function)?,
                None if has_defaults => match format!("{name}.{key}") {
                    place if self.values.contains_key(&place) => self.value(&place)?,
                    _ => self.default_of(&field.ty, words),
                },
                None => words.needed.to_owned(),
            };
            let kept = old.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
            let kept = kept.and_then(|line| line.trim_end_matches([' ', '|']).rsplit_once(" | "));
            let about = match kept {
                Some((_, about)) if words.is_translation => about.to_owned(),
                _ => self.about(&field.attrs, inner.unwrap_or(&field.ty)),
            };
            let kind = self.kind(inner.unwrap_or(&field.ty), words)?;
            writeln!(table, "| `{key}` | {kind} | {default} | {about} |").expect("a String takes everything");
        }
        Ok(table)
    }

    fn kind(&self, of: &Type, words: &Words) -> Result<String, String> {
        if let Some(inner) = inner_of(of, "Vec") {
            return Ok(format!("{}{}", words.list, self.kind(inner, words)?));
        }
        let name = type_name(of);
        if self.structs.contains_key(&name) {
            return Ok(words.table.to_owned());
        }
        if let Some(item) = self.enums.get(&name) {
            let names: Vec<String> =
                item.variants.iter().map(|variant| format!("`{}`", variant_name(item, variant))).collect();
            return Ok(names.join(words.or));
        }
        let known = words.types.iter().find(|(rust, _)| *rust == name);
        known
            .map(|(_, word)| (*word).to_owned())
            .ok_or_else(|| format!("{name} has no word in xtask/src/tidy/keys.rs"))
    }

    /// What serde takes where a key may be left out without more being said.
    fn default_of(&self, of: &Type, words: &Words) -> String {
        match type_name(of).as_str() {
            "bool" => "`false`".into(),
            "String" | "Vec" | "PathBuf" => words.none.into(),
            name if self.structs.contains_key(name) => words.none.into(),
            _ => "`0`".into(),
        }
    }

    /// A literal or a variant's name.
    fn value(&self, place: &str) -> Result<String, String> {
        let unknown = || format!("the default {place} is no literal, no variant and no Option");
        let text = match self.values.get(place).ok_or_else(unknown)? {
            Expr::Lit(value) => match &value.lit {
                Lit::Int(number) => number.to_string(),
                Lit::Float(number) => number.to_string(),
                Lit::Bool(value) => value.value.to_string(),
                Lit::Str(text) => text.value(),
                _ => return Err(unknown()),
            },
            Expr::Path(path) => {
                let segments = &path.path.segments;
                let [kind, variant] =
                    [segments.first(), segments.last()].map(|s| s.map(|s| s.ident.to_string()));
                let item = self.enums.get(&kind.unwrap_or_default()).ok_or_else(unknown)?;
                let found = item.variants.iter().find(|other| Some(other.ident.to_string()) == variant);
                variant_name(item, found.ok_or_else(unknown)?)
            }
            _ => return Err(unknown()),
        };
        Ok(format!("`{text}`"))
    }

    /// A field's doc comment, and those of its type's variants.
    fn about(&self, attributes: &[Attribute], of: &Type) -> String {
        let mut about = doc(attributes);
        if let Some(item) = self.enums.get(&type_name(of)) {
            for variant in &item.variants {
                let _ = write!(about, " `{}`: {}", variant_name(item, variant), doc(&variant.attrs));
            }
        }
        about.replace('|', "\\|")
    }
}

/// The value of a block that is nothing else.
fn only_value(block: syn::Block) -> Option<Expr> {
    match <[Stmt; 1]>::try_from(block.stmts) {
        Ok([Stmt::Expr(value, None)]) => Some(value),
        _ => None,
    }
}

fn is_read_by_serde(attributes: &[Attribute]) -> bool {
    let mut found = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let _ = attribute.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("Deserialize");
            Ok(())
        });
    }
    found
}

/// The serde attributes with their values, empty where they have none.
fn serde(attributes: &[Attribute]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let value = match meta.value() {
                Ok(value) => value.parse::<syn::LitStr>()?.value(),
                Err(_) => String::new(),
            };
            found.insert(name, value);
            Ok(())
        });
    }
    found
}

fn variant_name(item: &ItemEnum, variant: &syn::Variant) -> String {
    let name = variant.ident.to_string();
    if let Some(own) = serde(&variant.attrs).remove("rename") {
        return own;
    }
    let between = match serde(&item.attrs).get("rename_all").map(String::as_str) {
        Some("snake_case") => "_",
        Some("kebab-case") => "-",
        Some("lowercase") => "",
        _ => return name,
    };
    let mut renamed = String::new();
    for (place, character) in name.chars().enumerate() {
        if character.is_uppercase() && place > 0 {
            renamed.push_str(between);
        }
        renamed.extend(character.to_lowercase());
    }
    renamed
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(value) => match &value.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// `T` of `outer<T>`.
fn inner_of<'a>(of: &'a Type, outer: &str) -> Option<&'a Type> {
    let Type::Path(path) = of else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == outer)?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(inner) => Some(inner),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SOURCE: &str = r#"
        /// All.
        #[derive(Clone, Serialize, Deserialize)]
        struct All {
            /// How many,
            /// in all.
            count: usize,
            /// Left out.
            #[serde(default)]
            every: u64,
            /// From a function.
            #[serde(default = "one")]
            clip: f32,
            /// Perhaps.
            #[serde(skip_serializing_if = "Option::is_none")]
            own: Option<f64>,
            /// The rest.
            #[serde(default)]
            part: Part,
        }
        /// A part.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Part { /** Which | what. */ kind: Kind, /** Files. */ inputs: Vec<PathBuf>, /** Flag. */ on: bool }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Kind { /** One. */ #[serde(rename = "adamw")] AdamW, /** Two. */ MatchRms }
        struct Unread { x: usize }
        impl Default for Part { fn default() -> Self { Part { kind: Kind::MatchRms, inputs: 1e-3 } } }
        fn one() -> f32 { 1.0 }
    "#;

    const DOCUMENT: &str = "Before.\n<!-- keys: All -->\n<!-- end of keys -->\nBetween.\n\
                            <!-- keys: Part -->\n<!-- end of keys -->\nAfter.\n";

    fn render_with(document: &str, words: &Words) -> Result<String, String> {
        render(document, words, &[("a.rs", SOURCE)])
    }

    #[test]
    fn tables_hold_keys_types_defaults_and_doc_comments() {
        let text = render_with(DOCUMENT, &ENGLISH).unwrap();
        for row in [
            "Before.\n<!-- keys: All -->\n| Key | Type | Default | What it is |\n|---|---|---|---|\n",
            "| `count` | whole number | needed | How many, in all. |\n",
            "| `every` | whole number | `0` | Left out. |\n",
            "| `clip` | number | `1.0` | From a function. |\n",
            "| `own` | number | none | Perhaps. |\n",
            "| `part` | table, below | none | The rest. |\n<!-- end of keys -->\nBetween.\n",
            "| `kind` | `adamw` or `match_rms` | `match_rms` | Which \\| what. `adamw`: One. `match_rms`: Two. |\n",
            "| `inputs` | list of path | `1e-3` | Files. |\n",
            "| `on` | true or false | `false` | Flag. |\n<!-- end of keys -->\nAfter.\n",
        ] {
            assert!(text.contains(row), "{row}\nis not in\n{text}");
        }
        assert_eq!(render_with(&text, &ENGLISH).unwrap(), text);
    }

    #[test]
    fn a_translation_keeps_its_last_column_and_nothing_else() {
        let text = render_with(DOCUMENT, &CHINESE).unwrap();
        let translated = text.replace("From a function.", "裁剪").replace("| `1.0` |", "| `7` |");
        let again = render_with(&translated, &CHINESE).unwrap();
        assert!(again.contains("| `clip` | 数 | `1.0` | 裁剪 |\n"), "{again}");
        let english = render_with(&translated, &ENGLISH).unwrap();
        assert!(english.contains("| `clip` | number | `1.0` | From a function. |\n"), "{english}");
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let without = |text: &str| DOCUMENT.replace(text, "");
        let cases = [
            (without("<!-- keys: Part -->\n"), "no table for Part"),
            (without("<!-- end of keys -->\nAfter."), "the table of Part lacks"),
            (format!("{DOCUMENT}<!-- keys: Unread -->\n<!-- end of keys -->\n"), "no struct Unread"),
        ];
        for (document, expected) in cases {
            let message = render_with(&document, &ENGLISH).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        let changed = SOURCE.replace("clip: f32", "clip: Duration");
        let message = render(DOCUMENT, &ENGLISH, &[("a.rs", &changed)]).unwrap_err();
        assert!(message.contains("Duration has no word"), "{message}");
    }

    #[test]
    fn a_stale_document_is_a_fault_that_names_the_command() {
        let sources = [("a.rs", SOURCE)];
        let faults = check(|_| Some(DOCUMENT.to_owned()), &sources);
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|fault| fault.message.contains("cargo xtask docs")), "{faults:?}");
        let fresh = |path: &str| {
            let (_, words) = DOCUMENTS.iter().find(|(other, _)| *other == path).unwrap();
            Some(render_with(DOCUMENT, words).unwrap())
        };
        assert_eq!(check(fresh, &sources), []);
    }
}
