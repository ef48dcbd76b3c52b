//! Added tokens: texts that are one id wherever they stand, before any pre-token is cut, as Hugging Face `tokenizers`
//! finds them. Knows texts and ids; must not know merges or files.

use aho_corasick::{AhoCorasick, MatchKind};

/// A token that is found by its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    /// Is it a special token, to be told from text that spells it?
    pub special: bool,
    /// Is it searched in the normalised text, rather than in the text as it is?
    pub normalized: bool,
    /// White space on this side belongs to it.
    pub lstrip: bool,
    pub rstrip: bool,
}

/// Which added tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// All.
    All,
    /// Those that are not special; a special token's text is ordinary text.
    Ordinary,
}

/// The text that is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// As it is.
    Raw,
    /// After normalising.
    Normalized,
}

/// A token found in a text: the bytes that it takes, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// All added tokens of a tokenizer.
#[derive(Default)]
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// The texts of the special ones, in the order of their ids, and these ids.
    special: Vec<String>,
    special_ids: Vec<u32>,
    raw: Finder,
    normalized: Finder,
}

/// Finds the tokens of one stage.
#[derive(Default)]
struct Finder {
    automaton: Option<AhoCorasick>,
    tokens: Vec<AddedToken>,
    has_ordinary: bool,
}

impl AddedTokens {
    /// Tables for `tokens`, whose texts differ and are not empty. `normalize` is applied to what is searched in
    /// normalised text.
    pub(crate) fn new(mut tokens: Vec<AddedToken>, normalize: impl Fn(&str) -> String) -> AddedTokens {
        tokens.sort_by_key(|token| token.id);
        let special = tokens.iter().filter(|token| token.special);
        let (special, special_ids) = special.map(|token| (token.content.clone(), token.id)).unzip();
        let (late, early): (Vec<AddedToken>, Vec<AddedToken>) =
            tokens.iter().cloned().partition(|token| token.normalized);
        let late = late.into_iter().map(|token| AddedToken { content: normalize(&token.content), ..token });
        AddedTokens {
            special,
            special_ids,
            raw: Finder::new(early),
            normalized: Finder::new(late.collect()),
            tokens,
        }
    }

    /// The id of a token by its text.
    pub(crate) fn id(&self, text: &str) -> Option<u32> {
        Some(self.tokens.iter().find(|token| token.content == text)?.id)
    }

    /// The texts of the special tokens, in the order of their ids.
    pub(crate) fn special(&self) -> &[String] {
        &self.special
    }

    /// The id of a special token.
    pub(crate) fn special_id(&self, text: &str) -> Option<u32> {
        Some(self.special_ids[self.special.iter().position(|special| special == text)?])
    }

    /// The text of a special token.
    pub(crate) fn special_text(&self, id: u32) -> Option<&str> {
        Some(&self.special[self.special_ids.binary_search(&id).ok()?])
    }

    /// The first special token in `text`.
    pub(crate) fn first_special(&self, text: &str) -> Option<Found> {
        let stages = [Stage::Raw, Stage::Normalized].into_iter();
        let found = stages.filter_map(|stage| {
            self.find(text, stage, Which::All).find(|found| self.special_ids.binary_search(&found.id).is_ok())
        });
        found.min_by_key(|found| found.start)
    }

    /// Can [`AddedTokens::find`] find anything?
    #[inline]
    pub(crate) fn searches(&self, stage: Stage, which: Which) -> bool {
        let finder = self.finder(stage);
        finder.automaton.is_some() && (which == Which::All || finder.has_ordinary)
    }

    /// The tokens in `text`, in order: the leftmost, of these the longest.
    pub(crate) fn find<'a>(
        &'a self,
        text: &'a str,
        stage: Stage,
        which: Which,
    ) -> impl Iterator<Item = Found> + 'a {
        let finder = self.finder(stage);
        let automaton = finder.automaton.as_ref().filter(|_| self.searches(stage, which));
        let mut last_end = 0;
        let matches = automaton.into_iter().flat_map(move |automaton| automaton.find_iter(text));
        matches.filter_map(move |place| {
            let token = &finder.tokens[place.pattern().as_usize()];
            if which == Which::Ordinary && token.special {
                return None;
            }
            let (mut start, mut end) = (place.start(), place.end());
            if token.lstrip {
                start = text[..start].trim_end().len().max(last_end);
            }
            if token.rstrip {
                end += text[end..].len() - text[end..].trim_start().len();
            }
            // White space that the token before took is no part of this one.
            let start = start.max(last_end);
            last_end = end.max(last_end);
            Some(Found { start, end: last_end, id: token.id })
        })
    }

    fn finder(&self, stage: Stage) -> &Finder {
        match stage {
            Stage::Raw => &self.raw,
            Stage::Normalized => &self.normalized,
        }
    }
}

impl Finder {
    fn new(tokens: Vec<AddedToken>) -> Finder {
        if tokens.is_empty() {
            return Finder::default();
        }
        let texts = tokens.iter().map(|token| token.content.as_bytes());
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        let automaton =
            automaton.expect("the texts of a file are far from an automaton's limit of 2^31 states");
        Finder { has_ordinary: tokens.iter().any(|token| !token.special), automaton: Some(automaton), tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leftmost_longest_with_the_space_that_belongs_to_it() {
        let token = |id, content: &str| AddedToken {
            id,
            content: content.to_owned(),
            special: true,
            normalized: false,
            lstrip: false,
            rstrip: false,
        };
        let tokens = vec![
            token(9, "<a>"),
            token(3, "<a><b>"),
            AddedToken { lstrip: true, ..token(4, "<l>") },
            AddedToken { rstrip: true, special: false, ..token(5, "<r>") },
            AddedToken { normalized: true, ..token(6, "É") },
        ];
        let added = AddedTokens::new(tokens, str::to_lowercase);
        let check = |text: &str, which: Which, expected: &[(usize, usize, u32)]| {
            let found: Vec<_> =
                added.find(text, Stage::Raw, which).map(|found| (found.start, found.end, found.id)).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("x<a><b><a>", Which::All, &[(1, 7, 3), (7, 10, 9)]);
        check("x \n<l> y", Which::All, &[(1, 6, 4)]);
        check("<r> \u{3000}<l>", Which::All, &[(0, 7, 5), (7, 10, 4)]);
        check("<a><r> <l>", Which::Ordinary, &[(3, 7, 5)]);
        check("É<a", Which::All, &[]);
        let late: Vec<_> = added.find("é", Stage::Normalized, Which::All).collect();
        assert_eq!(late, [Found { start: 0, end: 2, id: 6 }]);
        assert_eq!(added.special(), ["<a><b>", "<l>", "É", "<a>"]);
        assert_eq!((added.special_id("<a>"), added.special_text(9)), (Some(9), Some("<a>")));
        assert_eq!((added.special_id("<r>"), added.special_text(5), added.id("<r>")), (None, None, Some(5)));
        assert_eq!(added.first_special("<r>é<l>").map(|found| found.id), Some(6));
    }
}
