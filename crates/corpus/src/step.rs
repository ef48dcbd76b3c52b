//! The steps that a document walks through: one pure function a file, all behind one interface.
//! A step must not know the others, nor where the document came from.

pub mod duplicate;
pub mod encoded_data;
pub mod few_letters;
pub mod generated;
pub mod html;
mod html_entities;
mod html_output;
pub mod minified;
pub mod near_empty;
pub mod normalise;
pub mod repetitive;
pub mod replacement;

use crate::{Document, Reason};

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it.
    Keep,
    /// Dropped, and why.
    Drop(Reason),
}

/// One step: it changes the text, or judges the document.
pub enum Step {
    /// Gives the text that takes the place of the document's, or None where it stays as it is.
    Transform(fn(&Document) -> Option<String>),
    /// Judges.
    Check(fn(&Document) -> Verdict),
}

/// All steps on single documents, in order, cheap ones and those that spare others work first. Two more need to know
/// the other documents and live in [`crate::build()`]: duplicates and a group's share.
pub const STEPS: [Step; 9] = [
    Step::Transform(html::transform),
    Step::Transform(normalise::transform),
    Step::Check(near_empty::check),
    Step::Check(generated::check),
    Step::Check(minified::check),
    Step::Check(replacement::check),
    Step::Check(few_letters::check),
    Step::Check(encoded_data::check),
    Step::Check(repetitive::check),
];

/// Walks a document through all steps.
pub fn apply(document: &mut Document) -> Verdict {
    for step in &STEPS {
        match step {
            Step::Transform(transform) => {
                if let Some(text) = transform(document) {
                    document.text = text;
                }
            }
            Step::Check(check) => {
                let verdict = check(document);
                if verdict != Verdict::Keep {
                    return verdict;
                }
            }
        }
    }
    Verdict::Keep
}

/// Shared by the steps' tests: each case is a kind, a text and whether the check drops it.
#[cfg(test)]
pub(crate) fn assert_verdicts(
    check: fn(&Document) -> Verdict,
    reason: Reason,
    cases: &[(crate::Kind, &str, bool)],
) {
    for (kind, text, dropped) in cases {
        let document = Document::new("group", "group/file", *kind, (*text).to_string());
        let expected = if *dropped { Verdict::Drop(reason) } else { Verdict::Keep };
        assert_eq!(check(&document), expected, "{kind:?} {text:.80}");
    }
}
