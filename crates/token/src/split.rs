//! From a text to pre-tokens, by one of the known scanners or by whatever steps a tokenizer's file names.
//! Knows patterns; must not know vocabularies, special tokens or files.

use fancy_regex::Regex;

use crate::pretoken::{PreTokens, Scanner};

/// How a tokenizer cuts texts.
pub(crate) enum Splitter {
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
    Match(Box<Regex>, Gaps),
    /// At digits.
    Digits(Digits),
}

/// What becomes of the text between matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// It is pieces as well.
    Keep,
    /// It is lost.
    Drop,
}

/// How digits are cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digits {
    /// Each alone.
    Single,
    /// Runs.
    Runs,
}

impl Splitter {
    /// The fastest way to do what `steps` say.
    pub(crate) fn new(steps: Vec<Step>) -> Splitter {
        match steps[..] {
            [Step::Scan(scanner)] => Splitter::Scan(scanner),
            [Step::Digits(Digits::Single), Step::Scan(Scanner::Gpt2)] => {
                Splitter::Scan(Scanner::DigitsThenGpt2)
            }
            _ => Splitter::Steps(steps),
        }
    }

    /// Hands the pre-tokens of `text` to `emit`, in order; none is empty.
    #[inline]
    pub(crate) fn split<'text>(&self, text: &'text str, emit: &mut impl FnMut(&'text [u8])) {
        match self {
            Splitter::Scan(scanner) => PreTokens::by(text, *scanner).for_each(emit),
            Splitter::Steps(steps) => walk(steps, text, &mut |piece| emit(piece.as_bytes())),
        }
    }
}

fn walk<'text>(steps: &[Step], text: &'text str, emit: &mut dyn FnMut(&'text str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            emit(text);
        }
        return;
    };
    let mut next = |piece: &'text str| {
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
        Step::Match(regex, gaps) => {
            let mut position = 0;
            // A match that the engine gives up on (it limits backtracking) leaves the rest uncut.
            for found in regex.find_iter(text).map_while(Result::ok) {
                if *gaps == Gaps::Keep {
                    next(&text[position..found.start()]);
                }
                next(&text[found.range()]);
                position = found.end();
            }
            if *gaps == Gaps::Keep {
                next(&text[position..]);
            }
        }
        Step::Digits(digits) => {
            let mut position = 0;
            while let Some(offset) = text[position..].find(char::is_numeric) {
                let start = position + offset;
                next(&text[position..start]);
                let run = match digits {
                    Digits::Single => text[start..].chars().next().map_or(0, char::len_utf8),
                    Digits::Runs => {
                        text[start..].find(|other: char| !other.is_numeric()).unwrap_or(text.len() - start)
                    }
                };
                next(&text[start..start + run]);
                position = start + run;
            }
            next(&text[position..]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn pieces(splitter: &Splitter, text: &str) -> Vec<String> {
        let mut pieces = Vec::new();
        splitter.split(text, &mut |piece| pieces.push(String::from_utf8(piece.to_vec()).unwrap()));
        pieces
    }

    fn matching(pattern: &str, gaps: Gaps) -> Step {
        Step::Match(Box::new(Regex::new(pattern).unwrap()), gaps)
    }

    #[test]
    fn steps_cut_the_pieces_of_the_step_before() {
        let check = |steps: Vec<Step>, text: &str, expected: &[&str]| {
            assert_eq!(pieces(&Splitter::new(steps), text), expected, "{text:?}");
        };
        check(vec![], "a b1", &["a b1"]);
        check(vec![], "", &[]);
        check(vec![matching("b", Gaps::Keep)], "abbc", &["a", "b", "b", "c"]);
        check(vec![matching("b+", Gaps::Drop)], "abbcb", &["bb", "b"]);
        check(vec![Step::Digits(Digits::Runs)], "a12 3", &["a", "12", " ", "3"]);
        check(
            vec![Step::Digits(Digits::Single), matching("b", Gaps::Keep)],
            "1b22c",
            &["1", "b", "2", "2", "c"],
        );
        check(vec![Step::Scan(Scanner::Gpt2), Step::Digits(Digits::Single)], "a 12", &["a", " ", "1", "2"]);
        check(vec![matching("(?=b)", Gaps::Keep)], "abb", &["a", "b", "b"]);
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
                let engine = Splitter::Steps(vec![matching(&scanner.pattern(), Gaps::Keep)]);
                prop_assert_eq!(pieces(&engine, &text), pieces(&Splitter::Scan(scanner), &text), "{:?}", scanner);
            }
            let steps = Splitter::Steps(vec![Step::Digits(Digits::Single), Step::Scan(Scanner::Gpt2)]);
            let scanned = Splitter::Scan(Scanner::DigitsThenGpt2);
            prop_assert_eq!(pieces(&steps, &text), pieces(&scanned, &text));
        }
    }
}
