//! Drops text that says the same again and again. It must not know what is said.

use super::Verdict;
use crate::text::quick_hash;
use crate::{Document, Kind, Reason};
use std::collections::{HashMap, HashSet};

/// The part of the bytes that may lie in lines which occurred before, in percent. Gopher's rules for prose are 30 % of
/// the lines and 20 % of their characters (Rae et al., "Scaling Language Models", 2021, table A1); documentation quotes
/// the same code again and again (Node.js's reaches 34 %), and code repeats itself by nature.
const fn repeated_percent_max(kind: Kind) -> usize {
    match kind {
        Kind::Text => 30,
        Kind::Markdown | Kind::Html => 40,
        Kind::Code => 60,
    }
}
/// Shorter lines ("}", "end", a heading's rule) may repeat as they like.
const LINE_BYTES_MIN: usize = 12;
/// Too little text to speak of repetition.
const TEXT_BYTES_MIN: usize = 400;

/// Code with at least so many lines of which half have one shape is a table: constants of a binding, rows of data.
const SHAPE_LINES_MIN: usize = 150;
const SHAPE_PERCENT_MAX: usize = 50;
/// "word word;" and its like are too plain a shape to tell a table.
const SHAPE_MARKS_MAX_PLAIN: usize = 3;

/// The part of one-line text that its most frequent run of sixteen characters may cover, in percent.
const WINDOW_CHARACTERS: usize = 16;
const WINDOW_PERCENT_MAX: usize = 25;
/// Where a text is of that sort, its beginning shows it.
const STRETCH_CHARACTERS_MAX: usize = 8_000;

/// Repeated lines; for code the repeated shape of lines; and for text of few lines repeated stretches.
pub fn check(document: &Document) -> Verdict {
    let text = document.text.as_str();
    if text.len() < TEXT_BYTES_MIN {
        return Verdict::Keep;
    }
    let is_code = document.kind == Kind::Code;
    let repeats = repeated_line_bytes(text) * 100 > repeated_percent_max(document.kind) * text.len();
    if repeats || (is_code && has_one_shape(text)) || (!is_code && has_one_stretch(text)) {
        return Verdict::Drop(Reason::Repetitive);
    }
    Verdict::Keep
}

fn repeated_line_bytes(text: &str) -> usize {
    let mut seen = HashSet::with_capacity_and_hasher(64, Passing);
    let long = text.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN);
    long.filter(|line| !seen.insert(quick_hash(line.as_bytes()))).map(str::len).sum()
}

/// Whether most lines have one shape. Comment lines are left out: they are sentences, whose few signs say nothing.
fn has_one_shape(text: &str) -> bool {
    let mut counts: HashMap<u64, usize, Passing> = HashMap::with_hasher(Passing);
    let mut lines = 0;
    for line in text.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN) {
        if line.starts_with("//") || line.starts_with('#') || line.starts_with('*') {
            continue;
        }
        lines += 1;
        let (shape, marks) = shape_of(line);
        if marks > SHAPE_MARKS_MAX_PLAIN {
            *counts.entry(shape).or_default() += 1;
        }
    }
    let most = counts.values().copied().max().unwrap_or(0);
    lines >= SHAPE_LINES_MIN && most * 100 > SHAPE_PERCENT_MAX * lines
}

/// A line's shape is its signs in order, each word or number between them replaced by one mark: a hash of it, and how
/// many marks it has.
fn shape_of(line: &str) -> (u64, usize) {
    let (mut hash, mut marks, mut in_word) = (0u64, 0, false);
    for byte in line.bytes() {
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        if is_word && in_word {
            continue;
        }
        in_word = is_word;
        let mark = if is_word { b'a' } else { byte };
        hash = (hash ^ u64::from(mark)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        marks += 1;
    }
    (hash, marks)
}

/// Whether one stretch of sixteen characters recurs so often that it alone fills a part of the text.
/// Occurrences that overlap count once; only the first 8,000 characters are looked at.
fn has_one_stretch(text: &str) -> bool {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).take(STRETCH_CHARACTERS_MAX).collect();
    let mut counts: HashMap<u64, Stretch, Passing> = HashMap::with_capacity_and_hasher(starts.len(), Passing);
    let mut most = 0;
    for (at, window) in starts.windows(WINDOW_CHARACTERS + 1).enumerate() {
        let bytes = &text.as_bytes()[window[0]..window[WINDOW_CHARACTERS]];
        let stretch = counts.entry(quick_hash(bytes)).or_default();
        if at >= stretch.free_from {
            stretch.free_from = at + WINDOW_CHARACTERS;
            // White space is layout.
            stretch.count +=
                usize::from(stretch.count > 0 || bytes.iter().any(|byte| !byte.is_ascii_whitespace()));
            most = most.max(stretch.count);
        }
    }
    most * WINDOW_CHARACTERS * 100 > WINDOW_PERCENT_MAX * starts.len()
}

#[derive(Default)]
struct Stretch {
    count: usize,
    free_from: usize,
}

/// The keys are hashes already, so the tables need no second one.
#[derive(Clone, Copy, Default)]
struct Passing;

impl std::hash::BuildHasher for Passing {
    type Hasher = PassingHasher;

    fn build_hasher(&self) -> PassingHasher {
        PassingHasher(0)
    }
}

struct PassingHasher(u64);

impl std::hash::Hasher for PassingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = quick_hash(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let spam = "Buy now, only today, best price!\n".repeat(30);
        let one_line_spam = "哈哈哈哈哈哈哈哈".repeat(60);
        let slogan = "点击这里领取红包，先到先得。".repeat(40);
        let bindings: String = (0..300)
            .map(|index| format!("pub const ERROR_NUMBER_{index}: WIN32_ERROR = {index}u32;\n"))
            .collect();
        let code: String = (0..120)
            .map(|index| {
                format!("fn step_{index}(x: u32) -> u32 {{\n    let y = x * {index};\n    y + 1\n}}\n\n")
            })
            .collect();
        let poem = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n床前明月光，疑是地上霜。举头望明月，低头思故乡。\n\
                    白日依山尽，黄河入海流。欲穷千里目，更上一层楼。\n千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。\n\
                    红豆生南国，春来发几枝。愿君多采撷，此物最相思。\n空山不见人，但闻人语响。返景入深林，复照青苔上。\n";
        super::super::assert_verdicts(
            check,
            Reason::Repetitive,
            &[
                (Kind::Text, &spam, true),
                (Kind::Text, &one_line_spam, true),
                (Kind::Text, &slogan, true),
                (Kind::Code, &bindings, true),
                (Kind::Code, &code, false),
                (Kind::Text, poem, false),
                (Kind::Text, "short short short", false),
            ],
        );
    }
}
