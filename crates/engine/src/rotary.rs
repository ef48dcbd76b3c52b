//! The angles that a sequence's positions are turned by: one set for all, but for rope scalings that look at how long a
//! sequence may become. Knows neither rows nor steps.

use std::sync::{Arc, Mutex, PoisonError};

use model::Decoder;
use tensor::kernels::RotaryTable;

/// Sets of tables that are remembered beside the usual one.
const REMEMBERED: usize = 8;

/// The tables that a decoder's rotary embeddings name, in their order.
pub(crate) type Tables = Arc<[RotaryTable]>;

/// The tables of every length of sequence.
pub(crate) struct Rotary {
    /// By the lengths that decide over the frequencies; the first is that of short sequences.
    sets: Mutex<Vec<(Vec<usize>, Tables)>>,
}

impl Rotary {
    pub fn new(decoder: &Decoder) -> Self {
        Self { sets: Mutex::new(vec![(decoder.rotary_lengths(1), tables(decoder, 1))]) }
    }

    /// The tables of a sequence that may hold `tokens` tokens.
    pub fn of(&self, decoder: &Decoder, tokens: usize) -> Tables {
        let lengths = decoder.rotary_lengths(tokens);
        // A set is whole before it is listed.
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tables)) = sets.iter().find(|(known, _)| *known == lengths) {
            return tables.clone();
        }
        let tables = tables(decoder, tokens);
        if sets.len() > REMEMBERED {
            sets.remove(1);
        }
        sets.push((lengths, tables.clone()));
        tables
    }
}

fn tables(decoder: &Decoder, tokens: usize) -> Tables {
    decoder.rotary_tables(tokens, decoder.config().max_positions).into()
}
