//! The text side of turning a web page into text: white space between words, lines and paragraphs, and menus left out.
//! It must not know how tags are read.

use super::html::Tag;
use super::html_entities::push_entity;

/// Elements that begin and end a line.
const BLOCKS: [&str; 33] = [
    "address",
    "article",
    "blockquote",
    "br",
    "caption",
    "center",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tbody",
    "thead",
    "tr",
    "ul",
];
/// Elements that are set apart by an empty line.
const PARAGRAPHS: [&str; 13] =
    ["p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "table", "ul", "ol", "article"];

/// So many lines in a row with nothing but links are a menu. Link density tells a page's frame from its text
/// (Kohlschütter et al., "Boilerplate Detection using Shallow Text Features", 2010, section 4).
const LINK_LINES_MIN: usize = 5;

/// The text so far, with the white space that is owed before the next word.
#[derive(Default)]
pub(super) struct Output {
    text: String,
    owes_space: bool,
    owed_line_ends: usize,
    preformatted: usize,
    is_in_link: bool,
    /// The lines so far; the last one is still growing.
    lines: Vec<Line>,
}

struct Line {
    /// Where it starts in the text.
    start: usize,
    /// Bytes of words in it, and how many of them belong to links.
    word_bytes: usize,
    link_bytes: usize,
}

impl Line {
    fn is_link(&self) -> bool {
        self.word_bytes > 0 && self.link_bytes * 10 >= self.word_bytes * 9
    }
}

impl Output {
    pub fn push_tag(&mut self, tag: &Tag<'_>) {
        if tag.is_one_of(&BLOCKS) {
            let wanted = if tag.is_one_of(&PARAGRAPHS) { 2 } else { 1 };
            self.owed_line_ends = self.owed_line_ends.max(wanted);
            if tag.is("br") {
                self.text.push_str(if self.preformatted > 0 { "\n" } else { "" });
            }
            if tag.is("li") && !tag.is_end {
                self.settle();
                self.text.push_str("- ");
            }
        } else if tag.is("td") || tag.is("th") {
            self.owes_space = true;
        }
        if tag.is("a") {
            self.is_in_link = !tag.is_end;
        }
        if tag.is("pre") {
            self.preformatted =
                if tag.is_end { self.preformatted.saturating_sub(1) } else { self.preformatted + 1 };
        }
    }

    pub fn push_text(&mut self, raw: &str) {
        if self.preformatted > 0 {
            let raw = if self.owed_line_ends > 0 { raw.trim_start_matches(['\r', '\n']) } else { raw };
            if !raw.is_empty() {
                self.push_word(raw);
            }
            return;
        }
        let space = |letter: char| letter.is_ascii_whitespace();
        for (index, word) in raw.split(space).enumerate() {
            self.owes_space |= index > 0;
            if !word.is_empty() {
                self.push_word(word);
            }
        }
    }

    fn push_word(&mut self, word: &str) {
        self.settle();
        push_decoded(&mut self.text, word);
        if let Some(line) = self.lines.last_mut() {
            line.word_bytes += word.len();
            line.link_bytes += if self.is_in_link { word.len() } else { 0 };
        }
    }

    /// The text without runs of lines that are nothing but links: menus, indexes, "related pages".
    pub fn finish(self) -> String {
        let mut text = String::with_capacity(self.text.len());
        let mut at = 0;
        while at < self.lines.len() {
            let same =
                self.lines[at..].iter().take_while(|line| line.is_link() == self.lines[at].is_link()).count();
            let end = self.lines.get(at + same).map_or(self.text.len(), |line| line.start);
            if !self.lines[at].is_link() || same < LINK_LINES_MIN {
                text.push_str(&self.text[self.lines[at].start..end]);
            }
            at += same;
        }
        text
    }

    /// Writes the white space that is owed.
    fn settle(&mut self) {
        let after_bullet = self.text == "- " || self.text.ends_with("\n- ");
        let ends_line = !self.text.is_empty() && !after_bullet && self.owed_line_ends > 0;
        if ends_line {
            let kept = self.text.trim_end_matches(' ').len();
            self.text.truncate(kept);
            let present = self.text.bytes().rev().take_while(|&byte| byte == b'\n').count();
            (present..self.owed_line_ends).for_each(|_| self.text.push('\n'));
        } else if self.owes_space && !self.text.is_empty() && !self.text.ends_with([' ', '\n']) {
            self.text.push(' ');
        }
        if ends_line || self.lines.is_empty() {
            self.lines.push(Line { start: self.text.len(), word_bytes: 0, link_bytes: 0 });
        }
        self.owes_space = false;
        self.owed_line_ends = 0;
    }
}

fn push_decoded(text: &mut String, raw: &str) {
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        rest = push_entity(text, &rest[at..]);
    }
    text.push_str(rest);
}
