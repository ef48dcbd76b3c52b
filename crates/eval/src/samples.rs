//! Prompts that show a person what a model has learnt, in both languages.
//!
//! It must not know any model: a closure continues each prompt.

use crate::tasks::Language;
use crate::{Error, Result};

/// Beginnings of text for a pretrained model to go on from.
pub const BEGINNINGS: [(Language, &str); 4] = [
    (Language::English, "/// Returns the number of "),
    (Language::English, "This crate provides "),
    (Language::Chinese, "这个程序"),
    (Language::Chinese, "# 简介\n\n"),
];

/// A prompt and how a model went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The prompt's language.
    pub language: Language,
    /// What the model was given.
    pub prompt: String,
    /// What it added.
    pub continuation: String,
}

/// Continues every prompt of [`BEGINNINGS`].
///
/// # Errors
/// If the model fails on a prompt; the error names it.
pub fn continue_all<E>(
    mut continuation: impl FnMut(&str) -> std::result::Result<String, E>,
) -> Result<Vec<Sample>>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    BEGINNINGS
        .iter()
        .map(|&(language, prompt)| {
            let continuation = continuation(prompt).map_err(|error| Error::Model {
                what: format!("the prompt {prompt:?}"),
                source: error.into(),
            })?;
            Ok(Sample { language, prompt: prompt.to_owned(), continuation })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_prompt_is_continued_in_its_order() {
        let samples = continue_all(|prompt: &str| Ok::<_, Error>(prompt.to_uppercase())).unwrap();
        let expected: Vec<(Language, &str)> = BEGINNINGS.to_vec();
        let found: Vec<(Language, &str)> =
            samples.iter().map(|sample| (sample.language, sample.prompt.as_str())).collect();
        assert_eq!(found, expected);
        assert!(samples.iter().all(|sample| sample.continuation == sample.prompt.to_uppercase()));
        let error = continue_all(|_: &str| Err("no memory")).unwrap_err().to_string();
        assert!(error.starts_with("the model failed on the prompt"), "{error}");
    }
}
