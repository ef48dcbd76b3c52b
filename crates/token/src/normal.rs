//! Normalising a text before it is cut: Unicode's forms and the other steps that tokenizers' files name.
//! Knows characters; must not know what comes after.
//!
//! The tables are those of the crates that Hugging Face `tokenizers` uses: newer ones give other ids for newer characters.

use std::borrow::Cow;

use fancy_regex::Regex;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::is_combining_mark;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::charsmap::Charsmap;

/// What is done to a text, step by step.
#[derive(Default)]
pub(crate) struct Normalizer {
    steps: Vec<Step>,
    /// Does no step change ASCII?
    keeps_ascii: bool,
}

/// One step.
pub(crate) enum Step {
    /// A normalisation form (Unicode Standard Annex 15).
    Form(Form),
    /// This is put before what begins a text or follows a special token.
    Prepend(String),
    /// Each of these is replaced.
    Replace(String, String),
    /// Each match is replaced.
    ReplaceMatch(Box<Regex>, String),
    /// White space is taken off.
    Strip { left: bool, right: bool },
    /// Capitals become small.
    Lowercase,
    /// Combining marks are left out.
    StripAccents,
    /// As BERT has it.
    Bert(Bert),
    /// By SentencePiece's tables.
    Charsmap(Charsmap),
    /// Spaces at both ends are taken off, and of others that stand together one is left.
    Collapse,
}

/// A normalisation form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// BERT's normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bert {
    /// Control characters are left out, and all white space becomes spaces.
    pub clean_text: bool,
    /// Chinese characters stand between spaces.
    pub handle_chinese_characters: bool,
    pub strip_accents: bool,
    pub lowercase: bool,
}

/// What stands before a text that is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Start,
    /// An added token.
    AfterToken,
    /// Other text, which this one goes on.
    Continued,
}

impl Normalizer {
    pub(crate) fn new(steps: Vec<Step>) -> Normalizer {
        let keeps_ascii = steps.iter().all(|step| matches!(step, Step::Form(_)));
        Normalizer { steps, keeps_ascii }
    }

    /// `text` after all steps; borrowed where nothing changes.
    #[inline]
    pub(crate) fn apply<'text>(&self, text: &'text str, place: Place) -> Cow<'text, str> {
        if self.steps.is_empty() || self.keeps_ascii && text.is_ascii() {
            return Cow::Borrowed(text);
        }
        self.steps.iter().fold(Cow::Borrowed(text), |text, step| step.apply(text, place))
    }
}

impl Step {
    fn apply<'text>(&self, text: Cow<'text, str>, place: Place) -> Cow<'text, str> {
        match self {
            Step::Form(form) => form.apply(text),
            Step::Prepend(_) if text.is_empty() || place == Place::Continued => text,
            Step::Prepend(prefix) => Cow::Owned(format!("{prefix}{text}")),
            Step::Replace(old, _) if !text.contains(old.as_str()) => text,
            Step::Replace(old, new) => Cow::Owned(text.replace(old.as_str(), new)),
            Step::ReplaceMatch(regex, new) => {
                // A text that the engine gives up on (it limits backtracking) stays as it is.
                let replaced = regex.try_replacen(&text, 0, fancy_regex::NoExpand(new));
                replaced.map_or_else(|_| text.clone(), |replaced| Cow::Owned(replaced.into_owned()))
            }
            Step::Strip { left, right } => {
                let start = if *left { text.len() - text.trim_start().len() } else { 0 };
                let end = if *right { text.trim_end().len().max(start) } else { text.len() };
                if start == 0 && end == text.len() { text } else { Cow::Owned(text[start..end].to_owned()) }
            }
            Step::Lowercase => Cow::Owned(lowercase(&text)),
            Step::StripAccents => {
                Cow::Owned(text.chars().filter(|&character| !is_combining_mark(character)).collect())
            }
            Step::Bert(bert) => Cow::Owned(bert.apply(&text)),
            Step::Charsmap(charsmap) => Cow::Owned(charsmap.apply(&text)),
            Step::Collapse => {
                let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
                Cow::Owned(words.join(" "))
            }
        }
    }
}

impl Form {
    fn apply<'text>(self, text: Cow<'text, str>) -> Cow<'text, str> {
        if text.is_ascii() {
            return text;
        }
        match self {
            Form::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text,
            Form::Nfc => Cow::Owned(text.nfc().map(|(character, _)| character).collect()),
            Form::Nfd => Cow::Owned(text.nfd().map(|(character, _)| character).collect()),
            Form::Nfkc => Cow::Owned(text.nfkc().map(|(character, _)| character).collect()),
            Form::Nfkd => Cow::Owned(text.nfkd().map(|(character, _)| character).collect()),
        }
    }
}

impl Bert {
    fn apply(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            let is_break = matches!(character, '\t' | '\n' | '\r');
            match character {
                '\0' | char::REPLACEMENT_CHARACTER if self.clean_text => {}
                _ if self.clean_text && !is_break && character.is_other() => {}
                _ if self.clean_text && character.is_whitespace() => out.push(' '),
                _ if self.handle_chinese_characters && is_chinese(character) => {
                    out.extend([' ', character, ' ']);
                }
                _ => out.push(character),
            }
        }
        if self.strip_accents && !out.is_ascii() {
            let characters = out.nfd().map(|(character, _)| character);
            out = characters.filter(|character| !character.is_mark_nonspacing()).collect();
        }
        if self.lowercase { lowercase(&out) } else { out }
    }
}

/// Character by character, so without the rule for a sigma at a word's end.
fn lowercase(text: &str) -> String {
    if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        text.chars().flat_map(char::to_lowercase).collect()
    }
}

/// The blocks of unified ideographs, as BERT's own code lists them.
fn is_chinese(character: char) -> bool {
    matches!(u32::from(character),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x2_0000..=0x2_a6df | 0x2_a700..=0x2_b73f | 0x2_b740..=0x2_b81f
        | 0x2_b920..=0x2_ceaf | 0xf900..=0xfaff | 0x2_f800..=0x2_fa1f)
}
