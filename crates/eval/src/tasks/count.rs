//! Counting how often each character occurs in a text.
//!
//! It must not know which split an item goes to.
//!
//! The working walks along the text and numbers each character among its like, so that a step only looks up the last
//! number of the same character.

use base::seed::Rng;

use super::{Draft, Language};

/// Different characters in a text, and its length.
const KINDS: usize = 3;
const LENGTH: usize = 6;
const LETTERS: &str = "abcdefghij";
/// The characters that are counted in Chinese questions.
pub(super) const CHINESE: &str = "春夏秋冬山水花鸟风月";

pub(super) fn draw(language: Language, draws: &mut Rng) -> Draft {
    let alphabet = match language {
        Language::English => LETTERS,
        Language::Chinese => CHINESE,
    };
    let mut kinds: Vec<char> = alphabet.chars().collect();
    draws.shuffle(&mut kinds);
    kinds.truncate(KINDS);
    // Each kind occurs at least once.
    let mut text = kinds.clone();
    while text.len() < LENGTH {
        text.push(*draws.choose(&kinds));
    }
    draws.shuffle(&mut text);

    // Between characters stands one sign, as one number does in the working: both go on at the same pace.
    let (comma, gap) = match language {
        Language::English => (", ", " "),
        Language::Chinese => ("、", ""),
    };
    let question = ask(language, draws, &join(&text, comma));
    let mut counts: Vec<(char, usize)> = Vec::new();
    let mut steps = Vec::new();
    for &character in &text {
        let count = match counts.iter_mut().find(|(known, _)| *known == character) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                counts.push((character, 1));
                1
            }
        };
        steps.push(format!("{character}{count}"));
    }
    let total: Vec<String> = counts.iter().map(|(character, count)| format!("{character}{count}")).collect();
    text.sort_unstable();
    Draft {
        key: format!("count {}", join(&text, "")),
        question,
        answer: format!("{}\n{}", steps.join(gap), total.join(gap)),
    }
}

fn join(text: &[char], between: &str) -> String {
    text.iter().map(char::to_string).collect::<Vec<_>>().join(between)
}

fn ask(language: Language, draws: &mut Rng, text: &str) -> String {
    match (language, draws.below(3)) {
        (Language::English, 0) => format!("Count each letter: {text}"),
        (Language::English, 1) => format!("How often does each letter occur: {text}"),
        (Language::English, _) => format!("How many of each letter: {text}"),
        (Language::Chinese, 0) => format!("数一数每个字：{text}"),
        (Language::Chinese, 1) => format!("每个字出现几次：{text}"),
        (Language::Chinese, _) => format!("统计每个字的次数：{text}"),
    }
}
