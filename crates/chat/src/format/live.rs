//! Calls that are certain to be calls, handed on while they are written: their names, then their arguments piece by piece.
//! Knows neither reasoning nor text.
//!
//! An answer that is held to the grammar of its family's calls cannot turn out to be something else, so nothing has to wait for
//! the end of a call.

use super::{Block, Body};

/// Where an answer is within a block of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub block: Block,
    /// Whether a call began in this block.
    pub began: bool,
    /// Within arguments; `None` before, between and after calls.
    arguments: Option<Scan>,
}

/// What the held text begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A call of this name begins; so many bytes are read.
    Name(String, usize),
    /// So many bytes of arguments; and whether these are their last.
    Arguments(usize, bool),
    /// The block ends after so many bytes.
    Close(usize),
    /// More has to come.
    Nothing,
}

/// How deep in JSON the last byte was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Live {
    /// At the beginning of a block; `None` where the family's calls have to be read as a whole.
    pub fn begin(block: Block) -> Option<Live> {
        let by_pieces = matches!(block.body, Body::Json | Body::Llama | Body::Mistral | Body::DeepSeek);
        by_pieces.then_some(Live { block, began: false, arguments: None })
    }

    /// What comes next in the text that is held.
    pub fn next(&mut self, held: &str) -> Found {
        if let Some(scan) = &mut self.arguments {
            let (bytes, ended) = scan.read(held);
            if ended {
                self.arguments = None;
            }
            return if bytes == 0 { Found::Nothing } else { Found::Arguments(bytes, ended) };
        }
        let close = self.block.close.and_then(|close| Some((held.find(close)?, close.len())));
        match (self.head(held), close) {
            (Some((_, bytes)), Some((at, length))) if at < bytes => Found::Close(at + length),
            (Some((name, bytes)), _) => {
                (self.began, self.arguments) = (true, Some(Scan::default()));
                Found::Name(name, bytes)
            }
            (None, Some((at, length))) => Found::Close(at + length),
            (None, None) => Found::Nothing,
        }
    }

    /// The name of the call that begins in the text, and the bytes before its arguments.
    fn head(&self, held: &str) -> Option<(String, usize)> {
        let begin = held.find('{')?;
        match self.block.body {
            Body::Mistral if held.contains("[ARGS]") => {
                let (before, _) = held.split_once("[ARGS]")?;
                let name = before.rsplit("[TOOL_CALLS]").next().unwrap_or_default().trim();
                Some((name.to_owned(), begin)).filter(|_| begin >= before.len())
            }
            Body::DeepSeek => {
                let before = held[..begin].trim_end();
                let before = before.strip_suffix("```json").map(str::trim_end).unwrap_or(before);
                let mut parts = before.rsplit("<｜tool▁sep｜>");
                let last = parts.next().unwrap_or_default();
                let first = parts.next()?.rsplit("<｜tool▁call▁begin｜>").next().unwrap_or_default();
                let name = if last.trim().is_empty() { first } else { last };
                Some((name.trim().to_owned(), begin))
            }
            _ => keyed(held),
        }
    }
}

/// The name in `{"name": "…", "arguments": {`, and the bytes before the last brace.
fn keyed(held: &str) -> Option<(String, usize)> {
    let rest = |at: usize| held.get(at..).map(str::trim_start);
    let (key, at) = ["\"arguments\"", "\"parameters\""].into_iter().find_map(|key| {
        // A tool may be named so; then no colon follows.
        let is_key = |at: &usize| rest(at + key.len()).is_some_and(|rest| rest.starts_with(':'));
        Some((key, held.match_indices(key).map(|(at, _)| at).find(is_key)?))
    })?;
    let value = rest(at + key.len())?.strip_prefix(':')?.trim_start();
    let begin = value.starts_with('{').then(|| held.len() - value.len())?;
    let (_, name) = held[..at].split_once("\"name\"")?;
    let name = name.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    Some((name.split('"').next()?.to_owned(), begin))
}

impl Scan {
    /// Reads on, to the end of the value at most: the bytes read, and whether it ended.
    fn read(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}
