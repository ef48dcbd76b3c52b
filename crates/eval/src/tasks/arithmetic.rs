//! Addition and subtraction, in digits and in Chinese numerals, worked column by column.
//!
//! It must not know which split an item goes to.
//!
//! A small model learns a sum far sooner when each step is one fact at a fixed place: the exercise in digits, then
//! one line a column with what is carried, then the result. Both notations share these lines, and so their facts.

use base::seed::Rng;

use super::draw::between;
use super::{Draft, Language, to_chinese};

/// `37 + 58`.
pub(super) fn add_digits(language: Language, draws: &mut Rng) -> Draft {
    Sum::draw(draws).draft(language, draws, Notation::Digits)
}

/// 三十七加五十八.
pub(super) fn add_chinese(language: Language, draws: &mut Rng) -> Draft {
    Sum::draw(draws).draft(language, draws, Notation::Chinese)
}

/// `37 - 58`.
pub(super) fn subtract_digits(language: Language, draws: &mut Rng) -> Draft {
    Difference::draw(draws).draft(language, draws, Notation::Digits)
}

/// 三十七减五十八.
pub(super) fn subtract_chinese(language: Language, draws: &mut Rng) -> Draft {
    Difference::draw(draws).draft(language, draws, Notation::Chinese)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    Digits,
    Chinese,
}

impl Notation {
    fn write(self, number: i64) -> String {
        match (self, number < 0) {
            (Notation::Digits, _) => number.to_string(),
            (Notation::Chinese, false) => to_chinese(number.unsigned_abs()),
            (Notation::Chinese, true) => format!("负{}", to_chinese(number.unsigned_abs())),
        }
    }
}

/// Two addends of two digits.
struct Sum {
    left: i64,
    right: i64,
}

impl Sum {
    fn draw(draws: &mut Rng) -> Sum {
        Sum { left: two_digits(draws), right: two_digits(draws) }
    }

    /// The key leaves out the order, and both notations share it.
    fn draft(self, language: Language, draws: &mut Rng, notation: Notation) -> Draft {
        let Sum { left, right } = self;
        let question = ask(language, draws, [notation.write(left), notation.write(right)], &PLUS);
        let mut lines = vec![format!("{left}+{right}")];
        let mut carry = 0;
        for unit in [1, 10] {
            let (above, below) = (left / unit % 10, right / unit % 10);
            let column = above + below + carry;
            lines.push(format!("{above}+{below}+{carry}={column:02}"));
            carry = column / 10;
        }
        finish(&mut lines, left + right, notation);
        Draft {
            key: format!("{} + {}", left.min(right), left.max(right)),
            question,
            answer: lines.join("\n"),
        }
    }
}

/// Two numbers of two digits; the first may be the smaller.
struct Difference {
    left: i64,
    right: i64,
}

impl Difference {
    fn draw(draws: &mut Rng) -> Difference {
        Difference { left: two_digits(draws), right: two_digits(draws) }
    }

    /// The key leaves out the order (the digits of the answer are the same), and both notations share it.
    fn draft(self, language: Language, draws: &mut Rng, notation: Notation) -> Draft {
        let Difference { left, right } = self;
        let question = ask(language, draws, [notation.write(left), notation.write(right)], &MINUS);
        // The larger number goes first; the sign comes back in the result.
        let (larger, smaller) = (left.max(right), left.min(right));
        let mut lines = vec![format!("{larger}-{smaller}")];
        let mut borrow = 0;
        for unit in [1, 10] {
            let (above, below) = (larger / unit % 10, smaller / unit % 10);
            let column = above - below - borrow;
            let borrowed = i64::from(column < 0);
            lines.push(format!("{above}-{below}-{borrow}={},{borrowed}", column + 10 * borrowed));
            borrow = borrowed;
        }
        finish(&mut lines, left - right, notation);
        Draft { key: format!("{larger} - {smaller}"), question, answer: lines.join("\n") }
    }
}

fn two_digits(draws: &mut Rng) -> i64 {
    between(draws, 10, 99) as i64
}

/// Adds the result in digits, and in Chinese numerals where those were asked for.
fn finish(lines: &mut Vec<String>, result: i64, notation: Notation) {
    lines.push(result.to_string());
    if notation == Notation::Chinese {
        lines.push(notation.write(result));
    }
}

/// How an operation is written and spoken.
struct Operation {
    symbol: char,
    english: &'static str,
    chinese: &'static str,
}

const PLUS: Operation = Operation { symbol: '+', english: "plus", chinese: "加" };
const MINUS: Operation = Operation { symbol: '-', english: "minus", chinese: "减" };

fn ask(language: Language, draws: &mut Rng, [left, right]: [String; 2], operation: &Operation) -> String {
    let Operation { symbol, english, chinese } = operation;
    match (language, draws.below(3)) {
        (Language::English, 0) => format!("What is {left} {symbol} {right}?"),
        (Language::English, 1) => format!("Work out {left} {symbol} {right}."),
        (Language::English, _) => format!("How much is {left} {english} {right}?"),
        (Language::Chinese, 0) => format!("{left} {symbol} {right} 等于多少？"),
        (Language::Chinese, 1) => format!("计算 {left} {symbol} {right}。"),
        (Language::Chinese, _) => format!("{left} {chinese} {right} 是多少？"),
    }
}
