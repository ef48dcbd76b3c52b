//! Unicode normalisation of a text before it is cut. Knows the four forms; must not know what comes after.
//!
//! The tables are those of the crate that Hugging Face `tokenizers` uses: newer ones give other ids for newer characters.

use std::borrow::Cow;

use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// A normalisation form (Unicode Standard Annex 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// `text` after `forms`, one after the other; borrowed where nothing changes.
pub(crate) fn normalize<'text>(text: &'text str, forms: &[Form]) -> Cow<'text, str> {
    // No form changes ASCII.
    if forms.is_empty() || text.is_ascii() {
        return Cow::Borrowed(text);
    }
    forms.iter().fold(Cow::Borrowed(text), |text, form| match form {
        Form::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => text,
        Form::Nfc => Cow::Owned(text.nfc().map(|(character, _)| character).collect()),
        Form::Nfd => Cow::Owned(text.nfd().map(|(character, _)| character).collect()),
        Form::Nfkc => Cow::Owned(text.nfkc().map(|(character, _)| character).collect()),
        Form::Nfkd => Cow::Owned(text.nfkd().map(|(character, _)| character).collect()),
    })
}
