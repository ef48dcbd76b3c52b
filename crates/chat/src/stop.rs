//! Stop strings: text goes through until one of them begins, and no part of one ever goes out. Knows no
//! tokens.

use crate::{Error, Result};

/// Watches a stream of text for the first of several strings, wherever the pieces' borders fall.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that came and may be the beginning of a stop string.
    held: String,
    /// The one that was found.
    found: Option<String>,
}

impl StopStrings {
    /// # Errors
    /// [`Error::Parameter`] for an empty stop string.
    pub fn new(stops: &[String]) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            let reason = "a stop string is empty, so every answer would be".to_owned();
            return Err(Error::Parameter { name: "stop", reason });
        }
        Ok(Self { stops: stops.to_vec(), held: String::new(), found: None })
    }

    /// Takes the next piece and returns the text that is certain to stand before any stop string.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        if let Some((begin, stop)) = found.min_by_key(|(begin, _)| *begin) {
            self.found = Some(stop.clone());
            self.held.truncate(begin);
            return std::mem::take(&mut self.held);
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string has been found; nothing goes out any more.
    pub fn stopped(&self) -> bool {
        self.found.is_some()
    }

    /// The stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// Ends the stream and returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop` and not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|&bytes| text.as_bytes().ends_with(&stop.as_bytes()[..bytes])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_cutting_of_the_text_gives_what_stands_before_the_first_stop_string() {
        let check = |text: &str, stops: &[&str], expected: &str| {
            let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
            let borders: Vec<usize> = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect();
            for first in &borders {
                for second in borders.iter().filter(|&second| second >= first) {
                    let mut watch = StopStrings::new(&stops).unwrap();
                    let mut out = String::new();
                    for piece in [&text[..*first], &text[*first..*second], &text[*second..]] {
                        out += &watch.push(piece);
                        assert!(expected.starts_with(&out), "{out:?} went out of {text:?}");
                    }
                    out += &watch.finish();
                    assert_eq!(out, expected, "{text:?} cut at {first} and {second}");
                    assert_eq!(watch.stopped(), expected != text);
                }
            }
        };
        check("hello world", &[], "hello world");
        check("hello world", &["wor"], "hello ");
        check("hello world", &["world!"], "hello world");
        check("aaab", &["aab"], "a");
        check("ababac", &["abac"], "ab");
        check("一二三四", &["三四", "二三四五"], "一二");
        check("x\n\nHuman: y", &["\nHuman:", "\n\n"], "x");
        check("stop", &["stop"], "");
        check("abcd", &["abx", "bcd"], "a");
    }

    #[test]
    fn text_goes_out_as_soon_as_it_is_certain() {
        let mut watch = StopStrings::new(&["END".to_owned()]).unwrap();
        assert_eq!(watch.push("one E"), "one ");
        assert_eq!(watch.push("N"), "");
        assert_eq!(watch.push("ter"), "ENter");
        assert_eq!(watch.push("EN"), "");
        assert_eq!(watch.finish(), "EN");
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let message = StopStrings::new(&[String::new()]).unwrap_err().to_string();
        assert_eq!(message, "stop: a stop string is empty, so every answer would be");
    }
}
