//! From a text to the words that a vocabulary encodes: by one of the known scanners or by whatever steps a tokenizer's file
//! names. Knows patterns; must not know vocabularies, special tokens or files.

use fancy_regex::Regex;
use unicode_categories::UnicodeCategories;

use crate::normal::Place;
use crate::pretoken::{PreTokens, Scanner};

/// What stands for a space in SentencePiece's vocabularies.
pub(crate) const SPACE_MARK: char = '\u{2581}';

/// How a tokenizer cuts texts.
pub(crate) struct Splitter {
    cuts: Cuts,
    spaces: Option<MarkedSpaces>,
    borders: Option<Borders>,
}

enum Cuts {
    /// One scanner.
    Scan(Scanner),
    /// Steps, each cutting the pieces of the one before; none: the text is one piece.
    Steps(Vec<Step>),
}

/// A way to cut pieces into smaller ones.
pub(crate) enum Step {
    /// By a known pattern; pieces are never lost.
    Scan(Scanner),
    /// By a pattern without a scanner.
    Match(Box<Regex>, Matches),
    /// By characters of this kind.
    Characters(fn(char) -> bool, Matches),
    /// At digits.
    Digits(Digits),
}

/// What becomes of matches and of the text between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matches {
    /// Both are pieces.
    Isolated,
    /// Matches are lost.
    Removed,
    /// What stands between matches is lost.
    Kept,
    /// Neighbouring matches are one piece.
    Contiguous,
    /// A match belongs to the piece before it.
    WithPrevious,
    /// A match belongs to the piece after it.
    WithNext,
}

/// How digits are cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digits {
    /// Each alone.
    Single,
    /// Runs.
    Runs,
}

/// Spaces written as marks after all cuts, as SentencePiece has them (`Metaspace`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkedSpaces {
    /// Where a mark is put before a piece that does not begin with one.
    pub prepend: Prepend,
    /// Does each mark begin a word?
    pub split: bool,
}

/// Which pieces get a mark before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepend {
    /// All, but for what goes on another text.
    Always,
    /// The one that begins a text.
    First,
    /// None.
    Never,
}

/// Where no token crosses: before a space mark, unless one of these characters stands before that. A word that ends there
/// is encoded alike whatever follows, so it can be remembered.
pub(crate) struct Borders {
    joined: Vec<char>,
}

impl Splitter {
    /// The fastest way to do what `steps` say.
    pub(crate) fn new(steps: Vec<Step>) -> Splitter {
        let cuts = match steps[..] {
            [Step::Scan(scanner)] => Cuts::Scan(scanner),
            [Step::Digits(Digits::Single), Step::Scan(Scanner::Gpt2)] => Cuts::Scan(Scanner::DigitsThenGpt2),
            _ => Cuts::Steps(steps),
        };
        Splitter { cuts, spaces: None, borders: None }
    }

    /// Cuts as before, then marks spaces.
    pub(crate) fn with_marked_spaces(self, spaces: Option<MarkedSpaces>) -> Splitter {
        Splitter { spaces, ..self }
    }

    /// Cuts as before, then where `borders` say that nothing changes thereby.
    pub(crate) fn with_borders(self, borders: Option<Borders>) -> Splitter {
        Splitter { borders, ..self }
    }

    /// The same borders behind other cuts.
    pub(crate) fn recut(self, steps: Vec<Step>) -> Splitter {
        Splitter { borders: self.borders, ..Splitter::new(steps) }
    }

    /// Hands the words of `text` to `emit`, in order; none is empty.
    #[inline]
    pub(crate) fn split(&self, text: &str, place: Place, emit: &mut impl FnMut(&[u8])) {
        if let (Cuts::Scan(scanner), None) = (&self.cuts, self.spaces) {
            return PreTokens::by(text, *scanner).for_each(emit);
        }
        let mut cut = |word: &str| match &self.borders {
            Some(borders) => borders.cut(word, emit),
            None => emit(word.as_bytes()),
        };
        let mut place = place;
        let mut marked = String::new();
        let mut piece = |piece: &str| {
            let Some(spaces) = self.spaces else { return cut(piece) };
            spaces.mark(piece, place, &mut marked);
            place = if place == Place::Start { Place::AfterToken } else { place };
            if spaces.split { each_match(&marked, SPACE_MARK, &mut cut) } else { cut(&marked) }
        };
        match &self.cuts {
            Cuts::Scan(scanner) => walk(&[Step::Scan(*scanner)], text, &mut piece),
            Cuts::Steps(steps) => walk(steps, text, &mut piece),
        }
    }
}

impl MarkedSpaces {
    fn mark(self, piece: &str, place: Place, marked: &mut String) {
        marked.clear();
        let wants_mark = match self.prepend {
            Prepend::Always => place != Place::Continued,
            Prepend::First => place == Place::Start,
            Prepend::Never => false,
        };
        if wants_mark && !piece.starts_with([' ', SPACE_MARK]) {
            marked.push(SPACE_MARK);
        }
        marked.extend(piece.chars().map(|character| if character == ' ' { SPACE_MARK } else { character }));
    }
}

impl Borders {
    /// The borders that none of `tokens` crosses; `None` where there are too many exceptions for that to help.
    pub(crate) fn of<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Borders> {
        let mut joined = Vec::new();
        for token in tokens {
            for (at, _) in token.match_indices(SPACE_MARK) {
                let before = token[..at].chars().next_back();
                joined.extend(before.filter(|&before| before != SPACE_MARK && !joined.contains(&before)));
            }
            if joined.len() > 16 {
                return None;
            }
        }
        Some(Borders { joined })
    }

    fn cut(&self, text: &str, emit: &mut impl FnMut(&[u8])) {
        let mut start = 0;
        for (at, _) in text.match_indices(SPACE_MARK) {
            let before = text[start..at].chars().next_back();
            if before.is_some_and(|before| before != SPACE_MARK && !self.joined.contains(&before)) {
                emit(&text.as_bytes()[start..at]);
                start = at;
            }
        }
        if start < text.len() {
            emit(&text.as_bytes()[start..]);
        }
    }
}

/// The pieces of a text, each beginning with `mark` but perhaps the first.
fn each_match(text: &str, mark: char, emit: &mut impl FnMut(&str)) {
    let mut start = 0;
    for (at, _) in text.match_indices(mark).filter(|(at, _)| *at > 0) {
        emit(&text[start..at]);
        start = at;
    }
    if start < text.len() {
        emit(&text[start..]);
    }
}

/// Is it punctuation for BERT: ASCII's own, or of a category of punctuation?
pub(crate) fn is_punctuation(character: char) -> bool {
    character.is_ascii_punctuation() || character.is_punctuation()
}

fn walk(steps: &[Step], text: &str, emit: &mut dyn FnMut(&str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            emit(text);
        }
        return;
    };
    let mut next = |piece: &str| {
        if !piece.is_empty() {
            walk(rest, piece, emit);
        }
    };
    match step {
        Step::Scan(scanner) => {
            let mut position = 0;
            for word in PreTokens::by(text, *scanner) {
                next(&text[position..position + word.len()]);
                position += word.len();
            }
        }
        Step::Match(regex, matches) => {
            // A match that the engine gives up on (it limits backtracking) leaves the rest uncut.
            let found = regex.find_iter(text).map_while(Result::ok).map(|found| (found.start(), found.end()));
            cut_at(text, found, *matches, &mut next);
        }
        Step::Characters(belongs, matches) => {
            let found = text.char_indices().filter(|(_, character)| belongs(*character));
            let found = found.map(|(at, character)| (at, at + character.len_utf8()));
            cut_at(text, found, *matches, &mut next);
        }
        Step::Digits(digits) => {
            let matches = match digits {
                Digits::Single => Matches::Isolated,
                Digits::Runs => Matches::Contiguous,
            };
            let found = text.char_indices().filter(|(_, character)| character.is_numeric());
            let found = found.map(|(at, character)| (at, at + character.len_utf8()));
            cut_at(text, found, matches, &mut next);
        }
    }
}

/// Cuts at what was found, which is in order and apart.
fn cut_at(
    text: &str,
    found: impl Iterator<Item = (usize, usize)>,
    matches: Matches,
    emit: &mut dyn FnMut(&str),
) {
    let mut position = 0;
    // The piece that is not complete yet, and whether it is a match.
    let mut open: Option<(usize, bool)> = None;
    for (start, end) in found.chain([(text.len(), text.len())]) {
        let is_end = start == text.len();
        for (piece_start, piece_end, is_match) in [(position, start, false), (start, end, true)] {
            if piece_start == piece_end {
                continue;
            }
            match matches {
                Matches::Isolated => emit(&text[piece_start..piece_end]),
                Matches::Removed | Matches::Kept => {
                    if is_match == (matches == Matches::Kept) {
                        emit(&text[piece_start..piece_end]);
                    }
                }
                _ => {
                    let joins = open.is_some_and(|(_, was_match)| match matches {
                        Matches::Contiguous => was_match == is_match,
                        Matches::WithPrevious => is_match && !was_match,
                        _ => was_match && !is_match,
                    });
                    match open {
                        Some((open_start, _)) if joins => open = Some((open_start, is_match)),
                        _ => {
                            if let Some((open_start, _)) = open {
                                emit(&text[open_start..piece_start]);
                            }
                            open = Some((piece_start, is_match));
                        }
                    }
                }
            }
        }
        position = end;
        if is_end {
            break;
        }
    }
    if let Some((open_start, _)) = open {
        emit(&text[open_start..]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        splitter
            .split(text, Place::Start, &mut |piece| pieces.push(String::from_utf8(piece.to_vec()).unwrap()));
        pieces
    }

    fn matching(pattern: &str, matches: Matches) -> Step {
        Step::Match(Box::new(Regex::new(pattern).unwrap()), matches)
    }

    #[test]
    fn steps_cut_the_pieces_of_the_step_before() {
        let check = |steps: Vec<Step>, text: &str, expected: &[&str]| {
            assert_eq!(pieces(&Splitter::new(steps), text), expected, "{text:?}");
        };
        check(vec![], "a b1", &["a b1"]);
        check(vec![], "", &[]);
        check(vec![matching("b", Matches::Isolated)], "abbc", &["a", "b", "b", "c"]);
        check(vec![matching("b+", Matches::Kept)], "abbcb", &["bb", "b"]);
        check(vec![Step::Digits(Digits::Runs)], "a12 3", &["a", "12", " ", "3"]);
        check(
            vec![Step::Digits(Digits::Single), matching("b", Matches::Isolated)],
            "1b22c",
            &["1", "b", "2", "2", "c"],
        );
        check(vec![Step::Scan(Scanner::Gpt2), Step::Digits(Digits::Single)], "a 12", &["a", " ", "1", "2"]);
        check(vec![matching("(?=b)", Matches::Isolated)], "abb", &["a", "b", "b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
        /// The general engine cuts as the scanners do, which are tested against Oniguruma.
        #[test]
        fn the_engine_equals_the_scanners(text in "([a-zA-Z'éßſ中国の 0-9٣½\r\n\t\u{3000}!?\u{301}]|[^x]){0,30}") {
            let scanners = [
                Scanner::Own { digits: 2 }, Scanner::Cl100k { digits: 3 }, Scanner::Marks { digits: 1 }, Scanner::Gpt2,
            ];
            for scanner in scanners {
                let engine = Splitter { cuts: Cuts::Steps(vec![matching(&scanner.pattern(), Matches::Isolated)]), spaces: None, borders: None };
                prop_assert_eq!(pieces(&engine, &text), pieces(&Splitter::new(vec![Step::Scan(scanner)]), &text), "{:?}", scanner);
            }
            let steps = Splitter { cuts: Cuts::Steps(vec![Step::Digits(Digits::Single), Step::Scan(Scanner::Gpt2)]), spaces: None, borders: None };
            let scanned = Splitter::new(vec![Step::Scan(Scanner::DigitsThenGpt2)]);
            prop_assert_eq!(pieces(&steps, &text), pieces(&scanned, &text));
        }
    }
}
