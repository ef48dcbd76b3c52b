//! WordPiece: a word is cut into the longest tokens from left to right, or is unknown as a whole.
//! Knows bytes and ids; must not know how texts are cut into words.

use crate::trie::{NO_TOKEN, Trie};

/// A WordPiece vocabulary (as BERT's; Wu et al. 2016, section 4.1, with greedy matching).
pub(crate) struct Words {
    /// What words begin with, and what they go on with.
    first: Pieces,
    inner: Pieces,
    unknown: u32,
    /// Longer words are unknown.
    characters_max: usize,
}

/// Tokens by their texts.
struct Pieces {
    trie: Trie,
    ids: Vec<u32>,
    lengths: Vec<u32>,
}

impl Words {
    /// `first` are the texts and ids that words begin with, `inner` those that they go on with, without their prefix.
    pub(crate) fn new(
        first: &[(&str, u32)],
        inner: &[(&str, u32)],
        unknown: u32,
        characters_max: usize,
    ) -> Words {
        Words { first: Pieces::new(first), inner: Pieces::new(inner), unknown, characters_max }
    }

    /// Appends the ids of one word.
    pub(crate) fn append(&self, word: &[u8], ids: &mut Vec<u32>) {
        let start = ids.len();
        let characters = word.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        let mut position = 0;
        while position < word.len() && characters <= self.characters_max {
            let pieces = if position == 0 { &self.first } else { &self.inner };
            let found = pieces.trie.longest(&word[position..]);
            if found == NO_TOKEN {
                break;
            }
            ids.push(pieces.ids[found as usize]);
            position += pieces.lengths[found as usize] as usize;
        }
        if position < word.len() {
            ids.truncate(start);
            ids.push(self.unknown);
        }
    }
}

impl Pieces {
    fn new(tokens: &[(&str, u32)]) -> Pieces {
        let tokens: Vec<_> = tokens.iter().filter(|(text, _)| !text.is_empty()).collect();
        Pieces {
            trie: Trie::new(tokens.iter().map(|(text, _)| text.as_bytes())),
            ids: tokens.iter().map(|token| token.1).collect(),
            lengths: tokens.iter().map(|token| token.0.len() as u32).collect(),
        }
    }
}
