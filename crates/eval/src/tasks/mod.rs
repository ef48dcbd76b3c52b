//! Programmatic bilingual tasks with verifiable answers, for fine-tuning and for scoring.
//!
//! It must not know tokenizers, models or chat templates: an item is a question and an answer in plain text.
//!
//! An item is a function of `(seed, index)`. Whether operands belong to the training or to the test split is
//! decided by a hash of their canonical form (sums without their order, sets without their permutation; digits and
//! Chinese numerals share one key), so a test question never repeats operands seen in training in any disguise.
//!
//! Every answer works step by step towards its last line, and only the last line is scored.

mod arithmetic;
mod count;
mod date;
mod draw;
mod numerals;
mod sort;

use std::collections::HashSet;

use base::seed::{Rng, mix};
use draw::Split;
use serde::{Deserialize, Serialize};

pub use numerals::to_chinese;

/// A kind of question. Each has more than a hundred possible final answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `37 + 58`: two numbers of two digits; 179 answers (20..=198).
    AddDigits,
    /// `37 - 58`: of two numbers of two digits; 179 answers (−89..=89).
    SubtractDigits,
    /// 三十七加五十八: as [`Family::AddDigits`], in Chinese numerals; 179 answers.
    AddChinese,
    /// 三十七减五十八: as [`Family::SubtractDigits`], in Chinese numerals; 179 answers.
    SubtractChinese,
    /// Three or four different numbers of two digits in ascending order; millions of answers.
    Sort,
    /// The date and the weekday some days after a given one; 364 × 7 answers.
    Date,
    /// How often each of three characters occurs in a text; thousands of answers.
    Count,
}

/// The language that a question is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// English.
    English,
    /// Simplified Chinese.
    Chinese,
}

/// One question with its worked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which kind of question this is.
    pub family: Family,
    /// What the user asks.
    pub question: String,
    /// What the assistant should say: working, one step a line, then the final answer on the last line.
    pub answer: String,
    /// The language of the question.
    pub language: Language,
}

impl Item {
    /// The part of the answer that is scored: its last line.
    #[must_use]
    pub fn final_answer(&self) -> &str {
        last_line(&self.answer)
    }
}

impl Family {
    /// Every family, in the order in which reports list them.
    #[must_use]
    pub const fn all() -> [Family; 7] {
        use Family::{AddChinese, AddDigits, Count, Date, Sort, SubtractChinese, SubtractDigits};
        [AddDigits, SubtractDigits, AddChinese, SubtractChinese, Sort, Date, Count]
    }

    /// The name used in reports and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Family::AddDigits => "add_digits",
            Family::SubtractDigits => "subtract_digits",
            Family::AddChinese => "add_chinese",
            Family::SubtractChinese => "subtract_chinese",
            Family::Sort => "sort",
            Family::Date => "date",
            Family::Count => "count",
        }
    }
}

/// Operands drawn for one item: the text of question and answer, and the key that decides the split.
struct Draft {
    /// The operands in canonical form.
    key: String,
    question: String,
    answer: String,
}

/// The training item at `index`: families take turns, and its operands never occur in a test item.
#[must_use]
pub fn train_item(seed: u64, index: u64) -> Item {
    let families = Family::all();
    let family = families[(index % families.len() as u64) as usize];
    // A fifth of all operands are held out: 10,000 draws in a row from that fifth do not happen.
    (0..10_000)
        .find_map(|attempt| draw_item(family, Split::Train, &mut Rng::new(mix(seed ^ mix(index)), attempt)))
        .expect("four fifths of all operands belong to the training split")
}

/// `per_family` test items of every family, all questions different, grouped by family.
///
/// A family returns fewer items only where its test split holds fewer questions (the smallest holds thousands).
#[must_use]
pub fn test_items(seed: u64, per_family: usize) -> Vec<Item> {
    let mut items = Vec::with_capacity(per_family * Family::all().len());
    for (number, family) in Family::all().into_iter().enumerate() {
        let attempts_max = 1_000 + 100 * per_family as u64;
        let mut seen = HashSet::new();
        for attempt in 0..attempts_max {
            if seen.len() == per_family {
                break;
            }
            let mut draws = Rng::new(mix(!seed ^ mix(number as u64)), attempt);
            if let Some(item) = draw_item(family, Split::Test, &mut draws)
                && seen.insert(item.question.clone())
            {
                items.push(item);
            }
        }
    }
    items
}

/// Whether the last line of `reply` is the item's final answer, white space around it ignored.
#[must_use]
pub fn score(item: &Item, reply: &str) -> bool {
    last_line(reply) == item.final_answer()
}

/// An item as a tokenizer's training text: numerals and counted characters each on a line of their own.
///
/// Learnt from this, no token spans two numerals, and so a digit of a Chinese numeral is always one token, as a digit
/// is; the words of the questions merge as in any text.
#[must_use]
pub fn tokenizer_text(item: &Item) -> String {
    let mut text = String::new();
    for character in format!("{}\n{}", item.question, item.answer).chars() {
        if numerals::is_numeral(character) || count::CHINESE.contains(character) {
            text.extend(['\n', character, '\n']);
        } else {
            text.push(character);
        }
    }
    text
}

/// Every character beyond ASCII that items may contain, in code point order.
///
/// A tokenizer's training text should hold each of them apart from the others, so that each becomes one token and
/// no token spans two numerals.
#[must_use]
pub fn characters() -> Vec<char> {
    let mut found: Vec<char> = (0..20_000)
        .map(|index| train_item(0, index))
        .flat_map(|item| (item.question + &item.answer).chars().collect::<Vec<_>>())
        .filter(|character| !character.is_ascii())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// How a model did on one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyScore {
    /// The family.
    pub family: Family,
    /// Items asked.
    pub items: usize,
    /// Items answered with exactly the right last line.
    pub correct: usize,
}

impl FamilyScore {
    /// The share of right answers, 0 when nothing was asked.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        if self.items == 0 { 0.0 } else { self.correct as f64 / self.items as f64 }
    }
}

/// How a model did on every family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report {
    /// One entry a family that was asked, in the order of [`Family::all`].
    pub families: Vec<FamilyScore>,
}

impl Report {
    /// Counts one scored reply.
    pub fn add(&mut self, family: Family, correct: bool) {
        let place = self.families.partition_point(|entry| entry.family < family);
        if self.families.get(place).is_none_or(|entry| entry.family != family) {
            self.families.insert(place, FamilyScore { family, items: 0, correct: 0 });
        }
        self.families[place].items += 1;
        self.families[place].correct += usize::from(correct);
    }

    /// The mean over families of their accuracies, 0 when nothing was asked.
    #[must_use]
    pub fn mean_accuracy(&self) -> f64 {
        if self.families.is_empty() {
            return 0.0;
        }
        self.families.iter().map(FamilyScore::accuracy).sum::<f64>() / self.families.len() as f64
    }
}

/// Draws operands once; none if they belong to the other split.
fn draw_item(family: Family, split: Split, draws: &mut Rng) -> Option<Item> {
    let language = if draws.below(2) == 0 { Language::English } else { Language::Chinese };
    let draft = match family {
        Family::AddDigits => arithmetic::add_digits(language, draws),
        Family::SubtractDigits => arithmetic::subtract_digits(language, draws),
        Family::AddChinese => arithmetic::add_chinese(language, draws),
        Family::SubtractChinese => arithmetic::subtract_chinese(language, draws),
        Family::Sort => sort::draw(language, draws),
        Family::Date => date::draw(language, draws),
        Family::Count => count::draw(language, draws),
    };
    let Draft { key, question, answer } = draft;
    (Split::of(&key) == split).then_some(Item { family, question, answer, language })
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().next_back().unwrap_or("").trim()
}

#[cfg(test)]
mod tests;
