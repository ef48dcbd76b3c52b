//! Putting three or four numbers of two digits into ascending order.
//!
//! It must not know which split an item goes to.

use base::seed::Rng;

use super::draw::between;
use super::{Draft, Language};

pub(super) fn draw(language: Language, draws: &mut Rng) -> Draft {
    let count = between(draws, 3, 4) as usize;
    let mut numbers: Vec<u64> = Vec::with_capacity(count);
    while numbers.len() < count {
        let number = between(draws, 10, 99);
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    let question = ask(language, draws, &join(&numbers));
    numbers.sort_unstable();
    let answer = join(&numbers);
    Draft { key: format!("sort {answer}"), question, answer }
}

fn join(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn ask(language: Language, draws: &mut Rng, numbers: &str) -> String {
    match (language, draws.below(3)) {
        (Language::English, 0) => format!("Sort these numbers: {numbers}"),
        (Language::English, 1) => format!("Put in ascending order: {numbers}"),
        (Language::English, _) => format!("Order from smallest to largest: {numbers}"),
        (Language::Chinese, 0) => format!("从小到大排序：{numbers}"),
        (Language::Chinese, 1) => format!("把这些数按升序排列：{numbers}"),
        (Language::Chinese, _) => format!("请将这些数从小到大排列：{numbers}"),
    }
}
