//! Addition and subtraction, in digits and in Chinese numerals, worked column by column.
//!
//! It must not know which split an item goes to.
//!
//! A small model learns a sum far sooner when each step is one fact: the ones, then the rest with the carry. Chinese
//! numerals are first written as digits, so that both notations share the same facts.

use base::seed::Rng;

use super::draw::between;
use super::{Draft, Language, to_chinese};

/// `37 + 58`.
pub(super) fn add_digits(language: Language, draws: &mut Rng) -> Draft {
    let (left, right) = draw_addends(draws);
    let question = ask(language, draws, &left.to_string(), &right.to_string(), Sign::Plus);
    Draft {
        key: key_of_sum(left, right),
        question,
        answer: format!("{}\n{}", add_columns(left, right), left + right),
    }
}

/// 三十七加五十八.
pub(super) fn add_chinese(language: Language, draws: &mut Rng) -> Draft {
    let (left, right) = draw_addends(draws);
    let question = ask(language, draws, &to_chinese(left), &to_chinese(right), Sign::Plus);
    let sum = left + right;
    let working = format!("{left} + {right}\n{}\n{sum}", add_columns(left, right));
    Draft { key: key_of_sum(left, right), question, answer: format!("{working}\n{}", to_chinese(sum)) }
}

/// `143 - 58`.
pub(super) fn subtract_digits(language: Language, draws: &mut Rng) -> Draft {
    let (left, right) = draw_difference(draws);
    let question = ask(language, draws, &left.to_string(), &right.to_string(), Sign::Minus);
    let answer = format!("{}\n{}", subtract_columns(left, right), left - right);
    Draft { key: key_of_difference(left, right), question, answer }
}

/// 一百四十三减五十八.
pub(super) fn subtract_chinese(language: Language, draws: &mut Rng) -> Draft {
    let (left, right) = draw_difference(draws);
    let question = ask(language, draws, &to_chinese(left), &to_chinese(right), Sign::Minus);
    let difference = left - right;
    let working = format!("{left} - {right}\n{}\n{difference}", subtract_columns(left, right));
    Draft {
        key: key_of_difference(left, right),
        question,
        answer: format!("{working}\n{}", to_chinese(difference)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Plus,
    Minus,
}

/// Two addends of two digits.
fn draw_addends(draws: &mut Rng) -> (u64, u64) {
    (between(draws, 10, 99), between(draws, 10, 99))
}

/// A number of two digits, and one below 200 that is not smaller.
fn draw_difference(draws: &mut Rng) -> (u64, u64) {
    let right = between(draws, 10, 99);
    (between(draws, right, 199), right)
}

/// A sum's operands without their order; both notations share it.
fn key_of_sum(left: u64, right: u64) -> String {
    format!("{} + {}", left.min(right), left.max(right))
}

fn key_of_difference(left: u64, right: u64) -> String {
    format!("{left} - {right}")
}

/// `7+8=15` for the ones, then `3+5+1=09` for the tens with the carry.
fn add_columns(left: u64, right: u64) -> String {
    let ones = left % 10 + right % 10;
    let carry = ones / 10;
    let tens = left / 10 + right / 10 + carry;
    format!("{}+{}={ones:02}\n{}+{}+{carry}={tens:02}", left % 10, right % 10, left / 10, right / 10)
}

/// `13-8=5` for the ones, borrowing where needed, then `14-5-1=8` for the rest less what was borrowed.
fn subtract_columns(left: u64, right: u64) -> String {
    let borrow = u64::from(left % 10 < right % 10);
    let ones = borrow * 10 + left % 10;
    let tens = left / 10;
    format!(
        "{borrow}{}-{}={}\n{tens:02}-{}-{borrow}={:02}",
        left % 10,
        right % 10,
        ones - right % 10,
        right / 10,
        tens - right / 10 - borrow
    )
}

fn ask(language: Language, draws: &mut Rng, left: &str, right: &str, sign: Sign) -> String {
    let (symbol, word, verb) = match sign {
        Sign::Plus => ("+", "plus", "加"),
        Sign::Minus => ("-", "minus", "减"),
    };
    match (language, draws.below(3)) {
        (Language::English, 0) => format!("What is {left} {symbol} {right}?"),
        (Language::English, 1) => format!("Work out {left} {symbol} {right}."),
        (Language::English, _) => format!("How much is {left} {word} {right}?"),
        (Language::Chinese, 0) => format!("{left} {symbol} {right} 等于多少？"),
        (Language::Chinese, 1) => format!("计算 {left} {symbol} {right}。"),
        (Language::Chinese, _) => format!("{left} {verb} {right} 是多少？"),
    }
}
