//! What this machine can train in some hours with this program: a ladder of models, the tokens that each sees, and its
//! memory. It must not measure: speeds are given.

use crate::memory::{Optimiser, TrainingShape, training, training_flops};
use model::{Config, Decoder};

/// Tokens a parameter below which more parameters do not help (Hoffmann et al. 2022, arXiv:2203.15556, find about 20).
pub const TOKENS_PER_PARAMETER: f64 = 20.0;
/// Tokens of a sequence and sequences of a micro-batch.
const CONTEXT: usize = 512;
const SEQUENCES: usize = 8;
/// Width, layers and vocabulary of the ladder's models; heads of 64.
const LADDER: [(usize, usize, usize); 12] = [
    (64, 4, 4_096),
    (128, 4, 4_096),
    (192, 6, 8_192),
    (256, 6, 8_192),
    (384, 8, 16_000),
    (512, 8, 32_000),
    (768, 12, 32_000),
    (1024, 16, 32_000),
    (1280, 20, 32_000),
    (1536, 24, 32_000),
    (2048, 24, 32_000),
    (2560, 32, 32_000),
];

/// A model of the ladder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Width of the residual stream.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Parameters.
    pub parameters: f64,
    /// Tokens that it sees in the time.
    pub tokens: f64,
    /// Memory of training it, in bytes, with activation checkpointing.
    pub memory_bytes: u64,
    /// Whether that fits.
    pub fits: bool,
}

impl Rung {
    /// Tokens that a parameter sees.
    pub fn tokens_per_parameter(&self) -> f64 {
        self.tokens / self.parameters
    }
}

/// Every model of the ladder on a machine that does `flops` operations a second in training steps, in `seconds`, with
/// `available_bytes` of memory and `threads`.
pub fn ladder(flops: f64, seconds: f64, available_bytes: u64, threads: usize) -> Vec<Rung> {
    let rung = |(width, layers, vocabulary): (usize, usize, usize)| {
        let config = Config::llama(vocabulary, width, layers, width / 64);
        let shape = TrainingShape {
            micro_batch_sequences: SEQUENCES,
            micro_batches: 1,
            context: CONTEXT,
            optimiser: Optimiser::AdamW,
            activation_checkpointing: true,
            threads,
            data_bytes: 0,
        };
        let memory_bytes = training(&config, &shape).total_bytes();
        let parameters = config.parameter_count() as f64;
        let lengths = [CONTEXT; SEQUENCES];
        let each = training_flops(&Decoder::new(config), lengths) / (CONTEXT * SEQUENCES) as f64;
        let tokens = flops * seconds / each;
        Rung { width, layers, parameters, tokens, memory_bytes, fits: memory_bytes <= available_bytes }
    };
    LADDER.into_iter().map(rung).collect()
}

/// The largest that fits and sees [`TOKENS_PER_PARAMETER`].
pub fn best(ladder: &[Rung]) -> Option<&Rung> {
    ladder.iter().rev().find(|rung| rung.fits && rung.tokens_per_parameter() >= TOKENS_PER_PARAMETER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn more_time_or_speed_trains_more_and_memory_limits_it() {
        let of = |flops, hours, memory| ladder(flops, hours * 3600.0, memory, 2);
        let night = of(4e11, 8.0, 24 << 30);
        let chosen = *best(&night).unwrap();
        assert!(chosen.tokens_per_parameter() >= TOKENS_PER_PARAMETER, "{chosen:?}");
        assert!(best(&of(4e11, 80.0, 24 << 30)).unwrap().parameters > chosen.parameters);
        assert!(best(&of(4e12, 8.0, 24 << 30)).unwrap().parameters > chosen.parameters);
        assert!(best(&of(4e12, 8.0, 1 << 30)).unwrap().memory_bytes <= 1 << 30);
        assert_eq!(best(&of(4e11, 8.0, 1 << 20)), None);
        for pair in night.windows(2) {
            assert!(pair[1].parameters > pair[0].parameters && pair[1].tokens < pair[0].tokens);
        }
    }
}
