//! Tests of the task generators: answers recomputed another way, the split, repeatability.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Numbers of a text, in digits or in Chinese numerals, a minus sign or 负 before those below zero.
fn numbers(text: &str) -> Vec<i64> {
    let known: BTreeMap<String, i64> = (0..200).map(|number| (to_chinese(number), number as i64)).collect();
    let is_numeral =
        |character: char| character.is_ascii_digit() || "零一二三四五六七八九十百".contains(character);
    let words = text.split(|character: char| !is_numeral(character)).filter(|word| !word.is_empty());
    words.map(|word| word.parse().unwrap_or_else(|_| known[word])).collect()
}

fn result(text: &str) -> i64 {
    let sign = if text.starts_with(['-', '负']) { -1 } else { 1 };
    sign * numbers(text)[0]
}

/// Recomputes the final answer from the question alone, by other means than the generator's.
fn check(item: &Item) {
    let (question, answer) = (item.question.as_str(), item.final_answer());
    match item.family {
        Family::AddDigits | Family::AddChinese => {
            let operands = numbers(question);
            assert_eq!(operands.len(), 2, "{item:?}");
            assert_eq!(result(answer), operands[0] + operands[1], "{item:?}");
        }
        Family::SubtractDigits | Family::SubtractChinese => {
            let operands = numbers(question);
            assert_eq!(operands.len(), 2, "{item:?}");
            assert_eq!(result(answer), operands[0] - operands[1], "{item:?}");
        }
        Family::Sort => {
            let (mut asked, given) = (numbers(question), numbers(answer));
            assert!(given.is_sorted() && given.len() >= 3, "{item:?}");
            asked.sort_unstable();
            assert_eq!(asked, given, "{item:?}");
        }
        Family::Date => check_date(item),
        Family::Count => check_count(item),
    }
    let is_chinese = matches!(item.family, Family::AddChinese | Family::SubtractChinese);
    let is_in_numerals = !answer.chars().any(|character| character.is_ascii());
    assert!(!is_chinese || is_in_numerals, "{item:?}");
}

/// Walks the calendar day by day, in a common and in a leap year: both must give the answer.
fn check_date(item: &Item) {
    const WEEKDAYS: [[&str; 2]; 7] = [
        ["Monday", "星期一"],
        ["Tuesday", "星期二"],
        ["Wednesday", "星期三"],
        ["Thursday", "星期四"],
        ["Friday", "星期五"],
        ["Saturday", "星期六"],
        ["Sunday", "星期日"],
    ];
    let weekday_in = |text: &str| {
        let found = |names: &[&str; 2]| names.iter().any(|&name| text.contains(name));
        WEEKDAYS.iter().position(found).unwrap()
    };
    let digits = |text: &str| -> Vec<u64> {
        let words = text.split(|character: char| !character.is_ascii_digit());
        words.filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect()
    };
    let asked = digits(&item.question);
    let [month, day, later] = asked[..] else { panic!("{item:?}") };
    for february in [28, 29] {
        let (mut month, mut day, mut weekday) = (month, day, weekday_in(&item.question));
        for _ in 0..later {
            let length = match month {
                2 => february,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (month, day) = if day == length { (month % 12 + 1, 1) } else { (month, day + 1) };
            weekday = (weekday + 1) % 7;
        }
        assert_eq!(digits(item.final_answer()), [month, day], "{item:?}");
        assert_eq!(weekday_in(item.final_answer()), weekday, "{item:?}");
    }
}

/// Counts the list behind the question's last colon.
fn check_count(item: &Item) {
    let list = item.question.rsplit([':', '：']).next().unwrap();
    let mut expected: BTreeMap<char, usize> = BTreeMap::new();
    list.chars().filter(|character| character.is_alphabetic()).for_each(|character| {
        *expected.entry(character).or_default() += 1;
    });
    let answer: Vec<char> =
        item.final_answer().chars().filter(|character| !character.is_whitespace()).collect();
    let given: BTreeMap<char, usize> =
        answer.chunks(2).map(|pair| (pair[0], pair[1].to_digit(10).unwrap() as usize)).collect();
    assert_eq!(given, expected, "{item:?}");
}

/// The operands of an item as a set that forgets order, notation, phrasing and language.
fn operands(item: &Item) -> String {
    match item.family {
        Family::Date | Family::Count => {
            let mut list: Vec<char> = item.question.chars().collect();
            if item.family == Family::Count {
                list = item.question.rsplit([':', '：']).next().unwrap().chars().collect();
                list.retain(|character| character.is_alphabetic());
                list.sort_unstable();
            } else {
                list.retain(|character| character.is_ascii_digit());
            }
            format!("{} {}", item.family.name(), list.into_iter().collect::<String>())
        }
        family => {
            let mut list = numbers(&item.question);
            list.sort_unstable();
            let kind = match family {
                Family::AddDigits | Family::AddChinese => "add",
                Family::SubtractDigits | Family::SubtractChinese => "subtract",
                _ => "sort",
            };
            format!("{kind} {list:?}")
        }
    }
}

proptest! {
    #[test]
    fn training_items_are_right_and_repeatable(seed: u64, index: u64) {
        let item = train_item(seed, index);
        check(&item);
        prop_assert_eq!(&item, &train_item(seed, index));
        prop_assert_eq!(item.family, Family::all()[(index % 7) as usize]);
        prop_assert!(score(&item, &item.answer));
    }

    #[test]
    fn test_items_are_right_and_repeatable(seed: u64) {
        let items = test_items(seed, 3);
        items.iter().for_each(check);
        prop_assert_eq!(items.len(), 21);
        prop_assert_eq!(&items, &test_items(seed, 3));
    }
}

#[test]
fn no_test_operands_occur_in_training() {
    let test: BTreeSet<String> = test_items(1, 400).iter().map(operands).collect();
    assert!(test.len() > 1_500, "{}", test.len());
    for seed in [1, 2] {
        for index in 0..30_000 {
            let item = train_item(seed, index);
            assert!(!test.contains(&operands(&item)), "{item:?}");
        }
    }
}

#[test]
fn every_family_has_a_hundred_answers_and_both_languages() {
    let items = test_items(3, 400);
    for family in Family::all() {
        let of_family: Vec<&Item> = items.iter().filter(|item| item.family == family).collect();
        assert_eq!(of_family.len(), 400, "{family:?}");
        let questions: BTreeSet<&str> = of_family.iter().map(|item| item.question.as_str()).collect();
        assert_eq!(questions.len(), 400, "{family:?}: a question is asked twice");
        let answers: BTreeSet<&str> = of_family.iter().map(|item| item.final_answer()).collect();
        assert!(answers.len() >= 100, "{family:?}: {} answers", answers.len());
        for language in [Language::English, Language::Chinese] {
            let count = of_family.iter().filter(|item| item.language == language).count();
            assert!(count > 120, "{family:?} in {language:?}: {count} of 400");
        }
    }
}

#[test]
fn seeds_give_different_questions() {
    let items = |seed| (0..50).map(|index| train_item(seed, index).question).collect::<BTreeSet<_>>();
    assert!(items(1).intersection(&items(2)).count() < 5);
}

#[test]
fn the_most_frequent_answers_score_little() {
    // What a constant reply could reach: under a tenth in every family.
    for family in Family::all() {
        let items: Vec<Item> = test_items(5, 300).into_iter().filter(|item| item.family == family).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        items.iter().for_each(|item| *counts.entry(item.final_answer()).or_default() += 1);
        let most = counts.values().max().unwrap();
        assert!(most * 10 < items.len(), "{family:?}: one answer {most} times");
    }
}

#[test]
fn a_reply_is_right_when_its_last_line_is() {
    let item = train_item(1, 0);
    let right = item.final_answer();
    for (reply, correct) in [
        (item.answer.clone(), true),
        (right.to_string(), true),
        (format!("working\n  {right} \n\n"), true),
        (format!("{right}\nand more"), false),
        (format!("{right}0"), false),
        (String::new(), false),
    ] {
        assert_eq!(score(&item, &reply), correct, "{reply:?}");
    }
}

#[test]
fn the_characters_cover_every_item() {
    let known: BTreeSet<char> = characters().into_iter().collect();
    let unknown =
        |text: &str| text.chars().any(|character| !character.is_ascii() && !known.contains(&character));
    for item in (0..5_000).map(|index| train_item(9, index)).chain(test_items(9, 200)) {
        assert!(!unknown(&item.question) && !unknown(&item.answer), "{item:?}");
    }
    assert!(known.contains(&'负') && known.contains(&'百'), "{known:?}");
}

#[test]
fn no_token_of_a_tokenizer_text_spans_two_numerals() {
    let texts: Vec<String> = (0..2_000).map(|index| tokenizer_text(&train_item(1, index))).collect();
    let spread = characters().iter().map(|character| format!("{character}\n").repeat(50)).collect::<String>();
    let documents: Vec<String> = texts.into_iter().chain([spread]).collect();
    let options = token::TrainOptions { vocab_size: 900, ..token::TrainOptions::default() };
    let tokenizer = token::Tokenizer::train(&documents, &options, 1).unwrap();
    for text in ["三十七", "一百二十九", "负八十", "春冬月"] {
        assert_eq!(tokenizer.encode(text).len(), text.chars().count(), "{text}");
    }
    assert!(tokenizer.encode("等于多少").len() < 4, "words of questions merge");
    let item = train_item(1, 2);
    let unspread: String = tokenizer_text(&item).replace('\n', "");
    assert_eq!(unspread, format!("{}{}", item.question, item.answer).replace('\n', ""));
}

#[test]
fn a_report_counts_by_family() {
    let mut report = Report::default();
    for (family, correct) in [(Family::Sort, true), (Family::AddDigits, false), (Family::Sort, false)] {
        report.add(family, correct);
    }
    let names: Vec<&str> = report.families.iter().map(|entry| entry.family.name()).collect();
    assert_eq!(names, ["add_digits", "sort"]);
    assert!((report.mean_accuracy() - 0.25).abs() < 1e-12);
    assert!(Report::default().mean_accuracy() == 0.0);
}
