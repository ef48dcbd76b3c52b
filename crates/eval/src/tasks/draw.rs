//! Which operands belong to the training split and which to the test split.
//!
//! It must not know what is drawn.

/// One operand set in this many belongs to the test split.
const TEST_SHARE: u64 = 5;

/// Which items operands may appear in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Train,
    Test,
}

impl Split {
    /// The split of operands in canonical form: a hash of the text, the same on every machine.
    pub(super) fn of(key: &str) -> Split {
        // FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv/), then mixed so that low bits depend on all.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        if base::seed::mix(hash).is_multiple_of(TEST_SHARE) { Split::Test } else { Split::Train }
    }
}

/// A number in `low..=high`.
pub(super) fn between(draws: &mut base::seed::Rng, low: u64, high: u64) -> u64 {
    low + draws.below(high - low + 1)
}
