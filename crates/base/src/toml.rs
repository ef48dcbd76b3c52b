//! Recipes' errors: TOML into a type, and where that fails the file, line, column, key and nearest known key.
//! It must not know any recipe.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Parses a TOML text into `T`. Give every struct in `T` `#[serde(deny_unknown_fields)]`, so that a misspelt key is
/// an error here and never ignored. `path` is only shown.
///
/// # Errors
/// [`Error::Toml`] with line and column (from one), the key's dotted path, and for an unknown key the nearest known.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (line, column) = line_and_column(text, span.start);
        let message = error.message().trim().replace('\n', "; ");
        Error::Toml {
            path: path.to_path_buf(),
            line,
            column,
            key: DeTable::parse(text).map(|table| key_at(table.get_ref(), &span)).unwrap_or_default(),
            suggestion: nearest_known_key(&message),
            message,
        }
    })
}

/// Line and column (in characters), both from one, of a byte offset.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |position| position + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The dotted path of the innermost key whose name or value covers the span.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> String {
    let mut best: Option<(usize, String)> = None;
    visit(table, String::new(), span, &mut best);
    best.map(|(_, path)| path).unwrap_or_default()
}

fn visit(table: &DeTable<'_>, prefix: String, span: &Range<usize>, best: &mut Option<(usize, String)>) {
    for (name, value) in table {
        let name_text: &str = name.get_ref();
        let path = if prefix.is_empty() { name_text.to_string() } else { format!("{prefix}.{name_text}") };
        consider(name.span(), &path, span, best);
        visit_value(value, path, span, best);
    }
}

fn visit_value(
    value: &Spanned<DeValue<'_>>,
    path: String,
    span: &Range<usize>,
    best: &mut Option<(usize, String)>,
) {
    consider(value.span(), &path, span, best);
    match value.get_ref() {
        DeValue::Table(table) => visit(table, path, span, best),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit_value(item, format!("{path}[{index}]"), span, best);
            }
        }
        _ => {}
    }
}

/// Takes a key whose place covers the span, if it is narrower than the best so far or as narrow but deeper.
fn consider(place: Range<usize>, path: &str, span: &Range<usize>, best: &mut Option<(usize, String)>) {
    let covers = place.start <= span.start && span.end <= place.end;
    if covers && best.as_ref().is_none_or(|(width, _)| place.len() <= *width) {
        *best = Some((place.len(), path.to_string()));
    }
}

/// For serde's "unknown field `x`, expected one of `a`, `b`": the listed name that is nearest to `x`.
fn nearest_known_key(message: &str) -> Option<String> {
    let is_name = message.contains("unknown field") || message.contains("unknown variant");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| is_name)?;
    quoted
        .map(|known| (strsim::normalized_damerau_levenshtein(unknown, known), known))
        .filter(|(similarity, _)| *similarity >= 0.4)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, known)| known.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Recipe {
        seed: u64,
        train: Train,
        #[serde(default)]
        stage: Vec<Stage>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Train {
        learning_rate: f32,
        batch_tokens: usize,
        schedule: Schedule,
    }
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Schedule {
        Cosine,
        WarmupStableDecay,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Stage {
        name: String,
        steps: u32,
    }

    const GOOD: &str = "seed = 1\n\n[train]\nlearning_rate = 1e-3\nbatch_tokens = 4096\nschedule = \"cosine\"\n\n\
                        [[stage]]\nname = \"a\"\nsteps = 3\n";

    fn check(change: (&str, &str), place: (usize, usize), key: &str, wanted: &[&str]) {
        let text = GOOD.replace(change.0, change.1);
        assert_ne!(text, GOOD, "the change applies");
        let error = parse::<Recipe>(&text, Path::new("recipes/x.toml")).unwrap_err();
        let message = error.to_string();
        let Error::Toml { line, column, key: found, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*line, *column), place, "{message}");
        assert_eq!(found, key, "{message}");
        let prefix = format!("recipes/x.toml:{line}:{column}: ");
        assert!(message.starts_with(&prefix), "{message}");
        for part in wanted {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }

    #[test]
    fn a_good_recipe_parses() {
        let recipe: Recipe = parse(GOOD, Path::new("x.toml")).unwrap();
        assert_eq!(recipe.train.batch_tokens, 4096);
        assert!(matches!(recipe.train.schedule, Schedule::Cosine));
        assert_eq!(recipe.stage.len(), 1);
        let stable =
            parse::<Recipe>(&GOOD.replace("cosine", "warmup-stable-decay"), Path::new("x.toml")).unwrap();
        assert!(matches!(stable.train.schedule, Schedule::WarmupStableDecay));
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        check(("seed = 1", "sede = 1"), (1, 1), "sede", &["did you mean `seed`?"]);
        check(
            ("learning_rate", "learning_rat"),
            (4, 1),
            "train.learning_rat",
            &["did you mean `learning_rate`?"],
        );
        check(("steps = 3", "steps = 3\nstepz = 4"), (11, 1), "stage[0].stepz", &["did you mean `steps`?"]);
        check(
            ("[train]", "\"训练\" = 1\n[train]"),
            (3, 1),
            "训练",
            &["unknown field `训练`", "`seed`", "`train`"],
        );
        check(("\"cosine\"", "\"cosin\""), (6, 12), "train.schedule", &["did you mean `cosine`?"]);
    }

    #[test]
    fn wrong_types_are_placed_at_the_value() {
        check(
            ("batch_tokens = 4096", "batch_tokens = \"many\""),
            (5, 16),
            "train.batch_tokens",
            &["invalid type: string \"many\"", "usize"],
        );
        check(("steps = 3", "steps = -3"), (10, 9), "stage[0].steps", &["-3", "u32"]);
        check(("name = \"a\"", "name = 1.5"), (9, 8), "stage[0].name", &["expected a string"]);
        check(("[[stage]]", "[stage]"), (8, 1), "stage", &["expected a sequence"]);
    }

    #[test]
    fn missing_keys_and_bad_syntax() {
        check(("batch_tokens = 4096\n", ""), (3, 1), "train", &["missing field `batch_tokens`"]);
        check(("batch_tokens = 4096", "batch_tokens = "), (5, 16), "", &["recipes/x.toml"]);
    }
}
