//! Unigram language models (Kudo 2018, section 3.2): a word becomes the tokens whose scores have the highest sum.
//! Knows bytes, scores and ids; must not know how texts are cut into words.

use crate::trie::Trie;
use crate::vocabulary::Scratch;

/// How much worse an unknown character is than the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// A vocabulary with scores.
pub(crate) struct Unigram {
    trie: Trie,
    ids: Vec<u32>,
    scores: Vec<f64>,
    unknown_score: f64,
    unknown: Unknown,
}

/// What becomes of a run of characters that no token covers.
pub(crate) enum Unknown {
    /// It is this id.
    Id(u32),
    /// Each of its bytes has an id.
    Bytes(Box<[u32; 256]>),
}

/// The best way to a place in a word.
#[derive(Clone, Copy)]
pub(crate) struct Best {
    score: f64,
    start: u32,
    /// The token that ends there, or [`UNKNOWN`].
    token: u32,
}

const UNKNOWN: u32 = u32::MAX;
const UNREACHED: Best = Best { score: f64::NEG_INFINITY, start: u32::MAX, token: UNKNOWN };

impl Unigram {
    /// `tokens` are texts, scores and ids of what a text may become; special tokens are not among them.
    pub(crate) fn new(tokens: &[(&str, f64, u32)], unknown: Unknown) -> Unigram {
        let tokens: Vec<_> = tokens.iter().filter(|(text, ..)| !text.is_empty()).collect();
        let worst = tokens.iter().map(|token| token.1).fold(f64::INFINITY, f64::min);
        Unigram {
            trie: Trie::new(tokens.iter().map(|token| token.0.as_bytes())),
            ids: tokens.iter().map(|token| token.2).collect(),
            scores: tokens.iter().map(|token| token.1).collect(),
            unknown_score: worst - UNKNOWN_PENALTY,
            unknown,
        }
    }

    /// Appends the ids of one word, which is UTF-8.
    pub(crate) fn append(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let best = &mut scratch.best;
        best.clear();
        best.resize(word.len() + 1, UNREACHED);
        best[0].score = 0.0;
        let mut start = 0;
        while start < word.len() {
            let length = character_bytes(word[start]).min(word.len() - start);
            let score = best[start].score;
            let mut has_character = false;
            self.trie.prefixes(&word[start..], &mut |token, bytes| {
                reach(&mut best[start + bytes], score + self.scores[token as usize], start, token);
                has_character |= bytes == length;
            });
            if !has_character {
                reach(&mut best[start + length], score + self.unknown_score, start, UNKNOWN);
            }
            start += length;
        }
        let (first, mut end) = (ids.len(), word.len());
        // Backwards, so bytes too are pushed from the last one on.
        let mut after_unknown = false;
        while end > 0 {
            let Best { start, token, .. } = best[end];
            match (&self.unknown, token) {
                (Unknown::Id(id), UNKNOWN) if !after_unknown => ids.push(*id),
                (Unknown::Id(_), UNKNOWN) => {}
                (Unknown::Bytes(bytes), UNKNOWN) => {
                    ids.extend(word[start as usize..end].iter().rev().map(|&byte| bytes[usize::from(byte)]));
                }
                (_, token) => ids.push(self.ids[token as usize]),
            }
            after_unknown = token == UNKNOWN;
            end = start as usize;
        }
        ids[first..].reverse();
    }
}

/// Takes this way to a place if it is better than all so far.
fn reach(place: &mut Best, score: f64, start: usize, token: u32) {
    if place.start == u32::MAX || score > place.score {
        *place = Best { score, start: start as u32, token };
    }
}

/// The bytes of the character that begins with this one.
fn character_bytes(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}
